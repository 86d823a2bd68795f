"""Means over pairs, and how sure they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from lf.benchmarks import METRICS
from lf.core import Array

RESAMPLES = 2000
SPLITS = {"all": "", "i": "i_", "v": "v_"}  # name -> how its sequences begin: illumination, viewpoint


class Mean(TypedDict):
    """mean: plain mean over the pairs where the value is defined, None if there are none. n: how many those are."""

    mean: float | None
    n: int


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mean]]:
    """Average records `{"sequence": str, metric: float | None, ...}`, one per pair; other keys are left alone.

    Returns:
        split -> metric -> Mean for "all" and, where it has pairs, "i" and "v".
    """
    summary = {}
    for split, prefix in SPLITS.items():
        rows = [record for record in records if record["sequence"].startswith(prefix)]
        if rows or split == "all":
            names = [name for name in METRICS if any(name in row for row in rows)]
            summary[split] = {name: _mean(row.get(name) for row in rows) for name in names}
    return summary


def bootstrap(values: Sequence[float | None], seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over pairs, undefined values left out; None if nothing is left."""
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(defined):
        return None
    draws: Array = np.random.default_rng(seed).integers(len(defined), size=(RESAMPLES, len(defined)))
    low, high = np.quantile(defined[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def paired_bootstrap(
    first: Sequence[float | None], second: Sequence[float | None], seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the mean of `second - first`, pair by pair, over pairs where both are defined.

    An interval that holds 0 is no evidence of a difference.
    """
    both = zip(first, second, strict=True)
    return bootstrap([b - a for a, b in both if a is not None and b is not None], seed)


def _mean(values: Iterable[float | None]) -> Mean:
    defined = [value for value in values if value is not None]
    return {"mean": sum(defined) / len(defined) if defined else None, "n": len(defined)}
