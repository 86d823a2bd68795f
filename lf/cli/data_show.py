"""`lf data show`: draw what a dataset or a recipe holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import Change, Photos
from lf.core import console

EXAMPLES = "lf data show warps:PHOTOS\n\nlf data show superpoint-small -o views.png"


def data_show(
    spec: Annotated[str, typer.Argument(metavar="WHAT", help="Dataset, recipe, or: shapes")],
    photos: Photos = None,
    change: Change = None,
    labels: Annotated[
        Path | None, typer.Option(readable=False, metavar="DIR", help="With a folder of photos: its labels")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Number of pairs or images to draw")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="File to write")] = Path("data.png"),
) -> None:
    """Draw pairs with their ground truth, the views of a recipe, or labels."""
    from lf.studies.data_pictures import draw

    with console.progress() as progress:
        console.result(draw(spec, output, photos, change or [], labels, count, progress))
