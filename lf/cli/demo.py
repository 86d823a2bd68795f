"""`lf demo`: export, quantize and benchmark the default network, without data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = ("lf demo", "lf demo --out demo --threads 4")


def demo(
    threads: opt.Threads = 1,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files", rich_help_panel=opt.WHERE)] = Path(
        "out/demo"
    ),
) -> None:
    """Export, quantize and benchmark the default network."""
    from lf.studies.demo import demo as run

    with console.progress() as progress:
        run(out, threads, progress)
