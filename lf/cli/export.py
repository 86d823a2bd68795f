"""`lf export`: convert a network to another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lf.cli.options import HOW, File, Out, Refine, Size, parse_size
from lf.core import UsageError, console
from lf.export import CUTS, TARGETS

EXAMPLES = "lf export wren --to onnx\n\nlf export superpoint.pth --to tflite --size 240x320"


def export(
    checkpoint: File,
    to: Annotated[str, typer.Option(help=f"Format to write: {', '.join(TARGETS)}", rich_help_panel=HOW)] = "onnx",
    size: Size = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", hidden=True)] = False,  # the default; scripts still give it
    opset: Annotated[int | None, typer.Option(help="ONNX operator set, 18 to 23", rich_help_panel=HOW)] = None,
    cut: Annotated[str, typer.Option(help=f"Where the graph ends: {', '.join(CUTS)}", rich_help_panel=HOW)] = "heads",
    top_k: Annotated[
        int | None, typer.Option(min=1, help="With --cut features: number of keypoints", rich_help_panel=HOW)
    ] = None,
    refine: Refine = None,
    half: Annotated[
        bool, typer.Option("--half", help="With --to tflite: store weights in float16", rich_help_panel=HOW)
    ] = False,
    parity_images: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="DIR", help="Images of the parity check, else drawn", rich_help_panel=HOW),
    ] = None,
    output: Out = None,
) -> None:
    """Convert a network to another format; check its numbers."""
    from lf.cli import spell
    from lf.export import export as run
    from lf.models.resolve import resolve

    if half and to != "tflite":
        raise UsageError("--half belongs to --to tflite; for ONNX type: lf quantize MODEL.onnx --scheme fp16")
    if top_k is not None and cut != "features":
        raise UsageError("--top-k belongs to --cut features; a file that ends at its raw heads has no slots")
    options: dict[str, Any] = {"images": parity_images, "cut": cut, **({"half": True} if half else {})}
    given = {
        "size": None if size is None else parse_size(size),
        "opset": opset,
        "top_k": top_k,
        "refine": refine,
    }
    options.update({name: value for name, value in given.items() if value is not None})
    made = run(resolve(checkpoint), to, output, **options)
    for warning in made.card.made[-1].warnings:
        console.note(f"warning: {spell(warning)}")
    console.result(made.path)
