"""The commands that turn files into others: export, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lf.cli.options import PROCEDURAL, Data, File, Out, Protocols, parse_bits, parse_size
from lf.cli.weigh import EVALUATIONS, Where, within
from lf.core import UsageError, console
from lf.export import CUTS, TARGETS
from lf.models.resolve import resolve
from lf.quantize import CALIBRATIONS, ENGINES, LIMIT, ROUNDINGS, SCHEMES


def export(
    checkpoint: File,
    to: Annotated[str, typer.Option(help=f"Format of the file to make: {', '.join(TARGETS)}")] = "onnx",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="The one input size of the file; the default is 240x320")
    ] = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Accept every size instead")] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set, 18 (the default) to 23")] = None,
    cut: Annotated[
        str, typer.Option(help="Where the graph ends: " + "; ".join(f"{name}, {about}" for name, about in CUTS.items()))
    ] = "heads",
    top_k: Annotated[
        int | None, typer.Option(min=1, help="With --cut features: slots for keypoints; the default is 1000")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="With --to tflite: store the weights in float16")] = False,
    images: Annotated[
        Path | None, typer.Option(readable=False, help="Photos for the parity check; drawn pictures otherwise")
    ] = None,
    output: Out = None,
) -> None:
    """Turn a model file into another format: same numbers, checked against it before anything is written."""
    from lf.export import export as run

    if half and to != "tflite":
        raise UsageError("--half belongs to --to tflite; for ONNX type: lf quantize MODEL.onnx --scheme fp16")
    if top_k is not None and cut != "features":
        raise UsageError("--top-k belongs to --cut features; a file that ends at its raw heads has no slots")
    if dynamic and size is not None:
        raise UsageError(f"--dynamic accepts every size, --size {size} one only; leave one of them out")
    options: dict[str, Any] = {"images": images, "cut": cut, **({"half": True} if half else {})}
    if dynamic or size is not None:
        options["size"] = None if size is None else parse_size(size)
    if opset is not None:
        options["opset"] = opset
    if top_k is not None:
        options["top_k"] = top_k
    made = run(resolve(checkpoint), to, output, **options)
    for warning in made.card.made[-1].get("warnings", ()):
        console.note(f"warning: {warning}")
    console.result(made.path)


def quantize(
    model: File,
    images: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="DIR",
            help="Photos to calibrate on, where the scheme needs them; none of the benchmark",
        ),
    ] = None,
    scheme: Annotated[str, typer.Option(help=f"Number format: {', '.join(SCHEMES)}")] = "w8a8",
    engine: Annotated[
        str, typer.Option("--for", help="Who will run it: " + "; ".join(f"{k}, {v.about}" for k, v in ENGINES.items()))
    ] = "ort",
    calibration: Annotated[
        str | None,
        typer.Option(help=f"How ranges are found: {', '.join(CALIBRATIONS)}; the scheme's own, mostly percentile"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Use at most so many photos; the scheme's own, mostly {LIMIT}")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the photos when there are more")] = 0,
    exclude: Annotated[
        Path | None, typer.Option(readable=False, metavar="ROOT", help="Benchmark whose images must not be used")
    ] = None,
    keep_float: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A head or a convolution to leave in float; repeatable")
    ] = None,
    bits: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=BITS", help="Bits of its weights: 3, 4, 8, 16 (computed in float); repeatable"),
    ] = None,
    rounding: Annotated[
        str | None,
        typer.Option(help=f"How weights are rounded: {', '.join(ROUNDINGS)}; the scheme's own by default"),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(metavar="METRIC=MOST,...", help="Raise the bits of as few layers as keep this budget on --data"),
    ] = None,
    data: Data = PROCEDURAL,
    protocol: Protocols = None,
    limit_sequences: Annotated[
        int | None, typer.Option(min=2, help="With --max-drop: use the first so many sequences of the data")
    ] = None,
    max_evaluations: Annotated[
        int | None, typer.Option(min=1, help=f"With --max-drop: most files to evaluate; the default is {EVALUATIONS}")
    ] = None,
    search: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where a search is kept, to resume; <output without .onnx>.search"),
    ] = None,
    output: Out = None,
) -> None:
    """Turn a float ONNX file into one with fewer bits: other numbers, measured by lf bench."""
    from lf.quantize import quantize as run

    if max_drop is None and (data != PROCEDURAL or protocol or limit_sequences or search or max_evaluations):
        raise UsageError(
            "--data, --protocol, --limit-sequences, --max-evaluations and --search belong to a search within a budget; "
            'type for example: --max-drop "mma@3=0.01,repeatability=0.005"'
        )
    if max_drop is not None and engine != "ort":
        raise UsageError(f"--max-drop searches the bits of single layers, and --for {engine} has 8 in all of them")
    parent = resolve(model)
    asked = dict.fromkeys(keep_float or (), 32) | dict(map(parse_bits, bits or ()))
    options: dict[str, Any] = {"calibration": calibration, "limit": limit, "seed": seed, "exclude": exclude}
    options["rounding"] = rounding
    with console.progress() as progress:
        if max_drop is not None:
            where = Where(data, protocol, limit_sequences, max_evaluations or EVALUATIONS, search)
            made = within(max_drop, where, parent, scheme, images, output, asked, options, progress)
        else:
            made = run(parent, scheme, images, output, engine=engine, bits=asked, progress=progress, **options)
    from lf.quantize.write.checks import slower

    step = made.card.made[-1]
    if images and not ("calibration" in step or step.get("rounding", {}).get("photos")):
        console.note(f"{images}: no photo was looked at, {scheme} needs none")
    for warning in (*step["warnings"], slower(parent, made)):
        if warning:
            console.note(f"warning: {warning}")
    console.result(made.path)
