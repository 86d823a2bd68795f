"""`lf adopt`: give an ONNX file of another tool a card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import UsageError, console

EXAMPLES = (
    "lf adopt superpoint.onnx --as superpoint",
    "lf adopt mine.onnx --card mine.toml",
)


def adopt(
    file: Annotated[Path, typer.Argument(readable=False, metavar="FILE.onnx", help="ONNX file of another tool")],
    family: Annotated[
        str | None,
        typer.Option("--as", metavar="NETWORK", help="Network, listed below, or features", rich_help_panel=opt.HOW),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="FILE", help="TOML card of another network", rich_help_panel=opt.HOW),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(metavar="NAME=HEAD,...", help="Heads that shapes do not decide", rich_help_panel=opt.HOW),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(metavar="RANGE[,bgr]", help="Range: 0..1, 0..255, -1..1 or imagenet", rich_help_panel=opt.HOW),
    ] = None,
    size: opt.Size = None,
    reference: Annotated[
        str | None, typer.Option(metavar="FILE", help="Checkpoint to compare with", rich_help_panel=opt.HOW)
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="DIR", help="Images of the checks, else drawn", rich_help_panel=opt.HOW),
    ] = None,
    output: opt.Out = None,
) -> None:
    """Give an ONNX file of another tool a card, and check it."""
    from lf.cli import spell
    from lf.export.adopt import adopt as run
    from lf.models.resolve import resolve

    made = run(
        file,
        family,
        output,
        card=card,
        outputs=_pairs(outputs),
        input=input,
        size=None if size is None else opt.parse_size(size),
        reference=None if reference is None else resolve(reference),
        images=images,
    )
    step = made.card.made[-1].to_dict()
    for warning in step["warnings"]:
        console.note(f"warning: {spell(warning)}")
    console.note(f"input {step['values']['values']}; checked: {', '.join(step['checks'])}")
    console.result(made.path)


def _pairs(text: str | None) -> dict[str, str]:
    """`semi=detector,desc=descriptor` -> {"semi": "detector", "desc": "descriptor"}."""
    pairs = [part.partition("=") for part in (text or "").split(",") if part]
    if wrong := [output for output, equals, head in pairs if not (output and equals and head)]:
        raise UsageError(
            f"--outputs {text}: {wrong[0]} names no head; expected for example semi=detector,desc=descriptor"
        )
    return {output: head for output, _, head in pairs}
