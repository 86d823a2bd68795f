"""`lf data show`: draw samples of a dataset or of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = (
    "lf data show warps:PHOTOS",
    "lf data show masks:CAMVID/val@camvid11",
    "lf data show superpoint-small -o views.png",
    "lf data show PHOTOS --labels labels",
)


def data_show(
    spec: Annotated[str, typer.Argument(metavar="WHAT", help="Dataset, recipe, folder of photos, or shapes")],
    photos: opt.Photos = None,
    change: opt.Change = None,
    labels: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="DIR", help="Labels of a folder of photos", rich_help_panel=opt.LEARN),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of pairs or images to draw", rich_help_panel=opt.WHERE),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="File to write", rich_help_panel=opt.WHERE)
    ] = Path("data.png"),
) -> None:
    """Draw pairs with their ground truth, the views of a recipe, or labels."""
    from lf.studies.data_pictures import draw

    with console.progress() as progress:
        console.result(draw(spec, output, photos, change or [], labels, count, progress))
