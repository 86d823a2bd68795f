"""`lf demo`: the main job on the default network, without data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import WHERE, Threads
from lf.core import console

EXAMPLES = "lf demo"


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files", rich_help_panel=WHERE)] = Path(
        "out/demo"
    ),
    threads: Threads = 1,
) -> None:
    """Export, quantize and benchmark the default network."""
    from lf.studies.demo import demo as run

    with console.progress() as progress:
        run(out, threads, progress)
