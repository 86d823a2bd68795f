"""Shortest distinct names of runs and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lf.benchmarks.run.record import Run
from lf.extraction.variant import Variant


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """Make the labels of runs unique: runs with equal labels are named after their files instead of their models.

    Files with the same name are named by it and the first digits of their digest.
    """
    for called in (_by_file, _by_digest):
        labels = Counter(run.label for run in runs)
        runs = [called(run) if labels[run.label] > 1 else run for run in runs]
    return [*runs]


def _by_file(run: Run) -> Run:
    return replace(run, artifact=replace(run.artifact, model=run.artifact.stem))


def _by_digest(run: Run) -> Run:
    name = f"{run.artifact.model} {(run.artifact.sha256 or '')[:6]}".rstrip()
    return replace(run, artifact=replace(run.artifact, model=name))


def references(variants: Sequence[Variant], threads: Sequence[int] = ()) -> list[str]:
    """Return a unique name for each timed file, as `reference` takes it.

    `wren.w8a8`; if that is ambiguous, with the engine, then the threads, then the size; at last the whole path.
    """
    short = [variant.artifact.path.stem for variant in variants]
    engine = [f"{name}@{variant.backend}" for name, variant in zip(short, variants, strict=True)]
    counted = [f"{name} {count}t" for name, count in zip(engine, threads, strict=False)] or engine
    sizes = ["x".join(map(str, variant.size or ())) for variant in variants]
    sized = [f"{name} {size}".rstrip() for name, size in zip(counted, sizes, strict=True)]
    whole = [f"{variant.artifact.path}@{variant.backend}" for variant in variants]
    return next((names for names in (short, engine, counted, sized) if len({*names}) == len(names)), whole)
