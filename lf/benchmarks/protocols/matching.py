"""Nearest descriptors: one matrix product, exact ties, bounded memory."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lf.core import Array

Metric = Literal["l2", "dot"]

ROWS, BLOCK = 1024, 1 << 22  # of similarities held at once: at most 16 MiB in float32
CLOSE = 0.05  # a distance of unit vectors, below which float32 has too few digits of its square: float64 decides there


def nearest(desc0: Array, desc1: Array, metric: Metric) -> tuple[Array, Array]:
    """Nearest neighbours without cross-check, both ways from one product; equal distances go to the lowest index.

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


def distinct(desc0: Array, desc1: Array, ratio: float, both: bool) -> tuple[Array, Array]:
    """Mutual nearest neighbours by the dot product that are clearly nearer than the second best (Lowe's ratio test).

    Args:
        desc0: (N0, D) unit descriptors of the first image.
        desc1: (N1, D) unit descriptors of the second image.
        ratio: most that the Euclidean distance to the nearest may be of that to the second nearest.
        both: whether the test must hold from the second image to the first, too.

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
    """(N,) the largest product of each row of `a` with another row of `b` than `best`; -1 where there is none."""
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
    """Euclidean distance of unit vectors with these products."""
    return np.asarray(np.sqrt(np.maximum(2 - 2 * product, 0)))


def _search(a: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """Column of the largest product in each row of a b^T, row of that in each column, and these products."""
    forward, best0 = np.zeros(len(a), int), np.empty(len(a), a.dtype)
    backward, best1 = np.zeros(len(b), int), np.full(len(b), -np.inf, b.dtype)
    rows = max(1, min(ROWS, BLOCK // max(1, len(b))))
    buffer = np.empty((min(rows, len(a)), len(b)), dtype=a.dtype)  # fresh pages for each block would cost a third more
    for start in range(0, len(a) if len(b) else 0, rows):
        block = slice(start, start + rows)
        with np.errstate(invalid="ignore"):  # as in `lf.models.decode.refine`
            similarity = np.matmul(a[block], b.T, out=buffer[: len(a[block])])
        forward[block] = similarity.argmax(axis=1)
        best0[block] = similarity[np.arange(len(similarity)), forward[block]]
        value, row = _column_maxima(similarity)
        better = value > best1  # strict: an earlier block keeps a tie
        best1[better] = value[better]
        backward[better] = start + row[better]
    return forward, backward, best0, best1


def _lift(a: Array, b: Array) -> tuple[Array, Array]:
    """Vectors whose product is -|a - b|^2 / 2: two more columns make the search for small distances one product."""
    half0, half1 = np.vecdot(a, a) / 2, np.vecdot(b, b) / 2
    return np.column_stack([a, -half0, np.ones_like(half0)]), np.column_stack([b, np.ones_like(half1), -half1])


def _column_maxima(matrix: Array) -> tuple[Array, Array]:
    """(N,) largest value of each column of (M, N), and (N,) its first row; `argmax(axis=0)` takes twice as long."""
    value, row = matrix.max(axis=0), np.empty(matrix.shape[1], dtype=int)
    found, column = np.divmod(np.flatnonzero(matrix == value), matrix.shape[1])
    row[column[::-1]] = found[::-1]  # the first row is written last
    return value, row


def _cast(desc0: Array, desc1: Array) -> tuple[Array, Array]:
    """Both sets: float32 up to unit length.

    Beyond it float64, where |a|^2 + |b|^2 - 2ab cancels to fewer digits than float32 has.
    """
    a, b = np.asarray(desc0, dtype=np.float32), np.asarray(desc1, dtype=np.float32)
    if max(np.vecdot(desc, desc).max() for desc in (a, b)) <= 1.01:  # float16 unit vectors are 1e-3 off
        return a, b
    return np.asarray(desc0, dtype=np.float64), np.asarray(desc1, dtype=np.float64)
