"""A metric by sequence and run, as a table with coloured cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lf.benchmarks import METRICS
from lf.benchmarks.report.tables import digits
from lf.benchmarks.report.web.groups import Group
from lf.benchmarks.run.record import PairScores

WANTED = ("mma@3", "matching_score", "repeatability")
MOST = 200  # sequences; a longer table is cut with a remark


class Cell(NamedTuple):
    """text: the number, `-` if undefined. shade: 0 is the worst of the table, 1 the best; or None."""

    text: str
    shade: float | None


class Heat(NamedTuple):
    """metric: the metric shown. head: labels of the runs. rows: (sequence, its cells). left: hidden sequences."""

    metric: str
    head: list[str]
    rows: list[tuple[str, list[Cell]]]
    left: int


def heat(group: Group) -> Heat | None:
    """Return the mean over the pairs of each sequence, sequences with the lowest mean over runs first.

    None if the group has no metric of WANTED, or a single sequence.
    """
    metric = next((name for name in WANTED if name in group.metrics), None)
    sequences = [*dict.fromkeys(pair.sequence for pair in group.runs[0].pairs)]
    if metric is None or len(sequences) < 2:
        return None
    means = np.array([[_mean(run.pairs, name, metric) for run in group.runs] for name in sequences])
    known = means[np.isfinite(means)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    sign = -1 if METRICS[metric].higher_is_better is False else 1
    order = np.argsort(sign * np.nan_to_num(means, nan=low).mean(axis=1), kind="stable")[:MOST]
    rows = [(sequences[i], [_cell(value, low, high, sign) for value in means[i]]) for i in order]
    return Heat(metric.replace("_", " "), [run.label for run in group.runs], rows, len(sequences) - len(order))


def _mean(pairs: Sequence[PairScores], sequence: str, metric: str) -> float:
    values = [pair.extra.get(metric) for pair in pairs if pair.sequence == sequence]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _cell(value: float, low: float, high: float, sign: int) -> Cell:
    if not np.isfinite(value):
        return Cell("-", None)
    share = (value - low) / (high - low) if high > low else 1.0
    return Cell(digits(value), share if sign > 0 else 1 - share)
