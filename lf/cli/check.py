"""The command check: what a target will do with a file, before it is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lf.cli.options import Json, Out
from lf.core import GateFailed, UsageError, console, pick

if TYPE_CHECKING:
    from lf.edgetpu.check import Report, Verdict

TARGETS = {"edgetpu": "the Edge TPU of Coral"}
REQUIRED = {"mapped": "no operator stays on the CPU"}


def check(
    model: Annotated[Path, typer.Argument(readable=False, metavar="FILE", help="A .tflite file, anybody's")],
    target: Annotated[str, typer.Option(help=f"What it is for: {', '.join(TARGETS)}")] = "edgetpu",
    require: Annotated[
        str | None, typer.Option(metavar="WHAT", help=f"Fail unless: {', '.join(REQUIRED)} ({REQUIRED['mapped']})")
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Write a file with the same numbers that suits the target better, to -o")
    ] = False,
    json: Json = False,
    output: Out = None,
) -> None:
    """Predict what a target will do with each operator of a file, and why; nothing is compiled."""
    from lf.core import files
    from lf.edgetpu import check as edgetpu_check
    from lf.edgetpu import fix as edgetpu_fix

    pick(TARGETS, target, "target")
    if require is not None:
        pick(REQUIRED, require, "requirement")
    if fix != (output is not None):
        raise UsageError("--fix writes a new file and -o says where; type both: --fix -o FILE.tflite")
    path = model
    if output is not None:
        for text in edgetpu_fix.fix(model, output):
            console.note(f"mended: {text}")
        path = output
    report = edgetpu_check.examine(files.read_bytes(path, "a TFLite model"), str(path))
    if json:
        console.as_json({"file": str(path), **report.as_dict()})
    else:
        console.result(page(path, report))
    if require and (first := report.first):
        cpu = report.counts["cpu"]
        raise GateFailed(
            f"{path}: {cpu} of {len(report.operators)} operators stay on the CPU, the first is {first.name} at "
            f"{first.index}: {first.reason} (rule {first.rule})"
        )


def page(path: Path, report: Report) -> str:
    """What `lf check` prints: a row for all operators of a kind with the same fate, then the sums."""
    from lf.benchmarks.report.tables import markdown
    from lf.edgetpu.rules import COMPILER, SOURCES

    if report.compiled:
        title = f"{path}: compiled already; what the compiler left on the CPU"
    else:
        title = f"{path}: a prediction for edgetpu_compiler {COMPILER}, nothing was compiled"
    rows: dict[tuple[str, ...], list[Verdict]] = {}
    for each in report.operators:
        rows.setdefault((each.name, str(each.version), each.state, each.rule, each.source, each.reason), []).append(
            each
        )
    lines = [
        [name, version, str(len(found)), _places(found), state, f"{rule} [{source}]" if rule else "", reason]
        for (name, version, state, rule, source, reason), found in rows.items()
    ]
    head = ["operator", "version", "count", "at", "state", "rule [source]", "why"]
    used = dict.fromkeys(each.source for each in report.operators if each.source)
    legend = "sources: " + ", ".join(f"{mark} {SOURCES[mark]}" for mark in used)
    return "\n\n".join([title, markdown(head, lines), "\n".join([*_summary(report), *([legend] if used else [])])])


def _summary(report: Report) -> list[str]:
    from lf.edgetpu.rules import ON_CHIP, mib

    counts, total = report.counts, len(report.operators)
    name, shape = report.largest
    lines = [
        f"{total} operators: {counts['maps']} map, {counts['uncertain']} uncertain, {counts['cpu']} cpu; "
        f"{report.prefix} before the first on the CPU; Edge TPU subgraphs: {report.subgraphs}",
        f"parameters {mib(report.parameter_bytes)} of {mib(ON_CHIP)} on chip: {report.parameters}; largest activation "
        f"{mib(report.activation_bytes)} ({name} {'x'.join(map(str, shape))}): {report.activation}",
    ]
    if 2 * sum(each.rule == "data-type" for each in report.operators) > total:
        lines.append("most of it is not of 8 bits; type: lf quantize MODEL.onnx --for tflite --images DIR")
    return [*(f"the compiler cannot read the file: {text}" for text in report.rejected), *lines]


def _places(found: list[Verdict]) -> str:
    """`0, 2-5, 9`."""
    places: list[list[int]] = []
    for each in found:
        if places and each.index == places[-1][-1] + 1:
            places[-1][1:] = [each.index]
        else:
            places.append([each.index])
    return ", ".join("-".join(map(str, place)) for place in places)
