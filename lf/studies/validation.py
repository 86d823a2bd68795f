"""Validate weights during training by the protocols of the benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lf.benchmarks import METRICS, PROTOCOLS
from lf.benchmarks.report import figures, heat_maps, match_pictures
from lf.benchmarks.run.evaluate import bench
from lf.core import Array, files, pick
from lf.core.console import Progress
from lf.data import open_dataset
from lf.extraction.variant import Variant

if TYPE_CHECKING:
    from lf.train.boards import Board
    from lf.train.state import Run

SCALARS = 25  # steps between numbers on a board
LOG = "validation.jsonl"
FOLDER = "validation"  # holds the last validated weights, and images

Numbers = Mapping[str, float | None]


class Validation:
    """Evaluates the current resulting weights of a run under a protocol, on fixed pairs."""

    def __init__(self, data: str, protocol: str, limit: int, threads: int, best: str | None) -> None:
        """Open the dataset and choose its pairs.

        Args:
            data: see `lf.data.open_dataset`.
            protocol: row of PROTOCOLS.
            limit: largest number of pairs, chosen evenly.
            threads: number of threads of the engine.
            best: metric that selects the best weights to store; None stores none.

        Raises:
            UsageError: an unknown name, or a metric without a better direction.
            BadInput: the folder is not a valid dataset.
        """
        self.data, self.threads, self.best = data, threads, best
        self.rule = rule = pick(PROTOCOLS, protocol, "protocol")
        if best:
            better = {name: METRICS[name].higher_is_better for name in (*rule.metrics, *rule.aggregates)}
            judges = {name: 1 if higher else -1 for name, higher in better.items() if higher is not None}
            self.sign = pick(judges, best, f"judge of weights under {protocol}")
        pairs = open_dataset(data, exclude=rule.without)
        rule.check(pairs, data)
        self.pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(limit, len(pairs))).round().astype(int)]
        self.shown = next((pair for pair in self.pairs if pair.sequence.startswith("v_")), self.pairs[0])

    def __call__(self, run: Run, step: int) -> tuple[Numbers, dict[str, Array]]:
        """Return numbers, and images of one pair; write them to `validation.jsonl` and the folder `validation`."""
        from lf.train import state

        artifact = state.publish(run, run.out / FOLDER / f"{run.recipe.model}.safetensors", step)
        views = run.recipe.size if self.rule.truth == "classes" else None  # classes are learned at one scale
        variant = Variant(artifact, "torch", size=views)
        numbers: Numbers = bench(variant, self.pairs, self.data, self.rule, threads=self.threads).summary
        if self.best and self._leads(run.out / LOG, step, numbers[self.best]):
            files.write_bytes(run.out / f"{run.recipe.model}.best.safetensors", artifact.path.read_bytes())
        state.record(run.out / LOG, step, {"protocol": self.rule.name, "data": self.data, **numbers})
        drawn = self._draw(variant, f"{run.out.name} after {step} steps: {self.shown.sequence} {self.shown.name}")
        for name, picture in drawn.items():
            match_pictures.save(run.out / FOLDER / f"{step:07d}-{name}.png", picture)
        return numbers, drawn

    def _leads(self, log: Path, step: int, value: float | None) -> bool:
        """Return whether `value` is above those of all earlier steps."""
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        before = [line.get(self.best) for line in lines if line["step"] < step]
        rivals = [self.sign * other for other in before if other is not None]
        return value is not None and self.sign * value > max(rivals, default=-np.inf)

    def _draw(self, variant: Variant, title: str) -> dict[str, Array]:
        """Draw one pair at the protocol's size, see `figures.draw_pair`, and the score map of its first image."""
        extractor = variant.open(self.threads)
        drawn = figures.draw_pair(figures.predictor(extractor, self.rule, None), self.shown, title)
        if self.rule.truth == "classes":
            return drawn
        heat = heat_maps.draw(extractor, self.rule.prepare(self.shown.first.load(), 3)[0])
        return drawn if heat is None else {**drawn, "scores": heat}


class Watch:
    """Called by the loop after every step: validates at intervals, and reports to the boards."""

    def __init__(self, boards: Sequence[Board], validation: Validation | None, every: int, progress: Progress) -> None:
        """Validate every `every` steps and after the last step."""
        self.boards, self.validation, self.every, self.progress = boards, validation, every, progress
        self.pace: Mapping[str, float] = {}

    def __call__(self, run: Run, step: int) -> None:
        """See the class."""
        last = step == run.recipe.steps
        self.pace = run.pace
        if step % SCALARS == 0 or last:
            for board in self.boards:
                board.scalars(run, step, {f"train/{name}": value for name, value in run.numbers().items()})
        if self.validation and (step % self.every == 0 or last):
            self.progress(step, run.recipe.steps, "validating")
            numbers, drawn = self.validation(run, step)
            for board in self.boards:
                board.scalars(run, step, {f"validation/{name}": value for name, value in numbers.items()})
                for name, picture in drawn.items():
                    board.picture(run, step, f"validation/{name}", picture)

    def close(self) -> None:
        """Close the boards, so that they write everything."""
        for board in self.boards:
            board.close()
