"""Quantize within a budget: search on half of the pairs, confirm on the other half."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import Artifact, BadModel, ConversionFailed, GateFailed, LfError
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.quantize import BITS, Progress, open_photos, quantize
from lf.quantize.calibrate.photos import SIZE, pinned
from lf.quantize.calibrate.ranges import shapes
from lf.quantize.round.weight_grids import parameters
from lf.quantize.search.bits import EXACT, WIDEST_INTEGER, Bits, Layer, Spent, cheapest, cost, excess, strain
from lf.quantize.search.journal import Journal
from lf.quantize.search.sensitivity import ACTIVATIONS, WEIGHTS, Drop, Drops, Evaluate, Layers, studied
from lf.quantize.write import checks, ort
from lf.quantize.write.head_layers import last_convolutions


@dataclass(frozen=True)
class Task:
    """Task of a search: file, scheme, budget, data.

    Attributes:
        artifact: a float ONNX file.
        scheme: row of SCHEMES; its bits are raised where needed.
        images: folder of calibration photos.
        budget: metric -> largest drop of its mean.
        search: evaluates on the pairs of the search.
        confirm: evaluates on other pairs.
        evaluations: largest number of evaluations on the pairs of the search.
        asked: layer or head -> fixed bits, which are not searched.
        options: further arguments of `quantize`.
        about: split of the pairs, for the card; JSON.
    """

    artifact: Artifact
    scheme: str
    images: Path | None
    budget: Mapping[str, float]
    search: Evaluate
    confirm: Evaluate
    evaluations: int
    asked: Mapping[str, int]
    options: Mapping[str, Any]
    about: Mapping[str, Any]


class Search:
    """One search. A journal stores its evaluations, so that it can resume."""

    def __init__(self, task: Task, journal: Journal, progress: Progress) -> None:
        """Read the file.

        Raises:
            UsageError: the scheme has no bits to raise.
        """
        self.task, self.journal, self.progress = task, journal, progress
        self.layers = _ladders(task)
        self.used: set[str] = set()
        self._scan: Layers | None = None

    def drops(self, bits: Bits, evaluate: Evaluate, where: str = "search") -> Drops | None:
        """Return the drops of the file with these bits; None if it cannot be made, or gives non-finite values."""
        row = self._once(f"{where} {self._words(bits)}", where == "search", partial(self._evaluated, bits, evaluate))
        return None if row["failed"] else {metric: Drop(**drop) for metric, drop in row["drops"].items()}

    def keeps(self, bits: Bits) -> bool:
        """Return whether these bits keep the budget on the pairs of the search."""
        found = self.drops(bits, self.task.search)
        return found is not None and excess(found, self.task.budget) <= EXACT

    def rank(self, low: Bits, high: Bits) -> list[str]:
        """Sort the layers that differ by the gain of their step from `low`: their drop alone in float, ties by noise.

        Noise is measured for every layer. Drops are measured for the noisiest, with half of the remaining evaluations.
        """
        names = [name for name in self.layers if low[name] != high[name]]
        parts = {name: [WEIGHTS] if high[name] <= WIDEST_INTEGER else self._parts() for name in names}
        noise = {name: self._noise(name, parts[name], low[name]) for name in names}
        names.sort(key=lambda name: noise[name])
        alone = {}
        for name in names[: (self.task.evaluations - len(self.used)) // 2]:
            key = f"alone {name} {'+'.join(parts[name])} {low[name]}"
            row = self._once(key, True, partial(self._alone, name, parts[name], low[name]))
            alone[name] = strain({metric: Drop(**drop) for metric, drop in row["drops"].items()}, self.task.budget)
        return sorted(names, key=lambda name: (-alone.get(name, -1.0), noise[name]))

    def made(self, bits: Bits, out: Path) -> Artifact:
        """Quantize the file with these bits."""
        asked, options = {**bits, **self.task.asked}, {**self.task.options}
        if self.task.images is None:
            options.pop("seed", None)  # the seed of the split of pairs
        return quantize(self.task.artifact, self.task.scheme, self.task.images, out, bits=asked, **options)

    def _words(self, bits: Bits) -> str:
        above = (f"{name}={bits[name]}" for name, row in self.layers.items() if bits[name] > row.ladder[0])
        return ",".join(above) or "alone"

    def _evaluated(self, bits: Bits, evaluate: Evaluate) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="lf-quantize-") as folder:
            try:
                drops = evaluate(self.made(bits, Path(folder, "tried.onnx")), self._told)
            except BadModel as error:
                if error.path == self.task.artifact.path:
                    raise
                return {"bits": dict(bits), "drops": {}, "failed": error.what}
            except (ConversionFailed, GateFailed) as error:
                return {"bits": dict(bits), "drops": {}, "failed": str(error)}
        return {"bits": dict(bits), "drops": {m: asdict(drop) for m, drop in drops.items()}, "failed": None}

    def _alone(self, name: str, parts: list[str], bits: int) -> dict[str, Any]:
        with self._single().opened(name, parts, bits) as variant:
            return {"drops": {m: asdict(drop) for m, drop in self.task.search(variant, self._told).items()}}

    def _noise(self, name: str, parts: list[str], bits: int) -> float:
        def find() -> dict[str, Any]:
            with self._single().opened(name, parts, bits) as variant:
                return {"sqnr_db": self._single().sqnr(variant)}

        found = self.journal.once(f"noise {name} {'+'.join(parts)} {bits}", find)["sqnr_db"]
        return min((value for value in found.values() if value is not None), default=float("inf"))

    def _single(self) -> Layers:
        if self._scan is None:
            options = {k: v for k, v in self.task.options.items() if k in ("calibration", "limit", "seed", "exclude")}
            photos = open_photos(self.task.scheme, self.task.images, **options)
            self._scan = Layers(self.task.artifact, self.task.scheme, photos)
        return self._scan

    def _parts(self) -> list[str]:
        return [WEIGHTS, ACTIVATIONS] if studied(self.task.scheme).calibrated else [WEIGHTS]

    def _once(self, key: str, counted: bool, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a row of the journal. Evaluations of an earlier run count: a resumed run takes the same path."""
        if counted and key not in self.used:
            if len(self.used) >= self.task.evaluations:
                raise Spent(f"all {self.task.evaluations} evaluations are used up")
            self.used.add(key)
        return self.journal.once(key, find)

    def _told(self, done: int, total: int, text: str) -> None:
        count = len(self.used)
        self.progress((count - 1) * total + done, self.task.evaluations * total, f"evaluation {count}: {text}")


def search(task: Task, out: Path, journal: Journal, progress: Progress = lambda done, total, text: None) -> Artifact:
    """Find the cheapest bits that keep the budget, confirm them, and write the file.

    Args:
        task: the task.
        out: the file to write.
        journal: journal of this task.
        progress: called with (done, total, text); the total is the limit of evaluations.

    Raises:
        GateFailed: no bits keep the budget, or they keep it on the pairs of the search but not on the others; nothing
            is written.
        UsageError: see `quantize`.
    """
    run = Search(task, journal, progress)
    found = cheapest(run.layers, run.keeps, run.rank)
    if found is None:
        raise GateFailed(f"{task.artifact.path}: {_nearest(run)}; nothing was written, allow more with `max_drop`")
    on_search, on_others = run.drops(found, task.search), run.drops(found, task.confirm, "confirm")
    assert on_search is not None
    if on_others is None or excess(on_others, task.budget) > EXACT:
        raise GateFailed(
            f"{task.artifact.path}: the bits that keep the budget on the pairs of the search do not on the others "
            f"({_figures(on_others or {}, task.budget)}); nothing was written, try more pairs or a wider `max_drop`"
        )
    with tempfile.TemporaryDirectory(prefix="lf-quantize-") as folder:
        made = run.made(found, Path(folder, out.name))
        figures = {
            "budget": dict(task.budget),
            **task.about,
            "evaluations": len(run.used),
            "raised": {name: bits for name, bits in found.items() if bits > run.layers[name].ladder[0]},
            "drops": {
                name: {metric: asdict(drop) for metric, drop in drops.items()}
                for name, drops in (("search", on_search), ("confirm", on_others))
            },
            "cost": _costs(run, found, made, Path(folder)),
        }
        *before, last = made.card.made
        card = replace(made.card, made=(*before, replace(last, search=figures)))
        return model_file.save(out, made.path.read_bytes(), card)


def _costs(run: Search, found: Bits, made: Artifact, folder: Path) -> dict[str, Any]:
    """Return costs relative to the plain scheme: multiply-adds, bytes of weights, time; None if that cannot be made."""
    lowest = {name: row.ladder[0] for name, row in run.layers.items()}
    ours, alone = cost(run.layers, found), cost(run.layers, lowest)
    try:
        ratio = checks.time_ratio(run.made(lowest, folder / "alone.onnx"), made) if found != lowest else 1.0
    except LfError:
        ratio = None
    return {
        "predicted_time": round(ours.time / alone.time, 4),
        "weights": round(ours.bytes / alone.bytes, 4),
        "measured_time": ratio and round(ratio, 3),
    }


def _ladders(task: Task) -> dict[str, Layer]:
    """Return the layers with their ladders; layers with fixed bits, or float in the scheme, have a single step.

    The top is 32 for the last convolution of a head, and 16 for others. It is 16 for all if a naive scheme also
    quantizes the operators after the heads: between integer operators, only stored integers stay float.
    """
    scheme, reference = studied(task.scheme), Extractor(pinned(task.artifact), "ort-cpu")
    with tempfile.TemporaryDirectory(prefix="lf-quantize-") as folder, ort.quiet():
        graph = ort.prepared(task.artifact.path, Path(folder, "prepared.onnx"))
    bits = ort.bits_of(graph, reference.model, scheme, task.asked, task.artifact)
    heads = {head: last_convolutions(graph, head) for head in reference.model.heads}
    fixed = {layer for name in task.asked for layer in heads.get(name, [name])}
    last = {layer for layers in heads.values() for layer in layers}
    written = {node.name: node.output[0] for node in graph.graph.node if node.name in bits}
    picture = np.zeros((1, reference.model.channels, *(reference.artifact.card.size or SIZE)), np.float32)
    seen = shapes(graph, [*written.values()], picture)
    found = {}
    for name, (weights, _) in parameters(graph, bits).items():
        ladder: tuple[int, ...] = (bits[name],)
        if bits[name] <= WIDEST_INTEGER and name not in fixed:
            narrow = [b for b in BITS if scheme.weights <= b <= WIDEST_INTEGER]
            ladder = (*narrow, 32 if name in last and not scheme.naive else 16)
        height, width = seen[written[name]][2:]
        found[name] = Layer(ladder, height * width * weights.size, weights.size)
    return found


def _nearest(run: Search) -> str:
    """Describe the assignment that came nearest, for the error if nothing was found."""
    rows = [row for key, row in run.journal.rows.items() if key in run.used and key.startswith("search ")]
    tried = [{m: Drop(**drop) for m, drop in row["drops"].items()} for row in rows if not row["failed"]]
    if not tried:
        return f"no file could be made: {rows[-1]['failed']}" if rows else "no evaluation is allowed"
    best = min(tried, key=lambda drops: excess(drops, run.task.budget))
    return f"none of {len(run.used)} evaluations is within the budget, the nearest is {_figures(best, run.task.budget)}"


def _figures(drops: Drops, budget: Mapping[str, float]) -> str:
    words = []
    for metric, limit in budget.items():
        drop = drops[metric].drop if metric in drops else None
        words.append(f"{metric} {'undefined' if drop is None else f'{drop:+.4f}'} of {limit:g}")
    return ", ".join(words)
