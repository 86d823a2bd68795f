"""The commands that turn files into others: export, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lf import console
from lf.cli.options import File, Out, parse_bits, parse_size
from lf.export import TARGETS
from lf.models.resolve import resolve
from lf.quantize import CALIBRATIONS, LIMIT, SCHEMES


def export(
    checkpoint: File,
    to: Annotated[str, typer.Option(help=f"Format of the file to make: {', '.join(TARGETS)}")] = "onnx",
    size: Annotated[str, typer.Option(metavar="HxW", help="The one input size of the file")] = "240x320",
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Accept every size instead")] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; the default is 18")] = None,
    images: Annotated[Path | None, typer.Option(help="Photos for the parity check; drawn pictures otherwise")] = None,
    output: Out = None,
) -> None:
    """Turn a checkpoint into another format: same numbers, checked against it before anything is written."""
    from lf.export import export as run

    options: dict[str, Any] = {"size": None if dynamic else parse_size(size), "images": images}
    if opset is not None:
        options["opset"] = opset
    console.result(run(resolve(checkpoint), to, output, **options).path)


def quantize(
    model: File,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Photos to calibrate on, where the scheme needs them; none of the benchmark"),
    ] = None,
    scheme: Annotated[str, typer.Option(help=f"Number format: {', '.join(SCHEMES)}")] = "w8a8",
    calibration: Annotated[
        str | None,
        typer.Option(help=f"How ranges are found: {', '.join(CALIBRATIONS)}; the scheme's own, mostly minmax"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Use at most so many photos; the scheme's own, mostly {LIMIT}")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses the photos when there are more")] = 0,
    exclude: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Benchmark whose images must not be used")
    ] = None,
    keep_float: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A head or a convolution to leave in float; repeatable")
    ] = None,
    bits: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=BITS", help="Bits of its weights: 3, 4, 8, 16 (computed in float); repeatable"),
    ] = None,
    output: Out = None,
) -> None:
    """Turn a float ONNX file into one with fewer bits: other numbers, measured by lf bench."""
    from lf.quantize import quantize as run

    parent = resolve(model)
    with console.progress() as progress:
        made = run(
            parent,
            scheme,
            images,
            output,
            calibration=calibration,
            limit=limit,
            seed=seed,
            exclude=exclude,
            bits=dict.fromkeys(keep_float or (), 32) | dict(map(parse_bits, bits or ())),
            progress=progress,
        )
    from lf.quantize.guards import slower

    for warning in (*made.card.made[-1]["warnings"], slower(parent, made)):
        if warning:
            console.note(f"warning: {warning}")
    console.result(made.path)
