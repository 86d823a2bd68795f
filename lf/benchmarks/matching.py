"""Nearest descriptors: one matrix product, exact ties, bounded memory."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lf.core import Array

Metric = Literal["l2", "dot"]

ROWS, BLOCK = 512, 1 << 22  # of similarities held at once: at most 16 MiB in float32, twice while columns are searched


def nearest(desc0: Array, desc1: Array, metric: Metric) -> tuple[Array, Array]:
    """Nearest neighbours without cross-check, both ways from one product; equal distances go to the lowest index.

    Args:
        desc0: (N0, D) descriptors of the first image.
        desc1: (N1, D) descriptors of the second image.
        metric: "dot" (largest product) or "l2" (smallest Euclidean distance, any length).

    Returns:
        (N0,) index into `desc1` and (N1,) index into `desc0`; -1 where the other image has no descriptor.
    """
    forward, backward = np.full(len(desc0), -1), np.full(len(desc1), -1)
    if not len(desc0) or not len(desc1):
        return forward, backward
    a, b = _cast(desc0, desc1)
    half0, half1 = np.vecdot(a, a)[:, None] / 2, np.vecdot(b, b) / 2
    best = np.full(len(b), -np.inf, dtype=a.dtype)
    columns = np.arange(len(b))
    rows = max(1, min(ROWS, BLOCK // len(b)))
    buffer = np.empty((min(rows, len(a)), len(b)), dtype=a.dtype)  # fresh pages for each block would cost a third more
    for start in range(0, len(a), rows):
        block = a[start : start + rows]
        similarity = np.matmul(block, b.T, out=buffer[: len(block)])
        if metric == "l2":  # -|a - b|^2 / 2
            similarity -= half1
            similarity -= half0[start : start + rows]
        forward[start : start + rows] = similarity.argmax(axis=1)
        row = similarity.argmax(axis=0)
        value = similarity[row, columns]
        better = value > best  # strict: an earlier block keeps a tie
        best[better] = value[better]
        backward[better] = start + row[better]
    return forward, backward


def mutual(desc0: Array, desc1: Array, metric: Metric) -> tuple[Array, Array]:
    """Pairs that are each other's nearest neighbour: OpenCV's cross-check (protocols, section 0).

    Args:
        desc0: (N0, D) descriptors of the first image.
        desc1: (N1, D) descriptors of the second image.
        metric: see `nearest`.

    Returns:
        (M,) indices i into `desc0`, ascending, and (M,) indices j into `desc1`.
    """
    forward, backward = nearest(desc0, desc1, metric)
    i = np.flatnonzero(forward >= 0)
    i = i[backward[forward[i]] == i]
    return i, forward[i]


def _cast(desc0: Array, desc1: Array) -> tuple[Array, Array]:
    """float32 up to unit length; float64 beyond, where |a|^2 + |b|^2 - 2ab cancels to fewer digits than float32 has."""
    a, b = np.asarray(desc0, dtype=np.float32), np.asarray(desc1, dtype=np.float32)
    if max(np.vecdot(a, a).max(), np.vecdot(b, b).max()) <= 1.01:  # float16 unit vectors are 1e-3 off
        return a, b
    return np.asarray(desc0, dtype=np.float64), np.asarray(desc1, dtype=np.float64)
