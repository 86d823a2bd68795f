"""Means, intervals and drops of a run, from one record per pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from lf.core import Array

RESAMPLES = 2000
LEAST = 10  # least number of values for an interval: fewer do not show the spread
SPLITS = {"all": "", "i": "i_", "v": "v_"}  # name -> prefix of its sequences: illumination, viewpoint
LABELS = ("sequence", "pair")  # fields of a record that are not metrics
CONFUSION = "confusion"  # the field of a record that is not a number and has no mean

Value = float | None  # of one pair; None if undefined
Record = Mapping[str, Any]  # {"sequence": str, "pair": str, metric: Value, ...}


def _floats(values: Sequence[Any]) -> Array:
    return np.array(values, dtype=np.float64)


class Statistic(NamedTuple):
    """Aggregation of the values of many pairs to one number.

    Attributes:
        about: one line, for results.
        counts: converts the value of a pair for `value`; None leaves the pair out.
        value: (..., n) -> (...), over the last axis; for vectors (..., n, K) -> (...).
        compared: replaces `counts` in comparisons of two runs, if given.
        gather: converted values -> (n,) float64, or (n, K) for vectors.
        resampled: (result of `gather`, indices (R, n)) -> (R,), if that is faster than `value` of every draw.
    """

    about: str
    counts: Callable[[Any], Any]
    value: Callable[[Array], Array]
    compared: Callable[[Any], Any] | None = None
    gather: Callable[[Sequence[Any]], Array] = _floats
    resampled: Callable[[Array, Array], Array] | None = None

    def drawn(self, kept: Array, draws: Array) -> Array:
        """Return the statistic of every draw: (R,)."""
        return self.value(kept[draws]) if self.resampled is None else self.resampled(kept, draws)


class Aggregate(NamedTuple):
    """of: the metric of the records. statistic: its aggregation."""

    of: str
    statistic: Statistic


class Mean(TypedDict):
    """mean: the mean, or another statistic of the protocol; None without pairs. n: number of pairs.

    interval: 95 % bootstrap interval, see `bootstrap`; None below LEAST pairs.
    """

    mean: float | None
    n: int
    interval: tuple[float, float] | None


class Change(NamedTuple):
    """Change of a statistic from a first to a second run, over the pairs that count in both.

    Attributes:
        first: the statistic of the first run.
        second: the statistic of the second run.
        n: number of pairs.
        draws: (RESAMPLES,) second - first over resampled pairs; None below LEAST pairs.
        lost: decrease of the number of pairs that count, as a share of the first run's; below 0, the number increases.
    """

    first: float
    second: float
    n: int
    draws: Array | None
    lost: float


def area_under_recall(errors: Array, limit: float) -> Array:
    """Return the area under the recall curve of errors (..., n) from 0 to `limit`, divided by `limit`; in [0, 1].

    Recall is 0 at 0 and (i + 1) / n at the i-th smallest error, linear in between, and constant from the last error
    below `limit` on: "AUC" of glue-factory and SuperGlue (arXiv 1911.11763), without their rounding.
    """
    errors, n = np.sort(errors, axis=-1), errors.shape[-1]
    below = errors < limit
    width = np.diff(np.minimum(errors, limit), axis=-1, prepend=0, append=limit)  # (..., n + 1)
    height = np.arange(n + 1.0) / n + np.zeros_like(width)
    height[..., :-1] += below / (2 * n)
    return np.asarray((width * height).sum(axis=-1) / limit)


def _mean(values: Array) -> Array:
    return np.asarray(values.mean(axis=-1))


MEAN = Statistic("mean over the pairs where it is defined", lambda value: value, _mean)
MEDIAN = Statistic("median over the pairs", lambda value: value, lambda values: np.asarray(np.median(values, axis=-1)))
# comparisons count pairs with the value 0, because a fall to 0 is the largest drop
MEAN_ABOVE_0 = Statistic("mean over the pairs where it is above 0", lambda value: value or None, _mean, MEAN.counts)


def recall_area(limit: float) -> Statistic:
    """Make the statistic `area_under_recall` up to `limit` px; undefined errors count as infinite."""
    about = f"area under the recall of pairs up to {limit:g} px, where undefined errors are infinite"
    area = partial(area_under_recall, limit=float(limit))
    return Statistic(about, lambda value: np.inf if value is None else value, area)


def summarise(
    records: Sequence[Record], aggregates: Mapping[str, Aggregate] | None = None
) -> dict[str, dict[str, Mean]]:
    """Aggregate the records: one number per metric, and per aggregate of the protocol, which may replace a mean.

    Returns:
        split -> metric -> Mean for "all" and, where it has pairs, "i" and "v".
    """
    names = dict.fromkeys(name for record in records for name in record if name not in LABELS)
    plan = {name: Aggregate(name, MEAN) for name in names if name != CONFUSION}
    plan |= {name: how for name, how in (aggregates or {}).items() if how.of in names}
    summary = {}
    for split, prefix in SPLITS.items():
        rows = [record for record in records if record["sequence"].startswith(prefix)]
        if rows or split == "all":
            summary[split] = {name: number([row.get(of) for row in rows], how) for name, (of, how) in plan.items()}
    return summary


def overview(records: Sequence[Record], aggregates: Mapping[str, Aggregate]) -> dict[str, Any]:
    """Return the fields of a run that summarise its records; see docs/reference/results-file.md."""
    summary = summarise(records, aggregates)
    whole = summary.pop("all")
    return {
        "summary": _column(whole, "mean"),
        "counts": _column(whole, "n"),
        "intervals": _column(whole, "interval"),
        "by_split": {split: _column(part, "mean") for split, part in summary.items()},
        "counts_by_split": {split: _column(part, "n") for split, part in summary.items()},
        "intervals_by_split": {split: _column(part, "interval") for split, part in summary.items()},
    }


def _column(rows: Mapping[str, Mean], key: Literal["mean", "n", "interval"]) -> dict[str, Any]:
    return {name: row[key] for name, row in rows.items()}


def number(values: Sequence[Any], statistic: Statistic) -> Mean:
    """Return the statistic of the pairs that count, with its confidence interval."""
    kept = _counted(values, statistic)
    mean = float(statistic.value(kept)) if len(kept) else None
    return {"mean": mean, "n": len(kept), "interval": bootstrap(values, statistic)}


def bootstrap(values: Sequence[Any], statistic: Statistic = MEAN, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % bootstrap percentile interval over the pairs that count; None for fewer than LEAST."""
    kept = _counted(values, statistic)
    return interval(statistic.drawn(kept, _draws(len(kept), seed))) if len(kept) >= LEAST else None


def paired(first: Sequence[Any], second: Sequence[Any], statistic: Statistic = MEAN, seed: int = 0) -> Change | None:
    """Return the paired change of a statistic between two runs, over the pairs that count in both; None without pairs.

    If the interval of its draws contains 0, there is no evidence of a difference.
    """
    enters = statistic.compared or statistic.counts
    both = [(enters(a), enters(b)) for a, b in zip(first, second, strict=True)]
    flat = [value for row in both if None not in row for value in row]
    if not flat:
        return None
    gathered = statistic.gather(flat)
    kept = gathered.reshape(-1, 2, *gathered.shape[1:]).swapaxes(0, 1)  # (2, n) or (2, n, K)
    old, new = statistic.value(kept).tolist()
    had, has = (sum(value is not None for value in run) for run in zip(*both, strict=True))
    n, change = kept.shape[1], None
    if n >= LEAST:
        draws = _draws(n, seed)
        change = statistic.drawn(kept[1], draws) - statistic.drawn(kept[0], draws)
    return Change(old, new, n, change, (had - has) / had)


def _counted(values: Iterable[Any], statistic: Statistic) -> Array:
    entered = (statistic.counts(value) for value in values)
    return statistic.gather([value for value in entered if value is not None])


def _draws(n: int, seed: int) -> Array:
    """Draw indices of pairs (RESAMPLES, n) with replacement."""
    return np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))


def interval(draws: Array) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def brackets(bounds: Sequence[float] | None, n: int, write: Callable[[float], str], of: str = "pairs") -> str:
    """Format an interval for tables, `[low, high]`; without an interval, the number of values."""
    return f"interval: n/a ({n} {of})" if bounds is None else f"[{', '.join(map(write, bounds))}]"
