"""`lf data get`: download a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = (
    "lf data get hpatches --out hpatches",
    "lf data get hpatches --out hpatches --url https://example.org/hpatches.tar.gz",
)


def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Dataset: hpatches")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make, or to resume", rich_help_panel=opt.WHERE)],
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Other address of the same archive", rich_help_panel=opt.HOW)
    ] = None,
) -> None:
    """Download, check and unpack a dataset, or resume that."""
    from dataclasses import replace

    from lf.core import pick
    from lf.data.download import SOURCES, get

    source = pick(SOURCES, name, "dataset to download")
    with console.progress() as progress:
        folder = get(replace(source, url=url or source.url), out, progress)
    console.result(folder)
