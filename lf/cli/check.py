"""`lf check`: predict which operators an accelerator runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import GateFailed, UsageError, console, pick

TARGETS = {"edgetpu": "the Edge TPU of Coral"}
REQUIRED = {"mapped": "no operator stays on the CPU"}
EXAMPLES = (
    "lf check wren.w8a8.tflite",
    "lf check model.tflite --fix -o fixed.tflite --require mapped",
)


def check(
    model: Annotated[Path, typer.Argument(readable=False, metavar="FILE", help="TFLite file of any tool")],
    target: Annotated[
        str, typer.Option(metavar="NAME", help=f"Accelerator: {', '.join(TARGETS)}", rich_help_panel=opt.WHAT)
    ] = "edgetpu",
    require: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="Fail unless: mapped (no operator on the CPU)", rich_help_panel=opt.WHAT),
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Write a repaired file to -o", rich_help_panel=opt.WHERE)] = False,
    output: opt.Out = None,
    json: opt.Json = False,
) -> None:
    """Predict which operators an accelerator runs."""
    from lf.core import files
    from lf.edgetpu import check as predict
    from lf.edgetpu import fix as repair
    from lf.models.resolve import shipped
    from lf.studies import check_page

    pick(TARGETS, target, "target")
    if require is not None:
        pick(REQUIRED, require, "requirement")
    if fix != (output is not None):
        raise UsageError("--fix writes a new file and -o says where; type both: --fix -o FILE.tflite")
    if model.suffix == ".onnx" or str(model) in shipped():
        raise UsageError(f"{model}: expected a .tflite file; type: lf quantize {model} --for tflite --images DIR")
    path = model
    if output is not None:
        for text in repair.fix(model, output):
            console.note(f"repaired: {text}")
        path = output
    report = predict.examine(files.read_bytes(path, "a TFLite model"), str(path))
    console.as_json({"file": str(path), **report.as_dict()}) if json else console.result(check_page.page(path, report))
    if require and (first := report.first):
        cpu = report.counts["cpu"]
        raise GateFailed(
            f"{path}: {cpu} of {len(report.operators)} operators stay on the CPU, the first is {first.name} at "
            f"{first.index}: {first.reason} (rule {first.rule})"
        )
