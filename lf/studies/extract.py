"""Extract the features of images: choose the layout's writer, the pool and the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from lf.benchmarks.run import superpoint_export
from lf.core import Array, Artifact, BadInput, UsageError, console, pick
from lf.core.console import Progress
from lf.data import open_dataset
from lf.data.images import read
from lf.data.layouts import LAYOUTS
from lf.extraction import auto, store
from lf.extraction.pools import POOLS
from lf.extraction.variant import Variant
from lf.models import SEGMENTATION
from lf.quota import cores

TRIED = 10  # largest number of images to try until one can be read, for `auto`
MAPS = {SEGMENTATION: "the class of every pixel, IMAGE.seg.png; in layout superpoint pred_mask of the first image"}


def extract(
    artifact: Artifact,
    images: Sequence[str],
    out: Path,
    layout: str = "lf",
    *,
    backend: str = auto.AUTO,
    threads: int = 1,
    workers: int | None = None,
    shard: tuple[int, int] = store.WHOLE,
    pool: str | None = None,
    top_k: int | None = None,
    keypoints: str | None = None,
    maps: Sequence[str] = (),
    extraction: str | None = None,
    progress: Progress = lambda done, total, text: None,
) -> store.Tally:
    """Write the features of images; the same folder resumes.

    Args:
        artifact: the network.
        images: image files and folders; for a layout of pairs, one dataset.
        out: folder for the features.
        layout: a row of LAYOUTS.
        backend: a row of BACKENDS, or `auto`: the backend of the features in `out`, or the fastest if there are none.
        threads: threads of each engine.
        workers: number of images in parallel; None takes the free cores, in a pool 1.
        shard: (I, N): process shard I of N.
        pool: a row of POOLS, or None for this machine.
        top_k: number of best keypoints to keep.
        keypoints: baseline that detects the points to describe.
        maps: rows of MAPS to write for each image.
        extraction: name of published settings of the network.
        progress: called with (done, total, text).

    Raises:
        UsageError: options that do not fit together.
        BadInput: none of the images could be read.
    """
    pairs = pick(LAYOUTS, layout, "layout").open is None
    spread = pick(POOLS, pool, "pool") if pool else None
    _check(pairs, layout, len(images), pool, shard)
    for name in maps:
        pick(MAPS, name, "map")
    found = {} if pairs else store.find([*map(Path, images)])
    if backend == auto.AUTO and (made := store.backend_of(out, layout)) and made in auto.candidates(artifact):
        backend = made
        console.note(f"lf: {made} runs {artifact.path.name}: the features in {out} are made with it")
    backend = auto.named(artifact, backend, threads, lambda: _readable(found, images[0] if pairs else None))
    variant = Variant(artifact, backend, keypoints, segmentation=bool(maps), extraction=extraction)
    if pairs:
        tally = superpoint_export.write(variant.open(threads), images[0], out, top_k, progress)
    elif spread:
        tally = spread(variant.opener(threads), found, out, layout, top_k, progress, cpus=threads, workers=workers or 1)
    else:
        found = store.share(found, shard)
        count = workers or max(1, cores() // threads)
        tally = store.extract_images(
            variant.open(threads), found, out, layout, top_k, progress, workers=count, shard=shard
        )
    whole = tally.written + tally.kept + len(tally.failed)
    if whole and len(tally.failed) == whole:
        raise BadInput(f"none of the {whole} images could be read; the first: {next(iter(tally.failed.values()))}")
    return tally


def _readable(found: Mapping[str, Path], dataset: str | None) -> Array | None:
    """Return the first image of a dataset, or the first readable image of `found`; None if none can be read."""
    if dataset is not None:
        return open_dataset(dataset, 1)[0].first.load()
    for path in islice(found.values(), TRIED):
        with suppress(BadInput):
            return read(path)
    return None


def _check(pairs: bool, layout: str, count: int, pool: str | None, shard: tuple[int, int]) -> None:
    """Raise UsageError if the options do not fit together."""
    if pairs and count != 1:
        raise UsageError(f"layout {layout} holds pairs: give one folder in HPatches layout, not {count} paths")
    if pairs and (pool or shard != store.WHOLE):
        raise UsageError(f"layout {layout} numbers the pairs of a dataset in one run; leave out `shard` and `pool`")
    if not LAYOUTS[layout].shared and (pool or shard != store.WHOLE):
        raise UsageError(f"layout {layout} keeps the images of a folder in one file; leave out `shard` and `pool`")
    if pool and shard != store.WHOLE:
        raise UsageError("`pool` shares the images out by itself; leave out `shard`")
