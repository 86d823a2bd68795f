"""Several files in several engines over the same pairs, timed in turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lf.benchmarks import PROTOCOLS, latency
from lf.benchmarks.run import Progress, bench
from lf.core import Artifact, UsageError, pick
from lf.data import Pair, open_dataset
from lf.models import MODELS
from lf.runtimes import BACKENDS, open_session

Variant = tuple[Artifact, str]


def suite(
    artifacts: Sequence[Artifact],
    backends: Sequence[str],
    data: str,
    protocol: str,
    *,
    limit_sequences: int | None = None,
    threads: int = 1,
    repeats: int = 30,
    cache: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> list[dict[str, Any]]:
    """Evaluate every file in every engine that runs it; the runs of a results file, in the order of the command line.

    Raises:
        UsageError: unknown names, or a file or engine without its counterpart.
        Unavailable: an engine is not there; found before anything is computed.
    """
    rule = pick(PROTOCOLS, protocol, "protocol")
    variants = pair_up(artifacts, backends)
    pairs = open_dataset(data, limit_sequences, exclude=rule.without)
    for artifact, backend in variants:
        open_session(artifact, backend, threads)
    runs = [
        bench(artifact, backend, pairs, data, rule, threads=threads, cache=cache, progress=progress)
        for artifact, backend in variants
    ]
    if repeats:
        for run, timing in zip(runs, _timings(variants, pairs, protocol, threads, repeats, progress), strict=True):
            run.update(timing)
    return runs


def pair_up(artifacts: Sequence[Artifact], backends: Sequence[str]) -> list[Variant]:
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


def _timings(
    variants: Sequence[Variant], pairs: Sequence[Pair], protocol: str, threads: int, repeats: int, progress: Progress
) -> list[dict[str, Any]]:
    """Latency on the first picture, prepared by the protocol; one image per number of input channels."""
    rule = PROTOCOLS[protocol]
    image = pairs[0].first.load()
    channels = {MODELS[artifact.card.model].channels for artifact, _ in variants}
    prepared, _ = rule.prepare(image, 3 if len(channels) > 1 else channels.pop())
    pyramid = rule.size is None and all(MODELS[artifact.card.model].pyramid for artifact, _ in variants)
    return latency.measure(
        [(artifact.path, backend) for artifact, backend in variants],
        prepared,
        threads=threads,
        repeats=repeats,
        pyramid=pyramid,
        progress=progress,
    )
