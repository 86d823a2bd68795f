"""The chart of `lf tune`: how much of the accuracy budget each candidate uses, against its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lf.benchmarks.report.pareto import Candidate
from lf.benchmarks.report.web import svg
from lf.benchmarks.report.web.charts import WIDE, Chart, legend, names

MOST = 5.0  # shares of the budget; larger values are drawn at the upper edge


class Budget(NamedTuple):
    """chart: the image. legend: (label, its mark as SVG) of each file in its backend."""

    chart: Chart
    legend: list[tuple[str, str]]


def used(candidates: Sequence[Candidate]) -> Budget:
    """Draw the share of the budget against time; areas show bytes, the line joins the Pareto front.

    The first candidate is the reference of all times.
    """
    kinds = [*dict.fromkeys(_kind(one) for one in candidates)]
    top = max(1.25, min(max((one.used for one in candidates if one.used < float("inf")), default=1.0), MOST) * 1.1)
    times = [one.time for one in candidates]
    across = svg.Scale(min(times) / 1.3, max(times) * 1.5, 52, WIDE - 14, log=True)
    up = svg.Scale(-0.05 * top, top, 300, 34)
    parts = svg.vertical_axis(up, 52, WIDE - 14, "share of the budget used: down is better")
    to = candidates[0].run.ratio.to
    parts += svg.horizontal_axis(across, 300, 34, f"time, times that of {to}: left is better")
    parts.append(svg.line(52, up(1), WIDE - 14, up(1), "limit"))
    line = [(one.name, across(one.time), up(_height(one, top))) for one in _front(candidates)]
    parts.append(svg.path([(x, y) for _, x, y in line], "front"))
    largest = max(one.size for one in candidates) or 1
    for one in candidates:
        share = "no value" if one.used == float("inf") else f"{one.used:.2f} of the budget"
        title = f"{one.name}: {share}, {one.time:.2f} times the time, {one.run.artifact.megabytes} MB"
        radius, style = 4 + 9 * (one.size / largest) ** 0.5, "void" if one.run.void else "dot"
        index = kinds.index(_kind(one))
        parts.append(svg.marker(index, across(one.time), up(_height(one, top)), radius, style, title))
    parts += names(line, across)
    title = "share of the budget used against time"
    note = "The dashed line is the budget." + _beyond(candidates, top) + _void(candidates)
    return Budget(Chart(title, svg.canvas(WIDE, 340, title, parts), note), legend(kinds))


def _beyond(candidates: Sequence[Candidate], top: float) -> str:
    return " Marks at the upper edge use more than is shown." if any(one.used > top for one in candidates) else ""


def _void(candidates: Sequence[Candidate]) -> str:
    busy = any(one.run.void for one in candidates)
    return " Hollow marks: the machine was busy, the time means nothing." if busy else ""


def _kind(one: Candidate) -> str:
    return f"{one.form} {one.run.backend}"


def _height(one: Candidate, top: float) -> float:
    return min(max(one.used, 0.0), top)


def _front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the Pareto front of time and accuracy, the fastest first."""
    line: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.time, one.used)):
        if not line or max(one.used, 0.0) < max(line[-1].used, 0.0):
            line.append(one)
    return line
