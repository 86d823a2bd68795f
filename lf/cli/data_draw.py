"""`lf data draw`: draw images and pairs, for a start without photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = ("lf data draw photos --count 32", "lf data draw pairs --pairs --count 12")

WHAT = "What to draw"


def data_draw(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to")],
    count: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of images or pairs", rich_help_panel=WHAT)
    ] = 32,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Pairs with homographies, in HPatches layout", rich_help_panel=WHAT)
    ] = False,
    size: Annotated[
        str, typer.Option(metavar="HxW", help="Size of an image in pixels", rich_help_panel=WHAT)
    ] = "240x320",
) -> None:
    """Draw images, or pairs with known homographies."""
    from lf.data.drawn import folders

    height, width = opt.parse_size(size)
    write = folders.write_pairs if pairs else folders.write_pictures
    with console.progress() as progress:
        write(out, count, (height, width), progress)
    console.result(out)
