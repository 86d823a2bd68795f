"""`lf quantize`: make a file with fewer bits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lf.cli.options import (
    HOW,
    Bits,
    Calibration,
    Exclude,
    File,
    Images,
    KeepFloat,
    Limit,
    Out,
    Rounding,
    Scheme,
    Seed,
    parse_bits,
)
from lf.core import Artifact, console
from lf.quantize import WRITERS

EXAMPLES = "lf quantize wren.onnx --images PHOTOS\n\nlf quantize wren.onnx --for tflite --images PHOTOS"


def quantize(
    model: File,
    images: Images = None,
    scheme: Scheme = "w8a8",
    writer: Annotated[
        str, typer.Option("--for", help=f"Runtime that will run it: {', '.join(WRITERS)}", rich_help_panel=HOW)
    ] = "ort",
    calibration: Calibration = None,
    limit: Limit = None,
    seed: Seed = 0,
    exclude: Exclude = None,
    keep_float: KeepFloat = None,
    bits: Bits = None,
    rounding: Rounding = None,
    output: Out = None,
) -> None:
    """Quantize a float file; lf bench measures the cost."""
    from lf.models.resolve import resolve
    from lf.quantize import prepare
    from lf.quantize import quantize as run
    from lf.studies.float_onnx import float_onnx_of

    options: dict[str, Any] = {
        "writer": writer,
        "calibration": calibration,
        "limit": limit,
        "seed": seed,
        "exclude": exclude,
        "bits": dict.fromkeys(keep_float or (), 32) | dict(map(parse_bits, bits or ())),
        "rounding": rounding,
    }
    artifact, place = resolve(model), output.parent if output else Path()
    check = partial(prepare, artifact, scheme, images, output, **options)
    with float_onnx_of(artifact, place, check) as parent:
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
