"""Print the prediction of `lf check`."""

from __future__ import annotations

from pathlib import Path

from lf.benchmarks.report.tables import markdown
from lf.edgetpu.check import Report, Verdict
from lf.edgetpu.rules import COMPILER, ON_CHIP, SOURCES, mib


def page(path: Path, report: Report) -> str:
    """Format the output of `lf check`: a row for all operators of a kind and state, then the sums."""
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
    counts, total = report.counts, len(report.operators)
    name, shape = report.largest
    lines = [
        f"{total} operators: {counts['maps']} map, {counts['uncertain']} uncertain, {counts['cpu']} cpu; "
        f"{report.prefix} before the first on the CPU; Edge TPU subgraphs: {report.subgraphs}",
        f"parameters {mib(report.parameter_bytes)} of {mib(ON_CHIP)} on chip: {report.parameters}; largest activation "
        f"{mib(report.activation_bytes)} ({name} {'x'.join(map(str, shape))}): {report.activation}",
    ]
    if 2 * sum(each.rule == "data-type" for each in report.operators) > total:
        lines.append("most of it is not of 8 bits; quantize it for TFLite")
    return [*(f"the compiler cannot read the file: {text}" for text in report.rejected), *lines]


def _places(found: list[Verdict]) -> str:
    """Format places as `0, 2-5, 9`."""
    places: list[list[int]] = []
    for each in found:
        if places and each.index == places[-1][-1] + 1:
            places[-1][1:] = [each.index]
        else:
            places.append([each.index])
    return ", ".join("-".join(map(str, place)) for place in places)
