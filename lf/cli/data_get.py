"""`lf data get`: download a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.core import console

EXAMPLES = "lf data get hpatches --out hpatches"


def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Dataset: hpatches")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make; must not hold anything else")],
    url: Annotated[str | None, typer.Option(metavar="URL", help="Other address of the same archive")] = None,
) -> None:
    """Download, check and unpack a dataset; the same command resumes."""
    from dataclasses import replace

    from lf.core import pick
    from lf.data.download import SOURCES, get

    source = pick(SOURCES, name, "dataset to download")
    with console.progress() as progress:
        folder = get(replace(source, url=url or source.url), out, progress)
    console.result(folder)
