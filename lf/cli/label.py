"""The command `lf label`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import File, Threads, parse_shard, parse_size
from lf.core import console
from lf.models.resolve import resolve


def label(
    checkpoint: File,
    data: Annotated[Path, typer.Option(readable=False, metavar="DIR", help="Photos to label, searched recursively")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the labels go; the same DIR resumes")],
    warps: Annotated[int, typer.Option(min=1, help="Views per photo; the first is the photo itself")] = 100,
    size: Annotated[
        str, typer.Option(metavar="HxW", help="Every photo is brought to about this area, in proportion")
    ] = "240x320",
    shard: Annotated[str, typer.Option(metavar="I/N", help="Of N runs that share the photos the I-th")] = "0/1",
    limit: Annotated[int | None, typer.Option(min=1, help="Label the first so many photos")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the views")] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Run the network in bfloat16")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Threads = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Label photos with the corners a detector sees in many views of them; stop and run again to go on."""
    from dataclasses import asdict

    from lf.train.homographic_adaptation import Settings
    from lf.train.label_photos import label as run

    settings = Settings(warps=warps, size=parse_size(size), seed=seed, bf16=bf16)
    with console.progress() as progress:
        tally = run(
            resolve(checkpoint),
            data,
            out,
            settings,
            shard=parse_shard(shard),
            limit=limit,
            device=device,
            threads=threads,
            progress=progress,
        )
    for why in tally.failed.values():
        console.note(f"lf: skipped: {why}")
    if json:
        console.as_json({"out": str(out), **asdict(tally)})
    else:
        console.result(out)
