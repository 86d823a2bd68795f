"""Charts of a report: drops and tolerated drops, accuracy against time, curves over thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lf.benchmarks import METRICS
from lf.benchmarks.protocols.summary import SPLITS
from lf.benchmarks.report.curves import THRESHOLDS, measured
from lf.benchmarks.report.tables import digits
from lf.benchmarks.report.web import svg
from lf.benchmarks.report.web.groups import Group
from lf.benchmarks.report.web.verdict import Sentence
from lf.benchmarks.run.record import Run

NARROW, WIDE = 340, 400  # px, width of charts side by side, and of charts that need more space
ROW = 26  # px
LEAST = 0.05  # smallest range of a metric in a chart


class Chart(NamedTuple):
    """title: title of the chart. image: SVG. note: remark, or ""."""

    title: str
    picture: str
    note: str = ""


def drops(found: Sequence[Sentence]) -> list[Chart]:
    """Draw for each metric the drop of every file with its interval, and the limit as a line."""
    names = dict.fromkeys(finding.metric for sentence in found for finding in sentence.findings)
    return [_drops_of(metric, found) for metric in names]


def _drops_of(metric: str, found: Sequence[Sentence]) -> Chart:
    rows = [(one.run.label, finding) for one in found for finding in one.findings if finding.metric == metric]
    limit, unit = rows[0][1].limit, METRICS[metric].unit
    ends = [v for _, f in rows for v in (*(f.drop.interval or ()), f.drop.drop)]
    scale = svg.Scale(*svg.around([*ends, 0.0, limit]), 14, NARROW - 14)
    bottom = 12 + 2 * ROW * len(rows)
    label = f"drop of {metric.replace('_', ' ')}" + (f", {unit}" if unit else "") + ": right is worse"
    parts = svg.horizontal_axis(scale, bottom, 4, label, "{:+.3g}")
    parts += [svg.line(scale(0), 4, scale(0), bottom, "zero"), svg.line(scale(limit), 4, scale(limit), bottom, "limit")]
    for place, (name, finding) in enumerate(rows):
        y = 12 + 2 * ROW * place
        parts.append(svg.text(14, y + 12, name, css="row"))
        if finding.drop.interval:
            low, high = finding.drop.interval
            parts.append(svg.line(scale(low), y + 30, scale(high), y + 30, f"interval {finding.state}"))
        title = f"{name}: {finding.figure}, {finding.state}"
        parts.append(svg.marker(0, scale(finding.drop.drop), y + 30, 4.5, f"state {finding.state}", title))
    title = f"{metric.replace('_', ' ')}, tolerated {limit:g} {unit}".rstrip()
    return Chart(title, svg.canvas(NARROW, bottom + 38, f"Drops of {title}", parts))


def against_time(group: Group, metric: str) -> Chart | None:
    """Draw a metric against time, with the size of the file as area; None for fewer than two timed runs."""
    runs = [run for run in group.runs if run.ratio.end_to_end and run.summary.get(metric) is not None]
    to = [run.ratio.to for run in runs]
    common = max({*to}, key=to.count, default="")
    shown = [run for run in runs if run.ratio.to == common]
    if len(shown) < 2:
        return None
    times, values = [_time(run) for run in shown], [float(run.summary[metric] or 0) for run in shown]
    low, high = min(times), max(times)
    across = svg.Scale(low / 1.3, high * 1.5, 52, WIDE - 14, log=True)
    up = svg.Scale(*svg.around(values, 0.12, LEAST), 300, 34)
    unit = METRICS[metric].unit
    better = "down" if METRICS[metric].higher_is_better is False else "up"
    name = metric.replace("_", " ") + (f", {unit}" if unit else "")
    parts = svg.vertical_axis(up, 52, WIDE - 14, f"{name}: {better} is better")
    parts += svg.horizontal_axis(across, 300, 34, f"time, times that of {common}: left is better")
    line = front(shown, metric)
    parts.append(svg.path([(across(_time(run)), up(_value(run, metric))) for run in line], "front"))
    largest = max((run.artifact.bytes or 0 for run in shown), default=0) or 1
    for index, run in enumerate(shown):
        x, y = across(_time(run)), up(_value(run, metric))
        radius = 4 + 9 * ((run.artifact.bytes or 0) / largest) ** 0.5
        title = (
            f"{run.label}: {digits(run.summary[metric])}, {_time(run):.2f} times the time, {run.artifact.megabytes} MB"
        )
        parts.append(svg.marker(index, x, y, radius, "void" if run.void else "dot", title))
    parts += names([(run.label, across(_time(run)), up(_value(run, metric))) for run in line], across)
    left = len(runs) - len(shown)
    notes = [f"{left} runs are left out: their times are ratios to another run." if left else ""]
    notes += ["Hollow marks: the machine was busy, the time means nothing." if any(run.void for run in shown) else ""]
    title = f"{metric.replace('_', ' ')} against time"
    return Chart(title, svg.canvas(WIDE, 340, title, parts), " ".join(filter(None, notes)))


def names(line: Sequence[tuple[str, float, float]], across: svg.Scale) -> list[str]:
    """Place the names of (label, x, y) along a front, the fastest and the best first; omit names without space."""
    placed: list[tuple[float, float]] = []
    parts = []
    at = {label: (x, y - 14) for label, x, y in reversed(line)}
    for label in dict.fromkeys((line[0][0], line[-1][0], *(label for label, *_ in line))):
        x, y = at[label]
        if all(abs(y - other) > 13 or abs(x - beside) > 210 for beside, other in placed):
            placed.append((x, y))
            right = x > (across.start + across.end) / 2
            parts.append(svg.text(x, max(y, 30), label, "end" if right else "start", "name"))
    return parts


def front(runs: Sequence[Run], metric: str) -> list[Run]:
    """Return the Pareto front of time and metric, the fastest first."""
    line: list[Run] = []
    sign = -1 if METRICS[metric].higher_is_better is False else 1
    for run in sorted(runs, key=lambda run: (_time(run), -sign * _value(run, metric))):
        if not line or sign * _value(run, metric) > sign * _value(line[-1], metric):
            line.append(run)
    return line


def _time(run: Run) -> float:
    assert run.ratio.end_to_end is not None
    return run.ratio.end_to_end.value


def _value(run: Run, metric: str) -> float:
    return float(run.summary[metric] or 0)


def curves(group: Group) -> list[Chart]:
    """Draw for each split the share of matches or homographies within 1 to 10 px; empty if neither is measured."""
    first = group.runs[0]
    if not {"mma@1", "mean_corner_error", "pose_error"} & first.pairs[0].extra.keys():
        return []
    share, over, value = measured(first)
    found = []
    for split, prefix in SPLITS.items():
        rows = [run.of_split(prefix) for run in group.runs]
        if not rows[0]:
            continue
        across, up = svg.Scale(1, 10, 40, NARROW - 12), svg.Scale(0, 1, 220, 30)
        parts = svg.vertical_axis(up, 40, NARROW - 12, share) + svg.horizontal_axis(
            across, 220, 30, over, ticks=THRESHOLDS
        )
        for index, (run, records) in enumerate(zip(group.runs, rows, strict=True)):
            points = [(across(t), up(float(np.mean([value(record, t) for record in records])))) for t in THRESHOLDS]
            parts.append(svg.path(points, f"curve {svg.series(index)}"))
            parts += [svg.marker(index, x, y, 3, "dot", run.label if t == 0 else "") for t, (x, y) in enumerate(points)]
        title = {"all": "all pairs", "i": "illumination", "v": "viewpoint"}[split]
        found.append(Chart(f"{title}, {len(rows[0])} pairs", svg.canvas(NARROW, 258, f"{share}, {title}", parts)))
    return found


def legend(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return (label, marker as SVG) for each series, in order."""
    found = []
    for index, label in enumerate(labels):
        parts = [svg.path([(2, 8), (32, 8)], f"curve {svg.series(index)}"), svg.marker(index, 17, 8, 4, "dot")]
        found.append((label, svg.canvas(34, 16, label, parts)))
    return found
