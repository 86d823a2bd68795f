"""`lf localize`: find the poses of images among images with known poses."""

from __future__ import annotations

from typing import Annotated

import typer

from lf.cli import options as opt
from lf.cli.sfm import Matcher, Workers, chosen, shared_out
from lf.core import console

EXAMPLES = (
    "lf localize wren --data posed:FOUNTAIN --out wren-localize",
    "lf localize wren.w8a8.onnx --data aachen:ROOT --out aachen",
)


def localize(
    model: opt.File,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA", help="Dataset: posed:DIR, scenes:N, aachen:ROOT, aachen-v1.1:ROOT", rich_help_panel=opt.WHAT
        ),
    ],
    out: opt.Folder,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Images to localize",
            show_default="every third, or those of Aachen",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="Pairs: exhaustive, sequential:N, nearest:N, listed, FILE",
            show_default="exhaustive, or the list of Aachen",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    matcher: Matcher = "mutual",
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
    """Localise images against others whose poses are known."""
    from lf.benchmarks.report import reconstructions
    from lf.benchmarks.run import results
    from lf.benchmarks.sfm.localize import localize as run
    from lf.benchmarks.sfm.reconstruct import RESULTS

    variant = chosen(model, backend, keypoints, size)
    how = shared_out(matcher, top_k, threads, workers, shard, pool)
    asked = queries.split(",") if queries else ()
    with console.progress() as progress:
        done = run(variant, data, out, how=how, pairs=pairs, queries=asked, threads=threads, progress=progress)
    if done is None:
        return
    measured, sent = done
    console.as_json(results.document([measured])) if json else console.result(reconstructions.page(measured))
    for path in filter(None, (out / RESULTS, sent)):
        console.note(f"wrote {path}") if json else console.result(path)
