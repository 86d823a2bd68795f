"""`lf quantize`: make a file with fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lf.cli import options as opt
from lf.core import Artifact, console
from lf.quantize import WRITERS

EXAMPLES = (
    "lf quantize wren.onnx --images PHOTOS",
    "lf quantize wren.onnx --for tflite --size 240x320 --images PHOTOS",
)
DESCRIBED = ("scheme", "calibration")

Writer = Annotated[
    str,
    typer.Option("--for", metavar="NAME", help=f"Runtime: {', '.join(WRITERS)}", rich_help_panel=opt.NUMBERS),
]

Size = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="With --for tflite: input size",
        show_default="of the file, else 240x320",
        rich_help_panel=opt.NUMBERS,
    ),
]


def quantize(
    model: opt.File,
    scheme: opt.Scheme = "w8a8",
    writer: Writer = "ort",
    size: Size = None,
    keep_float: opt.KeepFloat = None,
    bits: opt.Bits = None,
    rounding: opt.Rounding = None,
    images: opt.Images = None,
    calibration: opt.Calibration = None,
    limit: opt.Limit = None,
    seed: opt.Seed = 0,
    exclude: opt.Exclude = None,
    output: opt.Out = None,
) -> None:
    """Quantize a float file (lf bench measures the cost)."""
    from lf.quantize import prepare
    from lf.quantize import quantize as run
    from lf.studies.float_onnx import float_onnx_of

    options: dict[str, Any] = {
        "writer": writer,
        "size": opt.parse_size(size) if size else None,
        "calibration": calibration,
        "limit": limit,
        "seed": seed,
        "exclude": exclude,
        "bits": opt.layer_bits(keep_float, bits),
        "rounding": rounding,
    }

    def check(checkpoint: Artifact) -> None:
        prepare(checkpoint, scheme, images, output, **options)

    with float_onnx_of(model, output.parent if output else Path(), check) as parent:
        with console.progress() as progress:
            made = run(parent, scheme, images, output, progress=progress, **options)
        say(parent, made, images)


def say(parent: Artifact, made: Artifact, images: Path | None) -> None:
    """Print the warnings of a quantized file and its path."""
    from lf.cli import spell
    from lf.quantize.write.checks import slower

    step = made.card.made[-1]
    if images and not (step.calibration or step.rounding.get("photos")):
        console.note(f"--images is ignored: scheme {made.card.scheme} needs no calibration images")
    for warning in (*step.warnings, slower(parent, made)):
        if warning:
            console.note(f"warning: {spell(warning)}")
    console.result(made.path)
