"""Differentiable keypoint detection, the decoder of ALIKE and ALIKED (arXiv 2112.02906), in numpy."""

from __future__ import annotations

import numpy as np

from lf.core import Array
from lf.models.decode import bilinear, places, refined
from lf.models.peaks import falling, nms


def keypoints(
    score: Array,
    threshold: float,
    nms_radius: int,
    border: tuple[int, int],
    temperature: float,
    refine: str,
    rounds: int | None = None,
    limit: int | None = None,
) -> tuple[Array, Array]:
    """Find maxima of a score map and move them to their 5x5 soft-argmax; final scores are read at the moved points.

    Args:
        score: (H, W) probabilities.
        threshold: smallest score of a pixel.
        nms_radius: px; a point suppresses the square of side 2 * nms_radius + 1 round it.
        border: px; points nearer to the left or top edge than the first number, or to the right or bottom edge than the
            second, are dropped.
        temperature: the soft-argmax divides probabilities by it.
        refine: how points move off whole pixels, see `lf.models.decode.refined`.
        rounds: number of rounds of suppression, see `lf.models.peaks.nms`.
        limit: number of best pixels to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending.
    """
    height, width = score.shape
    index = nms(score, threshold, nms_radius, rounds)
    y, x = np.divmod(index, width)
    inside = (np.minimum(x, y) >= border[0]) & (x < width - border[1]) & (y < height - border[1])
    pixels = places(index[inside][:limit], width)
    points = refined(score, np.exp(score / np.float32(temperature)), pixels, refine)
    at, weights = bilinear(points, height, width)
    scores = np.einsum("kn,kn->n", weights, score.reshape(-1)[at]).astype(np.float32)
    best = falling(scores, np.arange(len(scores)))
    return points[best], scores[best]
