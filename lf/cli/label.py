"""`lf label`: label photos by homographic adaptation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import HOW, Device, File, Folder, Json, Shard, Threads, parse_shard, parse_size
from lf.core import console

EXAMPLES = "lf label magicpoint.safetensors --photos PHOTOS --out labels"


def label(
    checkpoint: File,
    photos: Annotated[Path, typer.Option(readable=False, metavar="DIR", help="Photos to label, also in subfolders")],
    out: Folder,
    warps: Annotated[int, typer.Option(min=1, help="Views per photo, the photo itself first")] = 100,
    area: Annotated[str, typer.Option(metavar="HxW", help="Area of every photo; its shape is kept")] = "240x320",
    shard: Shard = "0/1",
    limit: Annotated[int | None, typer.Option(min=1, help="Label only the first N photos")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the views")] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Run the network in bfloat16", rich_help_panel=HOW)] = False,
    device: Device = "auto",
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Label photos by homographic adaptation."""
    from dataclasses import asdict

    from lf.models.resolve import resolve
    from lf.train.homographic_adaptation import Settings
    from lf.train.label_photos import label as run

    settings = Settings(warps=warps, size=parse_size(area), seed=seed, bf16=bf16)
    with console.progress() as progress:
        tally = run(
            resolve(checkpoint),
            photos,
            out,
            settings,
            shard=parse_shard(shard),
            limit=limit,
            device=device,
            threads=threads,
            progress=progress,
        )
    console.skipped(tally.failed)
    console.as_json({"out": str(out), **asdict(tally)}) if json else console.result(out)
