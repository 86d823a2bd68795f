"""`lf extract`: write the features of images for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = (
    "lf extract wren PHOTOS --out features --layout hloc",
    "lf extract wren PHOTOS --out features --shard 0/4",
    "lf extract superpoint-seg.onnx PHOTOS --out features --maps segmentation",
)


def extract(
    model: opt.File,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE|DIR", help="Images and folders of images")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for features, and to resume from", rich_help_panel=opt.WHERE)
    ],
    layout: Annotated[
        str, typer.Option(metavar="NAME", help="File layout, listed below", rich_help_panel=opt.WHERE)
    ] = "lf",
    backend: opt.AutoBackend = "auto",
    threads: opt.Threads = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Parallel images", show_default="one per free core", rich_help_panel=opt.HOW
        ),
    ] = None,
    shard: opt.Shard = "0/1",
    pool: opt.Pool = None,
    top_k: opt.TopK = None,
    keypoints: opt.Keypoints = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also write this map: segmentation", rich_help_panel=opt.WHERE),
    ] = None,
    extraction: opt.Extraction = None,
    pyramid: opt.Pyramid = False,
    json: opt.Json = False,
) -> None:
    """Write features of images for other tools."""
    from dataclasses import asdict

    from lf.models.resolve import resolve
    from lf.studies.extract import extract as run

    with console.progress() as progress:
        tally = run(
            resolve(model),
            images,
            out,
            layout,
            backend=backend,
            threads=threads,
            workers=workers,
            shard=opt.parse_shard(shard),
            pool=pool,
            top_k=top_k,
            keypoints=keypoints,
            maps=maps or (),
            extraction=opt.extraction_of(extraction, pyramid),
            progress=progress,
        )
    console.skipped(tally.failed, tally.written + tally.kept + len(tally.failed))
    console.as_json({"out": str(out), "layout": layout, **asdict(tally)}) if json else console.result(out)
