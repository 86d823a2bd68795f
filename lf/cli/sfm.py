"""`lf sfm`: reconstruct scenes from the matches of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lf.cli import options as opt
from lf.core import console

if TYPE_CHECKING:
    from lf.benchmarks.sfm.stages import How
    from lf.extraction.variant import Variant

EXAMPLES = (
    "lf sfm wren --data posed:FOUNTAIN --out wren-sfm",
    "lf sfm wren.w8a8.onnx --data PHOTOS --intrinsics refined --out out",
)

Data = Annotated[
    str, typer.Option(metavar="DATA", help="Dataset: posed:DIR, scenes:N or folder of images", rich_help_panel=opt.WHAT)
]
Matcher = Annotated[str, typer.Option(metavar="NAME", help="Matcher, listed below", rich_help_panel=opt.HOW)]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Parallel images, and threads of verification",
        show_default="one per free core, in a pool 1",
        rich_help_panel=opt.HOW,
    ),
]


def chosen(model: str, backend: str | None, keypoints: str | None, size: str | None) -> Variant:
    """Return the file with its engine and settings."""
    from lf.extraction.store import backend_for
    from lf.extraction.variant import Variant
    from lf.models.resolve import resolve

    artifact = resolve(model)
    return Variant(artifact, backend or backend_for(artifact), keypoints, opt.parse_size(size) if size else None)


def shared_out(matcher: str, top_k: int, threads: int, workers: int | None, shard: str, pool: str | None) -> How:
    """Return the settings of matching, and the number of images in parallel."""
    from lf.benchmarks.sfm.stages import How
    from lf.quota import cores

    count = workers or max(1, cores() // threads)
    return How(matcher, top_k, (workers or 1) if pool else count, count, opt.parse_shard(shard), pool)


def sfm(
    model: opt.File,
    data: Data,
    out: opt.Folder,
    matcher: Matcher = "mutual-ratio0.8",
    pairs: Annotated[
        str,
        typer.Option(
            metavar="HOW", help="Pairs: exhaustive, sequential:N, nearest:N, listed, FILE", rich_help_panel=opt.WHAT
        ),
    ] = "exhaustive",
    intrinsics: Annotated[
        str, typer.Option(metavar="HOW", help="Intrinsics: fixed or refined", rich_help_panel=opt.HOW)
    ] = "fixed",
    top_k: opt.Best = 2000,
    backend: opt.Backend = None,
    keypoints: opt.Keypoints = None,
    size: opt.Size = None,
    threads: opt.Threads = 1,
    workers: Workers = None,
    shard: opt.Shard = "0/1",
    pool: opt.Pool = None,
    json: opt.Json = False,
) -> None:
    """Reconstruct scenes from matches, and score the models."""
    from lf.benchmarks.report import reconstructions
    from lf.benchmarks.run import results
    from lf.benchmarks.sfm.reconstruct import RESULTS
    from lf.benchmarks.sfm.reconstruct import sfm as run

    variant = chosen(model, backend, keypoints, size)
    how = shared_out(matcher, top_k, threads, workers, shard, pool)
    with console.progress() as progress:
        done = run(variant, data, out, how=how, pairs=pairs, intrinsics=intrinsics, threads=threads, progress=progress)
    if done is None:
        return
    console.as_json(results.document([done])) if json else console.result(reconstructions.page(done))
    console.note(f"wrote {out / RESULTS}") if json else console.result(out / RESULTS)
