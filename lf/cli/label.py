"""`lf label`: label photos by homographic adaptation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = (
    "lf label magicpoint.safetensors --photos PHOTOS --out labels",
    "lf label magicpoint.safetensors --photos PHOTOS --out labels --shard 0/4",
)

LABEL = "What to label"
Photos = Annotated[
    Path,
    typer.Option(readable=False, metavar="DIR", help="Photos to label, also in subfolders", rich_help_panel=LABEL),
]
Warps = Annotated[
    int, typer.Option(min=1, metavar="N", help="Views per photo, the photo itself first", rich_help_panel=LABEL)
]
Area = Annotated[
    str, typer.Option(metavar="HxW", help="Area of every photo (its shape is kept)", rich_help_panel=LABEL)
]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Label only the first N photos", rich_help_panel=LABEL)
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the views", rich_help_panel=LABEL)]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Run the network in bfloat16", rich_help_panel=opt.HOW)]


def label(
    checkpoint: opt.File,
    photos: Photos,
    out: opt.Folder,
    warps: Warps = 100,
    area: Area = "240x320",
    limit: Limit = None,
    seed: Seed = 0,
    shard: opt.Shard = "0/1",
    bf16: Bf16 = False,
    device: opt.Device = "auto",
    threads: opt.Threads = 1,
    json: opt.Json = False,
) -> None:
    """Label photos by homographic adaptation."""
    from dataclasses import asdict

    from lf.models.resolve import resolve
    from lf.train.homographic_adaptation import Settings
    from lf.train.label_photos import label as run

    settings = Settings(warps=warps, size=opt.parse_size(area, "--area"), seed=seed, bf16=bf16)
    with console.progress() as progress:
        tally = run(
            resolve(checkpoint),
            photos,
            out,
            settings,
            shard=opt.parse_shard(shard),
            limit=limit,
            device=device,
            threads=threads,
            progress=progress,
        )
    console.skipped(tally.failed)
    console.as_json({"out": str(out), **asdict(tally)}) if json else console.result(out)
