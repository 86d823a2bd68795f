"""Find the peaks of a score map. numpy and OpenCV only.

A flat index is y * W + x; wherever scores are equal, the lower index goes first.
"""

from __future__ import annotations

import cv2
import numpy as np

from lf.core import Array

BLOCK = 1 << 14  # pixels in a block, whose squares are read together


def nms(score: Array, threshold: float, radius: int, rounds: int | None = None, first: Array | None = None) -> Array:
    """Exact greedy non-maximum suppression, in rounds.

    The greedy rule: visit candidates by descending score, equal scores by index; keep each candidate that is not
    suppressed, and suppress its square. The best candidate of its own square is always kept by this rule. So every
    round keeps all such leaders and clears their squares. The leaders of the first round are the local maxima of the
    map, so only the candidates that remain after it are sorted.

    Args:
        score: (H, W) float32.
        threshold: smallest score of a candidate.
        radius: px, Chebyshev.
        rounds: number of rounds, for networks published with a limit; None continues to the end.
        first: result of `local_maxima` for this map, threshold and radius, if known.

    Returns:
        (N,) flat indices in descending score.
    """
    kept = local_maxima(score, threshold, radius) if first is None else first
    if rounds != 1:
        leads = np.zeros(score.shape, np.uint8)
        leads.reshape(-1)[kept] = 1
        cleared = cv2.dilate(leads, np.ones((2 * radius + 1,) * 2, np.uint8))
        rest = np.flatnonzero((score >= threshold) & (cleared == 0))
        kept = np.concatenate([kept, _later_rounds(score, rest, radius, rounds and rounds - 1)])
    return falling(score, kept)


def _later_rounds(score: Array, candidates: Array, radius: int, rounds: int | None) -> Array:
    """Return the flat indices (N,) that `nms` keeps in its later rounds.

    Only candidates within twice the radius of a leader can become leaders in the next round.
    """
    height, width = score.shape
    order = falling(score, candidates)
    count, margin = len(order), 2 * radius
    # Ranks replace scores, so that ties are resolved once. OpenCV filters floats only; float32 is exact up to 2**24.
    stride = width + 2 * margin
    ranks = np.full((height + 2 * margin, stride), count, np.float32 if count < 1 << 24 else np.float64)
    flat = ranks.reshape(-1)
    at = order + order // width * (stride - width) + margin * stride + margin
    front = np.arange(count)
    flat[at] = front
    near, far = square(radius, stride), square(2 * radius, stride)
    leaders: list[Array] = []
    while front.size and len(leaders) != rounds:
        if front.size * near.size < flat.size:
            best = flat[at[front, None] + near].min(1)
        else:
            best = cv2.erode(ranks, np.ones((2 * radius + 1,) * 2, np.uint8)).reshape(-1)[at[front]]
        kept = front[best == front]
        leaders.append(kept)
        flat[at[kept, None] + near] = count
        if kept.size * far.size < count:
            alive = flat[at[kept, None] + far]
            front = np.unique(alive[alive < count]).astype(np.intp)
        else:
            front = np.flatnonzero(flat[at] < count)
    return order[np.concatenate(leaders)] if leaders else order


def thin(points: Array, scores: Array, size: tuple[int, int], radius: int) -> Array:
    """Suppress points (N, 2) px inside (H, W) as `nms`; return indices of kept points, best first, one per pixel."""
    last = np.array([size[1] - 1, size[0] - 1])
    x, y = np.clip(np.round(points), 0, last).astype(np.intp).T
    order = np.argsort(-scores, kind="stable")
    pixels, first = np.unique((y * size[1] + x)[order], return_index=True)
    score = np.full(size, -np.inf, np.float32)
    score.reshape(-1)[pixels] = scores[order[first]]
    kept: Array = order[first[np.searchsorted(pixels, nms(score, float(np.finfo(np.float32).min), radius))]]
    return kept


def falling(score: Array, index: Array) -> Array:
    """Sort flat indices (N,) of a float32 map by descending score; ties by ascending index.

    The bits of floats have the order of the floats, and integers sort in half the time of a stable `argsort`.
    """
    bits = (score.reshape(-1)[index] + np.float32(0)).view(np.int32)  # the sum makes -0 a 0
    bits ^= (bits >> 31) & 0x7FFFFFFF  # negative floats have reversed order
    keys = (~bits).astype(np.int64) << 32 | index
    keys.sort()
    sorted_index: Array = keys & 0xFFFFFFFF
    return sorted_index


def local_maxima(score: Array, threshold: float, radius: int = 1) -> Array:
    """Return ascending flat indices (N,) of pixels >= `threshold` that are maxima of their square; ties: the first.

    The square has the side 2 * radius + 1. Unlike in `nms`, suppressed pixels still suppress their neighbours: the
    max-filter rule of R2D2 and others.
    """
    width, side = score.shape[1], 2 * radius + 1
    index = np.flatnonzero((score >= threshold) & (score == cv2.dilate(score, np.ones((side, side), np.uint8))))
    padded = cv2.copyMakeBorder(score, radius, 0, radius, radius, cv2.BORDER_CONSTANT, value=-np.inf).reshape(-1)
    stride = width + 2 * radius
    earlier = square(radius, stride)[: side * side // 2, None]
    at = index + index // width * 2 * radius + radius * (stride + 1)
    blocks = np.array_split(at, 1 + len(at) // BLOCK)
    leads = [(padded.take(earlier + block) < padded[block]).all(0) for block in blocks]
    first: Array = index[np.concatenate(leads)]
    return first


def square(radius: int, stride: int) -> Array:
    """Return flat offsets of the (2 * radius + 1)^2 pixels around a pixel, in a map of `stride` columns."""
    span = np.arange(-radius, radius + 1)
    return np.add.outer(span * stride, span).reshape(-1)
