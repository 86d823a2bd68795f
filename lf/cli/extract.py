"""`lf extract`: write the features of images for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import HOW, WHERE, Backend, File, Json, Keypoints, Shard, Threads, TopK, parse_shard
from lf.core import console
from lf.data.layouts import LAYOUTS

EXAMPLES = "lf extract wren PHOTOS --out features --layout hloc\n\nlf extract wren PHOTOS --out features --shard 0/4"


def extract(
    model: File,
    images: Annotated[list[str], typer.Argument(metavar="IMAGES|DIR...", help="Images and folders of images")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the features; the same DIR resumes", rich_help_panel=WHERE)
    ],
    layout: Annotated[
        str, typer.Option(help=f"File layout to write: {', '.join(LAYOUTS)}", rich_help_panel=WHERE)
    ] = "lf",
    backend: Backend = None,
    threads: Threads = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Parallel images; by default one per free core", rich_help_panel=HOW)
    ] = None,
    shard: Shard = "0/1",
    pool: Annotated[str | None, typer.Option(help="Spread images over a pool: ray", rich_help_panel=HOW)] = None,
    top_k: TopK = None,
    keypoints: Keypoints = None,
    json: Json = False,
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
            shard=parse_shard(shard),
            pool=pool,
            top_k=top_k,
            keypoints=keypoints,
            progress=progress,
        )
    console.skipped(tally.failed, tally.written + tally.kept + len(tally.failed))
    console.as_json({"out": str(out), "layout": layout, **asdict(tally)}) if json else console.result(out)
