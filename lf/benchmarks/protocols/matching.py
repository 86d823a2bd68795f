"""Nearest descriptors: one matrix product, exact ties, bounded memory."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lf.core import Array

Metric = Literal["l2", "dot"]

ROWS, BLOCK = 1024, 1 << 22  # similarities in memory: at most 16 MiB in float32
CLOSE = 0.05  # distance of unit vectors; below it, float32 squares are too inexact, and float64 decides


def nearest(desc0: Array, desc1: Array, metric: Metric) -> tuple[Array, Array]:
    """Find nearest neighbours in both directions, without cross-check. Ties go to the lowest index.

    Args:
        desc0: (N0, D) descriptors of the first image.
        desc1: (N1, D) descriptors of the second image.
        metric: "dot" (largest product) or "l2" (smallest Euclidean distance, any length).

    Returns:
        (N0,) index into `desc1` and (N1,) index into `desc0`; -1 where the other image has no descriptor.
    """
    if not len(desc0) or not len(desc1):
        return np.full(len(desc0), -1), np.full(len(desc1), -1)
    a, b = _cast(desc0, desc1)
    if metric == "dot":
        return _search(a, b)[:2]
    forward, backward, best0, best1 = _search(*_lift(a, b))
    close0, close1 = (np.flatnonzero(best > -(CLOSE**2) / 2) for best in (best0, best1))
    if a.dtype == np.float32 and (close0.size or close1.size):
        a, b = _lift(np.asarray(desc0, np.float64), np.asarray(desc1, np.float64))
        forward[close0] = _search(a[close0], b)[0]
        backward[close1] = _search(a, b[close1])[1]
    return forward, backward


def mutual(desc0: Array, desc1: Array, metric: Metric) -> tuple[Array, Array]:
    """Find mutual nearest neighbours: OpenCV's cross-check (protocols, section 0).

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


def distinct(desc0: Array, desc1: Array, ratio: float, both: bool) -> tuple[Array, Array]:
    """Find mutual nearest neighbours by the dot product that pass Lowe's ratio test.

    Args:
        desc0: (N0, D) unit descriptors of the first image.
        desc1: (N1, D) unit descriptors of the second image.
        ratio: largest ratio of the Euclidean distances to the nearest and to the second nearest descriptor.
        both: True: the test must also hold from the second image to the first.

    Returns:
        (M,) indices i into `desc0`, ascending, and (M,) indices j into `desc1`.
    """
    i, j = mutual(desc0, desc1, "dot")
    if not len(i):
        return i, j
    a, b = _cast(desc0, desc1)
    near = _distance(np.vecdot(a[i], b[j]))
    kept = near <= ratio * _distance(_second(a[i], b, j))
    if both:
        kept &= near <= ratio * _distance(_second(b[j], a, i))
    return i[kept], j[kept]


def _second(a: Array, b: Array, best: Array) -> Array:
    """Return the largest product (N,) of each row of `a` with a row of `b` other than `best`; -1 if there is none."""
    found = np.full(len(a), -1, a.dtype)
    rows = max(1, min(ROWS, BLOCK // len(b)))
    for start in range(0, len(a) if len(b) > 1 else 0, rows):
        block = slice(start, start + rows)
        with np.errstate(invalid="ignore"):  # as in `_search`
            similarity = a[block] @ b.T
        similarity[np.arange(len(similarity)), best[block]] = -np.inf
        found[block] = similarity.max(axis=1)
    return found


def _distance(product: Array) -> Array:
    """Convert dot products of unit vectors to Euclidean distances."""
    return np.asarray(np.sqrt(np.maximum(2 - 2 * product, 0)))


def _search(a: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """Find the column of the largest product in each row of a b^T, the row in each column, and these products."""
    forward, best0 = np.zeros(len(a), int), np.empty(len(a), a.dtype)
    backward, best1 = np.zeros(len(b), int), np.full(len(b), -np.inf, b.dtype)
    rows = max(1, min(ROWS, BLOCK // max(1, len(b))))
    buffer = np.empty((min(rows, len(a)), len(b)), dtype=a.dtype)  # one buffer: new ones take a third longer
    for start in range(0, len(a) if len(b) else 0, rows):
        block = slice(start, start + rows)
        with np.errstate(invalid="ignore"):  # as in `lf.models.decode.refine`
            similarity = np.matmul(a[block], b.T, out=buffer[: len(a[block])])
        forward[block] = similarity.argmax(axis=1)
        best0[block] = similarity[np.arange(len(similarity)), forward[block]]
        value, row = _column_maxima(similarity)
        better = value > best1  # strict: ties go to the earlier block
        best1[better] = value[better]
        backward[better] = start + row[better]
    return forward, backward, best0, best1


def _lift(a: Array, b: Array) -> tuple[Array, Array]:
    """Append two columns, so that the dot product is -|a - b|^2 / 2: the largest product is the smallest distance."""
    half0, half1 = np.vecdot(a, a) / 2, np.vecdot(b, b) / 2
    return np.column_stack([a, -half0, np.ones_like(half0)]), np.column_stack([b, np.ones_like(half1), -half1])


def _column_maxima(matrix: Array) -> tuple[Array, Array]:
    """Return the largest value (N,) of each column of (M, N), and its first row (N,); faster than `argmax(axis=0)`."""
    value, row = matrix.max(axis=0), np.empty(matrix.shape[1], dtype=int)
    found, column = np.divmod(np.flatnonzero(matrix == value), matrix.shape[1])
    row[column[::-1]] = found[::-1]  # the first row is written last
    return value, row


def _cast(desc0: Array, desc1: Array) -> tuple[Array, Array]:
    """Convert both sets to float32 if no vector is longer than 1.

    Longer vectors are converted to float64, because |a|^2 + |b|^2 - 2ab cancels digits.
    """
    a, b = np.asarray(desc0, dtype=np.float32), np.asarray(desc1, dtype=np.float32)
    if max(np.vecdot(desc, desc).max() for desc in (a, b)) <= 1.01:  # float16 unit vectors are 1e-3 off
        return a, b
    return np.asarray(desc0, dtype=np.float64), np.asarray(desc1, dtype=np.float64)
