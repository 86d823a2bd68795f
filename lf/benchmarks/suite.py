"""Several files in several engines over the same pairs, timed in turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lf.benchmarks import PROTOCOLS, figures, latency, results
from lf.benchmarks.predict import Variant
from lf.benchmarks.protocols import Protocol
from lf.benchmarks.run import Progress, bench
from lf.core import Artifact, UsageError, pick
from lf.data import Pair, open_dataset
from lf.models import MODELS
from lf.runtimes import BACKENDS

RESULTS = "results.json"


def suite(
    artifacts: Sequence[Artifact],
    backends: Sequence[str],
    data: str,
    protocol: str,
    *,
    limit_sequences: int | None = None,
    keypoints: str | None = None,
    threads: int = 1,
    repeats: int = 30,
    out: Path | None = None,
    pictures: bool = False,
    progress: Progress = lambda done, total, text: None,
) -> list[dict[str, Any]]:
    """Evaluate every file in every engine that runs it; the runs of a results file, in the order of the command line.

    `keypoints` names a baseline whose points every network describes. `out` keeps results.json and the features of
    every picture, from which an interrupted run resumes, and with `pictures` what they look like.

    Raises:
        UsageError: unknown names, a file or engine without its counterpart, or pictures without a place.
        Unavailable: an engine or the plots extra is not there; found before anything is computed.
    """
    if pictures and out is None:
        raise UsageError("--pictures needs --out DIR to draw into")
    rule = pick(PROTOCOLS, protocol, "protocol")
    variants = [Variant(artifact, backend, keypoints) for artifact, backend in pair_up(artifacts, backends)]
    pairs = open_dataset(data, limit_sequences, exclude=rule.without)
    for variant in variants:
        variant.open(threads)
    if pictures:
        figures.plotter()
    cache = out / "cache" if out else None
    runs = [bench(variant, pairs, data, rule, threads=threads, cache=cache, progress=progress) for variant in variants]
    if repeats:
        for run, timing in zip(runs, timings(variants, pairs[0], rule, threads, repeats, progress), strict=True):
            run.update(timing)
    if out:
        results.save(out / RESULTS, runs)
        if pictures:
            figures.draw(runs, variants, pairs, rule, cache, out / "pictures", progress)
    return runs


def pair_up(artifacts: Sequence[Artifact], backends: Sequence[str]) -> list[tuple[Artifact, str]]:
    """Every (file, engine) that fit together by the file's type.

    Raises:
        UsageError: an unknown engine, one without a file, or a file without an engine.
    """
    rows = {name: pick(BACKENDS, name, "backend") for name in backends}
    found = [(a, name) for a in artifacts for name, row in rows.items() if a.path.suffix in row.suffixes]
    for name, row in rows.items():
        if name not in {backend for _, backend in found}:
            takes = ", ".join(row.suffixes)
            raise UsageError(f"no file for backend {name}, which runs {takes}; lf export makes one; or leave it out")
    for artifact in artifacts:
        if artifact not in [a for a, _ in found]:
            fits = ", ".join(n for n, row in BACKENDS.items() if artifact.path.suffix in row.suffixes)
            raise UsageError(f"{artifact.path}: none of the backends {', '.join(backends)} runs it; add one of: {fits}")
    return found


def timings(
    variants: Sequence[Variant], pair: Pair, rule: Protocol, threads: int, repeats: int, progress: Progress
) -> list[dict[str, Any]]:
    """Latency on the first picture of a pair, prepared by the protocol, as each variant extracts it there."""
    channels = {MODELS[variant.artifact.card.model].channels for variant in variants}
    prepared, _ = rule.prepare(pair.first.load(), max(channels))
    return latency.measure(variants, prepared, rule, threads=threads, repeats=repeats, progress=progress)
