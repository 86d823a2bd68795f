"""`lf adopt`: give an ONNX file of another tool a card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import HOW, Out, Size, parse_size
from lf.core import UsageError, console
from lf.models import NETWORKS

EXAMPLES = "lf adopt superpoint.onnx --as superpoint\n\nlf adopt mine.onnx --card mine.toml"


def adopt(
    file: Annotated[Path, typer.Argument(readable=False, metavar="FILE.onnx", help="ONNX file of another tool")],
    family: Annotated[
        str | None, typer.Option("--as", metavar="NETWORK", help=f"{', '.join(NETWORKS)}, or features")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(readable=False, metavar="FILE.toml", help="Description of any other network")
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(metavar="NAME=HEAD,...", help="Heads, where shapes do not decide")
    ] = None,
    input: Annotated[
        str | None, typer.Option(metavar="RANGE", help="0..1, 0..255, -1..1, imagenet; with ,bgr; else tried")
    ] = None,
    size: Size = None,
    reference: Annotated[
        str | None, typer.Option(metavar="FILE", help="Checkpoint to compare with", rich_help_panel=HOW)
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="DIR", help="Images of the checks, else drawn", rich_help_panel=HOW),
    ] = None,
    output: Out = None,
) -> None:
    """Give an ONNX file of another tool a card; check its numbers."""
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
        size=None if size is None else parse_size(size),
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
