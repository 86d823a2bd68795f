"""How much worse one run is than another, pair by pair: the one comparison behind tables, gates and searches."""

from __future__ import annotations

from typing import Any, NamedTuple

from lf.benchmarks import METRICS, aggregate
from lf.benchmarks.protocols.summary import interval, paired
from lf.core import Array

Run = dict[str, Any]


class Worse(NamedTuple):
    """A metric of two runs, over the pairs where both have a value.

    Attributes:
        first, second: the number of either.
        n: how many pairs.
        drop: by how much the second is worse, whichever way the metric points; in its unit.
        draws: the same of resampled pairs, None if they are too few, see `lf.benchmarks.protocols.summary.paired`.
        lost: how many fewer pairs have a value in the second, see `lf.benchmarks.protocols.summary.Change`.
    """

    first: float
    second: float
    n: int
    drop: float
    draws: Array | None
    lost: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % of the drop."""
        return None if self.draws is None else interval(self.draws)


def worse(first: Run, second: Run, metric: str) -> Worse | None:
    """Compare two runs of the same pairs under one protocol; None where no pair has a value in both."""
    of, statistic = aggregate(second["protocol"], metric)
    before, after = (
        {(pair["sequence"], pair["pair"]): pair.get(of) for pair in run["pairs"]} for run in (first, second)
    )
    change = paired(list(before.values()), [after[key] for key in before], statistic)
    if change is None:
        return None
    sign = 1 if METRICS[metric].higher_is_better is False else -1
    drop = sign * (change.second - change.first)
    draws = None if change.draws is None else sign * change.draws
    return Worse(change.first, change.second, change.n, drop, draws, change.lost)


def at(run: Run) -> str:
    """How the name of a run says the size and the suppression that were asked for: ` at 180x240 nms 4`, or nothing."""
    size = " at {}x{}".format(*run["input_size"]) if run.get("input_size") else ""
    return size + (f" nms {run['nms']}" if run.get("nms") else "")
