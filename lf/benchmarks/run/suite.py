"""Evaluate several files in several engines on the same pairs, and time them in turns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.protocols.protocol import Protocol
from lf.benchmarks.report import figures
from lf.benchmarks.run import results
from lf.benchmarks.run.evaluate import Progress, assemble, bench, evaluated
from lf.benchmarks.run.names import references
from lf.benchmarks.run.predict import check_resize
from lf.benchmarks.run.record import Run, Subject
from lf.benchmarks.run.results import environment
from lf.benchmarks.run.segment import check_classes
from lf.benchmarks.timing import latency
from lf.benchmarks.timing.record import Timing
from lf.core import Array, Artifact, SessionInfo, UsageError, pick
from lf.data import Pair, dataset_digest, open_dataset
from lf.data.images import list_images, read
from lf.data.kept import kept
from lf.data.masks.units import Unit
from lf.extraction import agreement, auto
from lf.extraction.store import backend_for
from lf.extraction.variant import Variant
from lf.models import row_of
from lf.runtimes import BACKENDS, backends_for

RESULTS = "results.json"
LATENCY = "latency.json"
DRAWN = (480, 640)  # (H, W) px of the timed image if the protocol has no size


def suite(
    artifacts: Sequence[Artifact],
    backends: Sequence[str] | None,
    data: str,
    protocol: str,
    *,
    limit_sequences: int | None = None,
    keypoints: str | None = None,
    size: tuple[int, int] | None = None,
    nms: int | None = None,
    refine: str | None = None,
    threshold: float | None = None,
    extraction: str | None = None,
    threads: int = 1,
    workers: int = 1,
    repeats: int = 30,
    out: Path | None = None,
    draw: bool = False,
    pool: str | None = None,
    needs: Mapping[str, float] | None = None,
    progress: Progress = lambda done, total, text: None,
) -> list[Run]:
    """Evaluate every file in every engine that runs it; return runs in the order of the command line.

    `workers` is the number of images in parallel, see `bench`. `keypoints` names a baseline; every network describes
    its points. `size` is the size of network inputs, `nms` the radius of suppression, `refine` the sub-pixel method,
    `threshold` the smallest score, `extraction` the published extraction, see `Variant`. `out` holds results.json and
    the features of every image, so that an interrupted run resumes, and with `draw` images of pairs. `pool` is a row of
    POOLS: its machines evaluate the variants. `needs` are their required resources, see `lf.benchmarks.run.pooled`.

    Raises:
        UsageError: unknown names, a file or engine without its counterpart, or `draw` without `out`.
        Unavailable: an engine or the plots extra is missing; raised before anything is computed.
    """
    if draw and out is None:
        raise UsageError("`draw` needs a folder to draw into; type: `out=DIR`")
    if draw and pool:
        raise UsageError("`draw` needs the features on this machine; leave out `pool`")
    if needs and not pool:
        raise UsageError("`needs` says what the machines of a pool must have; type: `pool=ray`")
    variants = [
        Variant(*pair, keypoints, size, nms, refine, threshold, extraction=extraction)
        for pair in pair_up(artifacts, backends, threads, pick(PROTOCOLS, protocol, "protocol"))
    ]
    how: dict[str, Any] = {"limit_sequences": limit_sequences, "threads": threads, "workers": workers}
    how |= {"repeats": repeats, "out": out, "progress": progress}
    if pool:
        from lf.benchmarks.run.pooled import evaluate_in_pool

        return evaluate_in_pool(variants, data, protocol, pool, needs or {}, **how)
    return evaluate_variants(variants, data, protocol, draw=draw, **how)


def evaluate_variants(
    variants: Sequence[Variant],
    data: str,
    protocol: str,
    *,
    limit_sequences: int | None = None,
    threads: int = 1,
    workers: int = 1,
    repeats: int = 0,
    out: Path | None = None,
    draw: bool = False,
    progress: Progress = lambda done, total, text: None,
) -> list[Run]:
    """Evaluate variants on the same pairs; see `suite`."""
    rule = pick(PROTOCOLS, protocol, "protocol")
    pairs = open_dataset(data, limit_sequences, exclude=rule.without)
    rule.check(pairs, data)
    opened = [variant.open(threads) for variant in variants]
    infos = [extractor.session.info for extractor in opened]
    _refuse([evaluated(*each) for each in zip(variants, infos, strict=True)], rule, pairs, out)
    if units := [pair for pair in pairs if isinstance(pair, Unit)]:
        for extractor in opened:
            check_classes(extractor, units[0].labelled.classes)
    if draw:
        figures.plotter()
    shown = kept(pairs) if len(variants) > 1 else pairs
    cache = out / "cache" if out else None
    how: dict[str, Any] = {"threads": threads, "workers": workers, "cache": cache, "progress": progress}
    runs = [
        bench(variant, shown, data, rule, extractor=extractor, **how)
        for variant, extractor in zip(variants, opened, strict=True)
    ]
    if repeats:
        times = timings(variants, pairs[0], rule, threads, repeats, progress)
        runs = [run.timed(timing) for run, timing in zip(runs, times, strict=True)]
    if out:
        results.save(out / RESULTS, runs)
        if draw:
            figures.draw(runs, opened, pairs, rule, cache, out / "pictures", progress)
    return runs


def _refuse(subjects: Sequence[Subject], rule: Protocol, pairs: Sequence[Pair], out: Path | None) -> None:
    """Check the engines and the folder before anything is computed."""
    for subject in subjects:
        results.refuse_stand_in(subject)
    if out:
        digest = dataset_digest(pairs)
        results.refuse_others(out / RESULTS, [subject.identity(rule.digest, digest) for subject in subjects])


def pair_up(
    artifacts: Sequence[Artifact], backends: Sequence[str] | None, threads: int = 1, rule: Protocol | None = None
) -> list[tuple[Artifact, str]]:
    """Return all matching (file, engine); without engines, each file with the first installed engine that runs it.

    The name `auto` stands for the engine that is fastest here for the images of `rule`, see `lf.extraction.auto`.

    Raises:
        UsageError: an unknown engine, one without a file, or a file without an engine.
        Unavailable: no engine for a file is installed.
    """
    if backends is None:
        return [(artifact, backend_for(artifact)) for artifact in artifacts]
    rows = {name: pick(BACKENDS, name, "backend") for name in backends if name != auto.AUTO}
    found = [(a, name) for a in artifacts for name in rows if name in backends_for(a.path)]
    if auto.AUTO in backends:
        shown = _picture(None, (rule and rule.size) or DRAWN)[1]
        fastest = [(a, auto.named(a, auto.AUTO, threads, lambda: shown)) for a in artifacts]
        found += [pair for pair in fastest if pair not in found]
    for name, row in rows.items():
        if name not in {backend for _, backend in found}:
            takes = ", ".join(row.suffixes)
            raise UsageError(
                f"backend {name} runs {takes} files; none was given. Type: {row.maker}, or leave {name} out"
            )
    for artifact in artifacts:
        if artifact not in [a for a, _ in found]:
            fits = ", ".join(backends_for(artifact.path))
            raise UsageError(f"{artifact.path}: none of the backends {', '.join(backends)} runs it; add one of: {fits}")
    return found


def timings(
    variants: Sequence[Variant],
    pair: Pair,
    rule: Protocol,
    threads: int | Sequence[int],
    repeats: int,
    progress: Progress,
    reference: int = 0,
) -> list[Timing]:
    """Measure the latency of each variant on the first image of a pair, prepared by the protocol.

    Ratios are relative to the variant with the index `reference`.
    """
    prepared = _prepared(variants, pair.first.load(), rule)
    return latency.measure(
        variants, prepared, rule, threads=threads, repeats=repeats, reference=reference, progress=progress
    )


def latencies(
    artifacts: Sequence[Artifact],
    backends: Sequence[str] | None,
    protocol: str,
    *,
    photo: Path | None = None,
    keypoints: str | None = None,
    size: tuple[int, int] | None = None,
    extraction: str | None = None,
    threads: int = 1,
    repeats: int = 30,
    reference: str | None = None,
    out: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> list[Run]:
    """Time every file in every engine that runs it, on one image of the protocol's size; runs without pairs.

    Args:
        artifacts: model files.
        backends: rows of BACKENDS; None takes for each file the first that runs it.
        protocol: row of PROTOCOLS, for the size and the extraction.
        photo: image to time, or a folder: its first image; None draws an image.
        keypoints: see `suite`.
        size: see `suite`.
        extraction: see `suite`.
        threads: number of threads of every engine.
        repeats: number of turns.
        reference: reference of ratios, by its name in `names.references`; None is the first.
        out: folder for latency.json.
        progress: (done, total, text).

    Raises:
        UsageError: unknown names, no turns, a file or engine without its counterpart.
        Unavailable: an engine is missing; raised before anything is timed.
        BadInput: no readable photo.
    """
    if not repeats:
        raise UsageError("`repeats=0` times nothing; give 1 or more")
    rule = pick(PROTOCOLS, protocol, "protocol")
    if size:
        check_resize(rule)
    variants = [
        Variant(*pair, keypoints, size, extraction=extraction) for pair in pair_up(artifacts, backends, threads, rule)
    ]
    names = {name: index for index, name in enumerate(references(variants))}
    base = pick(names, reference, "reference") if reference else 0
    infos = [variant.open(threads).session.info for variant in variants]  # one engine at a time
    for variant, info in zip(variants, infos, strict=True):
        results.refuse_stand_in(evaluated(variant, info))
    name, image = _picture(photo, rule.size or DRAWN)
    prepared = _prepared(variants, image, rule)
    runs = [_untimed(*each, name, prepared, rule) for each in zip(variants, infos, strict=True)]
    if out:
        results.refuse_others(out / LATENCY, [run.measured for run in runs])
    how: dict[str, Any] = {"threads": threads, "repeats": repeats, "reference": base, "progress": progress}
    times = latency.measure(variants, prepared, rule, **how)
    runs = [run.timed(timing) for run, timing in zip(runs, times, strict=True)]
    if out:
        results.save(out / LATENCY, runs)
    return runs


def _untimed(variant: Variant, info: SessionInfo, name: str, prepared: Array, rule: Protocol) -> Run:
    """Return a run without pairs or times, on one prepared image called `name`."""
    machine = environment(info, latency.__name__)
    run = assemble(evaluated(variant, info), machine, [], name, rule, [])
    digest = hashlib.sha256(prepared.tobytes()).hexdigest()
    about = {"dataset_digest": digest, "image_size": prepared.shape[:2]}
    return Run.from_dict({**run.to_dict(), **about}, name)


def _picture(photo: Path | None, size: tuple[int, int]) -> tuple[str, Array]:
    """Return name and pixels, uint8 (H, W, 3) RGB, of the image to time."""
    if photo is None:
        return "a drawn picture", next(agreement.drawn(size, 1))
    path = list_images(photo, 1)[0] if photo.is_dir() else photo
    return path.name, read(path)


def _prepared(variants: Sequence[Variant], image: Array, rule: Protocol) -> Array:
    channels = {row_of(variant.artifact.card).colours for variant in variants}
    return rule.prepare(image, max(channels))[0]
