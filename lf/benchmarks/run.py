"""One run: an artifact in a backend, over pairs, under a protocol -> one record per pair and their means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lf.benchmarks.predict import Native, Predictor, Variant
from lf.benchmarks.protocols import Protocol
from lf.benchmarks.results import environment
from lf.benchmarks.summary import overview
from lf.core import Artifact, BadInput, Features, SessionInfo
from lf.data import Pair, Picture, dataset_digest

Progress = Callable[[int, int, str], None]


def bench(
    variant: Variant,
    pairs: Sequence[Pair],
    dataset: str,
    protocol: Protocol,
    *,
    threads: int = 1,
    cache: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> dict[str, Any]:
    """Evaluate one variant; the returned run has the layout of `lf.benchmarks.results`, without latency.

    Raises:
        BadInput: a picture was used to calibrate this file.
        LfError: see `Extractor`, `Predictor`.
    """
    artifact, backend = variant.artifact, variant.backend
    refuse_leak(artifact, pairs)
    extractor = variant.open(threads)
    predict = Predictor(extractor, protocol, cache)
    known: dict[str, tuple[Features, Native]] = {}
    records: list[dict[str, Any]] = []
    for index, pair in enumerate(pairs):
        progress(index, len(pairs), f"{artifact.path.name} {backend} {pair.sequence} {pair.name}")
        known = {key: value for key, value in known.items() if key == pair.first.key or index == 0}
        first, second = (_features(picture, known, predict) for picture in (pair.first, pair.second))
        homography = protocol.homography(np.asarray(pair.homography), first[1], second[1])
        scores = protocol.score(first[0], second[0], homography)
        records.append({"sequence": pair.sequence, "pair": pair.name, **scores})
    progress(len(pairs), len(pairs), f"{artifact.path.name} {backend}")
    info = extractor.session.info
    return assemble(evaluated(variant, info), environment(info), pairs, dataset, protocol, records)


def evaluated(variant: Variant, info: SessionInfo) -> dict[str, Any]:
    """What a run says of what was evaluated."""
    artifact = variant.artifact
    return {
        "artifact": {
            **asdict(artifact.card),
            "file": artifact.path.name,
            "sha256": artifact.sha256,
            "bytes": artifact.bytes,
        },
        "keypoints": variant.keypoints,
        "input_size": variant.size and list(variant.size),
        "backend": variant.backend,
        "provider": info.provider,
    }


def _features(
    picture: Picture, known: dict[str, tuple[Features, Native]], predict: Predictor
) -> tuple[Features, Native]:
    if picture.key not in known:
        known[picture.key] = predict(picture)
    return known[picture.key]


def refuse_leak(artifact: Artifact, pairs: Sequence[Pair]) -> None:
    """Raise BadInput if a picture of `pairs` is among the images that calibrated `artifact`."""
    manifests = (step["calibration"] for step in artifact.card.made if "calibration" in step)
    used = {file["sha256"]: file["name"] for manifest in manifests for file in manifest["files"]}
    for pair in pairs:
        for picture in (pair.first, pair.second):
            if picture.digest in used:
                raise BadInput(
                    f"{artifact.path} was calibrated on {used[picture.digest]}, which is {picture.key} of the "
                    "benchmark; quantize it again with other images"
                )


def assemble(
    subject: dict[str, Any],
    machine: dict[str, Any],
    pairs: Sequence[Pair],
    dataset: str,
    protocol: Protocol,
    records: list[dict[str, Any]],
) -> dict[str, Any]:
    """A run of `lf.benchmarks.results`: `subject` says what was evaluated, `machine` where."""
    return {
        **subject,
        "protocol": protocol.name,
        "protocol_digest": protocol.digest,
        "protocol_details": protocol.describe(),
        "dataset": dataset,
        "dataset_digest": dataset_digest(pairs),
        "environment": machine,
        **overview(records, protocol.aggregates),
        "latency_ms": None,
        "pairs": records,
    }
