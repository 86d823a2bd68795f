"""Find the peaks of a score map. numpy and OpenCV only.

A flat index is y * W + x; wherever scores are equal, the lower index goes first.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from lf.core import Array

BLOCK = 1 << 14  # pixels in a block, whose squares are read together
WRITING = 3  # time to write a pixel by its index, relative to that of filtering one
FEW = 16  # candidates are few if there are fewer than one for this many pixels


def nms(score: Array, threshold: float, radius: int, rounds: int | None = None, first: Array | None = None) -> Array:
    """Exact greedy non-maximum suppression, in rounds.

    The greedy rule: visit candidates by descending score, equal scores by index; keep each candidate that is not
    suppressed, and suppress its square. The best candidate of its own square is always kept by this rule. So every
    round keeps all such leaders and clears their squares. The leaders of the first round are the local maxima of the
    map. If there are many candidates, only those that remain after it are sorted.

    Args:
        score: (H, W) float32.
        threshold: smallest score of a candidate.
        radius: px, Chebyshev.
        rounds: number of rounds, for networks published with a limit; None continues to the end.
        first: result of `local_maxima` for this map, threshold and radius, if known.

    Returns:
        (N,) flat indices in descending score.
    """
    if first is None and few(score, threshold):
        order = falling(score, np.flatnonzero(score >= threshold))
        best: Array = order[np.sort(greedy(order, score.shape, radius, rounds))]
        return best
    kept = local_maxima(score, threshold, radius) if first is None else first
    if rounds != 1:
        rest = np.flatnonzero((score >= threshold) & (covered(score.shape, kept, radius) == 0))
        order = falling(score, rest)
        kept = np.concatenate([kept, order[greedy(order, score.shape, radius, rounds and rounds - 1)]])
    return falling(score, kept)


def few(score: Array, threshold: float) -> bool:
    """Return whether so few pixels reach the threshold that to sort them takes less time than to filter the map."""
    return bool(np.count_nonzero(score >= threshold) * FEW < score.size)


def greedy(order: Array, size: tuple[int, ...], radius: int, rounds: int | None = None) -> Array:
    """Apply the greedy rule of `nms` to candidates in a given order.

    Only candidates within twice the radius of a leader can become leaders in the next round.

    Args:
        order: (N,) flat indices of the candidates, the best first.
        size: H, W of the map.
        radius: px, Chebyshev.
        rounds: number of rounds; None continues to the end.

    Returns:
        (M,) positions in `order` of the kept candidates, by rounds.
    """
    count, margin, stride = len(order), 2 * radius, size[1] + 4 * radius
    # Levels replace scores, so that there are no ties: the best candidate has the level `count`, all others 0.
    kind = np.uint16 if count < 1 << 16 else np.float32 if count < 1 << 24 else np.float64  # OpenCV filters these
    levels = np.zeros((size[0] + 2 * margin, stride), kind)
    flat = levels.reshape(-1)
    at = into_frame(order, size[1], margin)
    flat[at] = np.arange(count, 0, -1)
    alive = front = np.arange(count)
    touching, near, far = (square(reach, stride)[:, None] for reach in (min(1, radius), radius, 2 * radius))
    leaders: list[Array] = []
    while front.size and len(leaders) != rounds:
        if front.size * near.size > flat.size:
            kept = front[cv2.dilate(levels, _kernel(radius)).reshape(-1)[at[front]] == count - front]
        else:
            kept = front
            for around in (touching, near):  # few candidates beat the pixels that they touch, so few squares are read
                kept = kept[flat.take(around + at[kept]).max(0) == count - kept]
        leaders.append(kept)
        if kept.size * near.size * WRITING > flat.size:
            gone = covered(levels.shape, at[kept], radius).reshape(-1)[at[alive]] > 0
            flat[at[alive[gone]]] = 0
            front = alive = alive[~gone]
        else:
            flat[near + at[kept]] = 0
            if kept.size * far.size < alive.size:
                reached = flat.take(far + at[kept])
                front = count - np.unique(reached[reached > 0])[::-1].astype(np.intp)
            else:
                front = alive = alive[flat[at[alive]] > 0]
    return np.concatenate([np.arange(0), *leaders])


def covered(size: tuple[int, ...], index: Array, radius: int) -> Array:
    """Return a map (H, W) uint8 with 1 in the squares of the flat indices (N,)."""
    leads = np.zeros(size, np.uint8)
    leads.reshape(-1)[index] = 1
    return cv2.dilate(leads, _kernel(radius))


def _kernel(radius: int) -> Array:
    return np.ones((2 * radius + 1,) * 2, np.uint8)


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
    """Sort flat indices (N,) of a float32 map by descending score; ties by ascending index."""
    return ranked(score.reshape(-1)[index], index)


def ranked(scores: Array, index: Array) -> Array:
    """Sort flat indices (N,) by descending float32 scores (N,); ties by ascending index.

    The bits of floats have the order of the floats, and integers sort in half the time of a stable `argsort`.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # the sum makes -0 a 0
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
    padded = framed(score, radius).reshape(-1)
    stride = width + 2 * radius
    earlier = square(radius, stride)[: side * side // 2, None]
    blocks = np.array_split(into_frame(index, width, radius), 1 + len(index) // BLOCK)
    leads = [(padded.take(earlier + block) < padded[block]).all(0) for block in blocks]
    first: Array = index[np.concatenate(leads)]
    return first


def framed(score: Array, margin: int) -> Array:
    """Return a copy (H + 2 * margin, W + 2 * margin) of a map in a frame of -inf."""
    made: Array = cv2.copyMakeBorder(score, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=-np.inf)
    return made


def into_frame(index: Array, width: int, margin: int) -> Array:
    """Return the flat indices (N,) in a framed map of flat indices (N,) in a map of `width` columns."""
    moved: Array = index + index // width * 2 * margin + margin * (width + 2 * margin + 1)
    return moved


@lru_cache(64)
def square(radius: int, stride: int) -> Array:
    """Return flat offsets of the (2 * radius + 1)^2 pixels around a pixel, in a map of `stride` columns."""
    span = np.arange(-radius, radius + 1)
    around = np.add.outer(span * stride, span).reshape(-1)
    around.flags.writeable = False  # later calls return the same array
    return around
