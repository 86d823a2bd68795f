"""Find and refine the peaks of logits that a network folds into squares of 2x2 pixels. numpy and OpenCV only.

A folded map is (4, h, w): the channels are the pixels of a square, row by row, so it has 2h x 2w pixels. The results
are those of `lf.models.decode` for the unfolded map of odds, bit for bit. They take less time: most passes read only
the largest logit of each square, and only the pixels that are compared closely get an exponential.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from lf.core import Array
from lf.models.decode import LOUDEST, away, centred, odds, places
from lf.models.peaks import covered, framed, greedy, into_frame, ranked, square

SLACK = 1e-4  # logits that differ by more have odds in the same order, whatever the rounding
SPARE = 1.05  # number of peaks above the guessed limit, for each point that is wanted


def detect(logits: Array, threshold: float, nms_radius: int, border: int, top_k: int | None) -> tuple[Array, Array]:
    """Find points by the greedy rule, as `lf.models.decode.detect` in the map of all odds.

    The rule visits pixels by descending odds, so pixels below a limit change nothing above it. The limit is guessed. If
    fewer than `top_k` points are above it, it was too high, and the threshold takes its place.

    Args:
        logits: (4, h, w) float32, finite.
        threshold: smallest odds of a point.
        nms_radius: px; a point suppresses the square of side 2 * nms_radius + 1 round it.
        border: px; points nearer to an edge are dropped, after they suppressed others.
        top_k: number of best points to keep; None keeps all.

    Returns:
        points (N, 2) float32 px, their odds (N,) float32, descending.
    """
    shape = logits.shape
    size = 2 * shape[1], 2 * shape[2]
    tops = np.clip(logits.max(0), -LOUDEST, LOUDEST)
    peaks = _peaks(tops, _logit(threshold), nms_radius)
    guess = threshold
    if top_k:
        inside = peaks[away(peaks, tops.shape, -(-border // 2))]
        guess = _limit(tops.reshape(-1)[inside], int(top_k * SPARE), threshold)
    index = peaks[:0]
    for limit in dict.fromkeys((guess, threshold)):
        index = _kept(logits, tops, peaks, limit, nms_radius)
        index = index[away(index, size, border)]
        if top_k and len(index) >= top_k:
            break
    y, x = np.divmod(index, size[1])
    odd = odds(logits.reshape(-1)[_row(y, shape) + _column(x, shape)])
    return places(ranked(odd, index)[:top_k], size[1]), -np.sort(-odd)[:top_k]


def refine(logits: Array, points: Array, temperature: float = 1, reach: int = 2) -> Array:
    """Move points to their soft-argmax, as `lf.models.decode.refine` in the map of all odds.

    Args:
        logits: (4, h, w) float32, finite.
        points: (N, 2) integer x, y px.
        temperature: logits are divided by it.
        reach: px, half the side of the square.

    Returns:
        (N, 2) float32 px.
    """
    span, shape = np.arange(-reach, reach + 1)[:, None], logits.shape
    x, y = (each + span for each in points.astype(np.intp).T)
    rows, columns = np.clip(y, 0, 2 * shape[1] - 1), np.clip(x, 0, 2 * shape[2] - 1)
    patch = odds(logits.reshape(-1).take(_row(rows, shape)[:, None] + _column(columns, shape)))
    if temperature != 1:
        patch **= np.float32(1 / temperature)
    beyond = (rows != y)[:, None] | (columns != x)
    patch[beyond] = 0
    return centred(patch, points)


def _peaks(tops: Array, least: float, radius: int) -> Array:
    """Return flat indices (N,) of squares whose largest logit no square within `_inner(radius)` exceeds.

    Every point of the first round of suppression is in such a square.
    """
    side = 2 * _inner(radius) + 1
    peak = tops == cv2.dilate(tops, np.ones((side, side), np.uint8))
    return np.flatnonzero(peak & (tops >= least))


def _limit(tops: Array, count: int, threshold: float) -> float:
    """Guess odds that `count` points have, from the largest logits (N,) of the peaks."""
    return max(threshold, math.exp(np.partition(tops, -count)[-count] - SLACK)) if len(tops) > count else threshold


def _kept(logits: Array, tops: Array, peaks: Array, limit: float, radius: int) -> Array:
    """Return flat indices (N,) of the pixels with odds of at least the limit that the greedy rule keeps.

    Clear leaders are found by their logits, all other pixels by their odds.
    """
    size, least = (2 * tops.shape[0], 2 * tops.shape[1]), _logit(limit)
    high = peaks[tops.reshape(-1)[peaks] > least + 2 * SLACK]
    squares, leaders = _leaders(logits, tops, high if radius else high[:0], radius)
    cells = np.flatnonzero((tops >= least) & (covered(tops.shape, squares, _inner(radius)) == 0))
    index, values = _pixels(cells, tops.shape[1]), logits.reshape(4, -1).take(cells, axis=1)
    rest = (values >= least) & (covered(size, leaders, radius).reshape(-1)[index] == 0)
    index, odd = index[rest], odds(values[rest])
    enough = odd >= limit
    order = ranked(odd[enough], index[enough])
    return np.concatenate([leaders, order[greedy(order, size, radius)]])


def _leaders(logits: Array, tops: Array, peaks: Array, radius: int) -> tuple[Array, Array]:
    """Return flat indices (M,) of those of the squares (N,) with a clear leader, and of these pixels (M,).

    The logit of a clear leader exceeds all others in the squares that it reaches by at least SLACK.
    """
    margin, width = (radius + 1) // 2, tops.shape[1]
    flat, stride = framed(tops, margin).reshape(-1), width + 2 * margin
    least = tops.reshape(-1)[peaks] - np.float32(SLACK)
    near = flat.take(square(margin, stride)[:, None] + into_frame(peaks, width, margin)) >= least
    own = logits.reshape(4, -1).take(peaks, axis=1) >= least
    alone = (near.sum(0) == 1) & (own.sum(0) == 1)
    squares = peaks[alone]
    return squares, (_pixels(squares, width) * own[:, alone]).sum(0)


def _inner(radius: int) -> int:
    """Return within how many squares from its own a point suppresses all pixels, whichever pixel it is."""
    return max(0, (radius - 1) // 2)


def _logit(odd: float) -> float:
    """Return a logit that all pixels with at least these odds have."""
    least = math.log(odd) - SLACK if odd > 0 else -math.inf
    return least if least > -LOUDEST else -math.inf


def _pixels(squares: Array, width: int) -> Array:
    """Return flat indices (4, N) of the pixels of squares (N,), in a map of `width` squares."""
    y, x = np.divmod(squares, width)
    pixels: Array = 4 * y * width + 2 * x + np.array([0, 1, 2 * width, 2 * width + 1])[:, None]
    return pixels


def _row(y: Array, shape: tuple[int, ...]) -> Array:
    """Return the flat indices of the first pixels of rows, in a folded map of this shape."""
    return ((y & 1) * 2 * shape[1] + (y >> 1)) * shape[2]


def _column(x: Array, shape: tuple[int, ...]) -> Array:
    """Return how far columns are from the first pixel of a row, in a folded map of this shape."""
    return (x & 1) * shape[1] * shape[2] + (x >> 1)
