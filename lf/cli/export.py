"""`lf export`: convert a network to another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lf.cli import options as opt
from lf.core import UsageError, console
from lf.export import CUTS, TARGETS

EXAMPLES = (
    "lf export wren --to onnx",
    "lf export superpoint.pth --to tflite --size 240x320",
    "lf export wren.w8a8.tflite --to edgetpu",
)

FORMAT = "What to write"
To = Annotated[str, typer.Option(metavar="NAME", help=f"Format to write: {', '.join(TARGETS)}", rich_help_panel=FORMAT)]
Opset = Annotated[
    int | None,
    typer.Option(metavar="N", help="ONNX operator set, 18 to 23", rich_help_panel=FORMAT),
]
Cut = Annotated[str, typer.Option(metavar="NAME", help=f"End of the graph: {', '.join(CUTS)}", rich_help_panel=FORMAT)]
Slots = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="With --cut features: number of keypoints", rich_help_panel=FORMAT),
]
Half = Annotated[
    bool,
    typer.Option("--half", help="With --to tflite: store weights in float16", rich_help_panel=FORMAT),
]
ParityImages = Annotated[
    Path | None,
    typer.Option(
        readable=False,
        metavar="DIR",
        help="Images of the parity check",
        show_default="drawn ones",
        rich_help_panel=opt.HOW,
    ),
]


def export(
    checkpoint: opt.File,
    to: To = "onnx",
    size: opt.Size = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", hidden=True)] = False,  # the default; scripts still give it
    opset: Opset = None,
    cut: Cut = "heads",
    top_k: Slots = None,
    refine: opt.Refine = None,
    half: Half = False,
    parity_images: ParityImages = None,
    output: opt.Out = None,
) -> None:
    """Convert a network to another format and check its numbers."""
    from lf.cli import spell
    from lf.export import export as run
    from lf.models.resolve import resolve

    if half and to != "tflite":
        raise UsageError("--half belongs to --to tflite; for ONNX type: lf quantize MODEL.onnx --scheme fp16")
    if top_k is not None and cut != "features":
        raise UsageError("--top-k belongs to --cut features; raw heads have no slots")
    options: dict[str, Any] = {"images": parity_images, "cut": cut, **({"half": True} if half else {})}
    parsed = None if size is None else opt.parse_size(size)
    given = {"size": parsed, "opset": opset, "top_k": top_k, "refine": refine}
    options.update({name: value for name, value in given.items() if value is not None})
    artifact = resolve(checkpoint)
    with console.progress() as progress:
        progress(0, 1, f"exporting {artifact.path.name} to {to}")
        made = run(artifact, to, output, **options)
    for warning in made.card.made[-1].warnings:
        console.note(f"warning: {spell(warning)}")
    console.result(made.path)
