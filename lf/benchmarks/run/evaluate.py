"""Evaluate a file in a backend over the pairs of a dataset: one record per pair, and means."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import count, groupby
from pathlib import Path
from typing import Any

from lf.benchmarks.protocols.protocol import Protocol
from lf.benchmarks.protocols.segmentation import class_scores
from lf.benchmarks.protocols.summary import CONFUSION, overview
from lf.benchmarks.run.predict import Memory, Predictor
from lf.benchmarks.run.record import Environment, Run, Subject
from lf.benchmarks.run.results import environment
from lf.benchmarks.run.segment import Segmenter
from lf.core import Artifact, BadInput, SessionInfo
from lf.data import Pair, Picture, dataset_digest
from lf.data.masks.units import Unit
from lf.extraction.extractor import Extractor
from lf.extraction.stream import in_order
from lf.extraction.variant import Variant

Progress = Callable[[int, int, str], None]


def bench(
    variant: Variant,
    pairs: Sequence[Pair],
    dataset: str,
    protocol: Protocol,
    *,
    threads: int = 1,
    workers: int = 1,
    cache: Path | None = None,
    extractor: Extractor | None = None,
    memory: Memory | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Run:
    """Evaluate one variant, without latency.

    Args:
        variant: file, engine and settings to evaluate.
        pairs: pairs to evaluate on, grouped by first image.
        dataset: name of the dataset.
        protocol: the protocol.
        threads: number of threads of each engine.
        workers: number of first images to process in parallel, with an engine each; results do not change.
        cache: folder for features; None keeps none.
        extractor: the opened variant; None opens it.
        memory: features of this extractor in memory, shared with other protocols; None keeps none.
        progress: (done, total, text), called per pair.

    Raises:
        UsageError: see `Protocol.check`.
        BadInput: an image was used to calibrate this file.
        LfError: see `Extractor`, `Predictor`.
    """
    protocol.check(pairs, dataset)
    refuse_leak(variant.artifact, pairs)
    extractor = extractor or variant.open(threads)
    name = f"{variant.artifact.path.name} {variant.backend}"
    records = _scores(extractor, pairs, protocol, (cache, memory), workers, _counted(progress, len(pairs), name))
    progress(len(pairs), len(pairs), name)
    info = extractor.session.info
    return assemble(evaluated(variant, info), environment(info, __name__), pairs, dataset, protocol, records)


def _counted(progress: Progress, total: int, name: str) -> Callable[[Pair], None]:
    """Return a function that counts a pair at each call, from any thread, and reports progress."""
    done, telling = count(), threading.Lock()

    def tell(pair: Pair) -> None:
        with telling:
            progress(next(done), total, f"{name} {pair.sequence} {pair.name}")

    return tell


def _scores(
    extractor: Extractor,
    pairs: Sequence[Pair],
    protocol: Protocol,
    kept: tuple[Path | None, Memory | None],
    workers: int,
    tell: Callable[[Pair], None],
) -> list[dict[str, Any]]:
    """Return one record for each pair, in their order."""

    def evaluate(extractor: Extractor, some: Sequence[Pair]) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        if units := [pair for pair in some if isinstance(pair, Unit)]:
            segment = Segmenter(extractor, protocol, kept[0])
            for unit in units:
                tell(unit)
                records.append({"sequence": unit.sequence, "pair": unit.name, **segment.score(unit)})
            return records
        predict = Predictor(extractor, protocol, *kept)
        first = predict(some[0].first)
        for pair in some:
            tell(pair)
            second = predict(pair.second)
            scores = protocol.score(first[0], second[0], protocol.between(pair, first[1], second[1]))
            records.append({"sequence": pair.sequence, "pair": pair.name, **scores})
        return records

    groups = [[*some] for _, some in groupby(pairs, lambda pair: pair.first.key)]
    with closing(in_order(extractor, groups, evaluate, workers)) as found:
        return [record for some in found for record in some]


def evaluated(variant: Variant, info: SessionInfo) -> Subject:
    """Return the subject of a run: file, engine and settings."""
    artifact = variant.artifact
    said = {
        "artifact": {
            **artifact.card.to_dict(),
            "file": artifact.path.name,
            "sha256": artifact.sha256,
            "bytes": artifact.bytes,
        },
        "keypoints": variant.keypoints,
        "input_size": variant.size and list(variant.size),
        "nms": variant.nms,
        "refine": variant.refine,
        "threshold": variant.threshold,
        "extraction": variant.extraction,
        "backend": variant.backend,
        "provider": info.provider,
    }
    return Subject.from_dict(said, str(artifact.path))


def refuse_leak(artifact: Artifact, pairs: Sequence[Pair]) -> None:
    """Raise BadInput if an image of `pairs`, or its source image, was used to calibrate `artifact`."""
    refuse_calibrated(artifact, (picture for pair in pairs for picture in (pair.first, pair.second)))


def refuse_calibrated(artifact: Artifact, pictures: Iterable[Picture]) -> None:
    """Raise BadInput if an image, or its source image, was used to calibrate `artifact`."""
    used = {sha256: name for step in artifact.card.made for sha256, name in step.photos.items()}
    for picture in pictures:
        if name := used.get(picture.digest) or used.get(picture.source):
            raise BadInput(
                f"{artifact.path} was calibrated on {name}, which is {picture.key} of the benchmark; "
                "quantize it again with other images"
            )


def assemble(
    subject: Subject,
    machine: Environment,
    pairs: Sequence[Pair],
    dataset: str,
    protocol: Protocol,
    records: list[dict[str, Any]],
) -> Run:
    """Assemble a run without latency from the evaluated `subject`, the `machine` and the records."""
    said = {
        **subject.to_dict(),
        "protocol": protocol.name,
        "protocol_digest": protocol.digest,
        "protocol_details": protocol.describe(),
        "dataset": dataset,
        "dataset_digest": dataset_digest(pairs),
        "environment": machine,
        **overview(records, protocol.aggregates),
        "latency_ms": None,
        "pairs": records,
        **_classes(pairs, records),
    }
    return Run.from_dict(said, dataset)


def _classes(pairs: Sequence[Pair], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the field `classes` of a run with confusion matrices."""
    if not (pairs and isinstance(pairs[0], Unit) and CONFUSION in records[0]):
        return {}
    rows, found = pairs[0].labelled.classes.classes, class_scores([record[CONFUSION] for record in records])
    return {
        "classes": [
            {"name": row.name, "iou": found[n][0] if n in found else None, "pixels": found[n][1] if n in found else 0}
            for n, row in enumerate(rows)
            if not row.ignored
        ]
    }
