"""Find the fastest file, backend, size and number of threads on this machine within an accuracy budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.protocols.summary import LEAST
from lf.benchmarks.report import pareto, web
from lf.benchmarks.report.header import header_of_network
from lf.benchmarks.run import results
from lf.benchmarks.run.predict import check_resize
from lf.benchmarks.run.record import Run
from lf.benchmarks.run.suite import timings
from lf.benchmarks.timing.record import Timing
from lf.core import Array, Artifact, GateFailed, LfError, UsageError, console, pick
from lf.extraction import auto
from lf.extraction.variant import Variant
from lf.models import check_size, row_of
from lf.models.resolve import resolve
from lf.quantize import SCHEMES, WRITERS
from lf.runtimes import BACKENDS
from lf.studies.accuracy_drop import choose, parse_budget
from lf.studies.sweep_files import make, with_decode
from lf.studies.sweep_plan import FLOAT, Data, Network, Plan, Row, located, name_of, writer_for
from lf.studies.sweep_runs import Runs

BUDGET = "repeatability=0.005,correctness@1=0.01,matching_score=0.01,localization_error=0.02"
BACKENDS_TRIED = ("ort-cpu", "openvino")  # by default, if they are installed
RESULTS = "results.json"
LEGEND = (
    "->: the fastest file whose mean drops are within the budget. *: no other file is at least as accurate, fast and "
    "small.\nDrops are from fp32 in the first backend, with paired 95 % intervals. not shown: the mean drop is within "
    f"the budget, but its interval is not, or there are fewer than {LEAST} pairs.\nms: median time from image to "
    "features. times the first: median ratio within a turn, with its 95 % interval; smaller is faster."
)


@dataclass(frozen=True)
class Tuned:
    """Candidates that were tried.

    Attributes:
        candidates: every file, backend, size and number of threads; fp32 in the first backend first.
        budget: metric -> largest drop of its mean.
        paths: sha256 -> file.
        out: folder of the results and the page.
    """

    candidates: Sequence[pareto.Candidate]
    budget: Mapping[str, float]
    paths: Mapping[str, Path]
    out: Path

    @property
    def best(self) -> pareto.Candidate | None:
        """The fastest within the budget, or None."""
        return pareto.fastest(self.candidates)

    def document(self) -> dict[str, Any]:
        """Return the best candidate, the Pareto front and the results file; JSON."""
        front = [one.answer for one in pareto.front(self.candidates)]
        return {"best": self.best and self.best.answer, "front": front, "results": str(self.out / RESULTS)}

    def page(self) -> str:
        """Format the table, its legend and the path of the report."""
        parts = [header_of_network(self.candidates[0].run), pareto.table(self.candidates, self.budget), LEGEND]
        return "\n\n".join([*parts, str(self.out / web.PAGE)])

    def enforce(self) -> None:
        """Raise GateFailed if nothing keeps the budget."""
        if self.best is None:
            said = ",".join(f"{name}={most:g}" for name, most in self.budget.items())
            raise GateFailed(f"nothing that was tried is within {said}; allow more, or try other formats and backends")

    def answer(self) -> str:
        """Format the fastest candidate within the budget, and its file."""
        assert self.best is not None
        return f"fastest within the budget: {self.best.name}, {self.paths[self.best.run.artifact.sha256 or '']}"


def tune(
    model: str,
    out: Path,
    images: Path | None,
    data: str,
    backend: str | None,
    scheme: str,
    threads: str,
    size: str | None,
    cut: str | None,
    max_drop: str,
    protocol: str,
    repeats: int,
    progress: console.Progress,
) -> Tuned:
    """Evaluate and time a network in backends, schemes, sizes and threads; for the parameters see `lf tune --help`.

    Raises:
        UsageError: a file is not float, or a name is unknown.
        Unavailable: a backend is not installed; raised before the work.
    """
    parent = resolve(model)
    if parent.card.scheme != FLOAT:
        raise UsageError(f"{parent.path}: is {parent.card.scheme}; give lf tune the float file that it was made from")
    budget, counts = parse_budget(max_drop), _counts(threads)
    choose(budget, protocol)
    tried = backend.split(",") if backend else [name for name in BACKENDS_TRIED if BACKENDS[name].installed]
    sizes = _sizes(size, protocol, parent)
    if cut not in (None, "features"):
        raise UsageError(f"`cut={cut}`: every file ends at its raw heads; `cut=features` tries the other end, too")
    plans = [
        _plan(model, images, data, name, scheme.split(","), protocol, of)
        for name in dict.fromkeys(tried)
        for of in dict.fromkeys(sizes)
    ]
    found, paths = _measured(plans, out, counts, bool(cut), repeats, progress)
    candidates = [pareto.judge(found[0], run, budget) for run in found]
    results.save(out / RESULTS, found)
    web.write(found, out / web.PAGE, candidates=candidates)
    return Tuned(candidates, budget, paths, out)


def _sizes(text: str | None, protocol: str, parent: Artifact) -> list[tuple[int, int] | None]:
    """Parse the input sizes to try; None is the size of the protocol."""
    sizes = [_size(each) for each in text.split(",")] if text else []
    for size in sizes:
        check_resize(pick(PROTOCOLS, protocol, "protocol"))
        check_size(size, row_of(parent.card), parent.card.model)
    return [None, *sizes]


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"`size={text}`: expected HEIGHTxWIDTH in pixels, for example `size=240x320`")
    return int(height), int(width)


def _counts(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"`threads={text}`: expected numbers from 1 on with commas, for example `threads=1,2`")
    return [*dict.fromkeys(map(int, words))]


def _plan(
    model: str,
    images: Path | None,
    data: str,
    backend: str,
    schemes: list[str],
    protocol: str,
    size: tuple[int, int] | None,
) -> Plan:
    """Plan a sweep over one network in one backend at one size, with the schemes that the backend runs."""

    for scheme in schemes:
        pick(SCHEMES, scheme, "scheme")
    rule = pick(PROTOCOLS, protocol, "protocol")
    writer = writer_for(backend, WRITERS, "`backend`")
    fits = tuple(scheme for scheme in schemes if scheme in WRITERS[writer].schemes)
    network = Network(name_of(model), model, fits, {}, {})
    return Plan(
        images=images,
        backend=backend,
        writer=writer,
        threads=1,
        repeats=0,
        data=(Data("data", data, *located(data, Path()), (rule.name,)),),
        networks=(network,),
        goals={},
        size=size,
    )


def _measured(
    plans: list[Plan], out: Path, counts: list[int], decoded: bool, repeats: int, progress: console.Progress
) -> tuple[list[Run], dict[str, Path]]:
    """Measure a run with latency for every file, backend, size and number of threads; fp32 of the first backend first.

    Also return the paths of the files by sha256.
    """

    (data,) = plans[0].data
    (protocol,) = data.protocols
    tried: list[tuple[Variant, int, Run]] = []
    left: list[str] = []
    for plan in plans:
        size = "x".join(map(str, plan.size or ()))
        runs = Runs(plan, out / plan.backend / size)
        place = out / size if WRITERS[plan.writer].one_size else out
        rows = make(plan, place, progress)
        if decoded:
            rows = [each for row in rows for each in (row, with_decode(row, place, progress)) if each]
        runs.evaluate(runs.todo(rows), progress, lambda: None)
        tried += [
            (Variant(row.artifact, plan.backend, size=plan.size), count, run)
            for row in rows
            for run in _kept(runs, row)
            for count in counts
            if row.artifact
        ]
        for row in rows:
            if why := row.refused or runs.failed.get((row.network, row.scheme), ""):
                console.note(f"lf: {row.scheme} for {plan.backend} is left out: {why}")
                left.append(why)
    if not tried:
        raise LfError(f"{out}: no file could be evaluated ({left[0]}); try another `backend` or `scheme`")
    variants, threads, measured = zip(*tried, strict=True)
    pair = Runs(plans[0], out).pairs(data, protocol)[0][0]
    times = timings(variants, pair, PROTOCOLS[protocol], threads, repeats, progress)
    _keep_choices(variants, threads, times, PROTOCOLS[protocol].prepare(pair.first.load(), 3)[0])
    found = [
        replace(run.timed(timing), environment=replace(run.environment, threads=count))
        for run, timing, count in zip(measured, times, threads, strict=True)
    ]
    return found, {variant.artifact.sha256: variant.artifact.path for variant in variants}


def _keep_choices(variants: Sequence[Variant], threads: Sequence[int], times: Sequence[Timing], picture: Array) -> None:
    """Store the fastest backend for each file and number of threads, for `auto`."""
    asked = {
        (variant.artifact.sha256, variant.size, count): variant
        for variant, count in zip(variants, threads, strict=True)
    }
    for (digest, size, count), variant in asked.items():
        network = {
            other.backend: timing.samples_ms.get("network", [])
            for other, own, timing in zip(variants, threads, times, strict=True)
            if (other.artifact.sha256, other.size, own) == (digest, size, count) and not timing.void
        }
        shown = picture if size is None else cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
        auto.keep(variant.artifact, count, shown, network)


def _kept(runs: Runs, row: Row) -> list[Run]:
    return [run for job in runs.jobs([row]) if (run := runs.kept(job))]
