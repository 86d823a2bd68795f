"""`lf data masks`: convert masks to the classes of a label set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = (
    "lf data masks COCO/val2017 COCO/panoptic_cs34_val2017",
    "lf data masks COCO/val2017 four --to cs4 --json",
)

CONVERT = "What to convert"
SETS = "Label set: cs34, cs34-fork, cs19, cs4 or coco133"


def data_masks(
    folder: Annotated[
        Path, typer.Argument(readable=False, metavar="SRC", help="COCO split: val2017, panoptic_val2017")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for masks, and to resume from")],
    source: Annotated[
        str, typer.Option("--from", metavar="NAME", help="Kind of masks: coco-panoptic", rich_help_panel=CONVERT)
    ] = "coco-panoptic",
    to: Annotated[str, typer.Option(metavar="NAME", help=SETS, rich_help_panel=CONVERT)] = "cs34",
    json: opt.Json = False,
) -> None:
    """Write COCO panoptic masks as 8-bit class ids."""
    from lf.data.masks.convert import convert

    with console.progress() as progress:
        tally = convert(folder, to, out, source, progress)
    if json:
        console.as_json({"out": str(out), "to": to, **tally.to_dict()})
        return
    said = tally.to_dict()
    console.result(
        f"{out}: {tally.written} masks written, {tally.kept} kept; "
        f"{tally.without_annotation} PNG without annotation, {tally.without_png} annotations without PNG"
    )
    if tally.pixels:
        console.result(f"void: {said['void_share']:.1%} of the pixels; left out of {to}: {said['ignored_share']:.1%}")
