"""Decode EdgePoint2's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array, LfError
from lf.models.decode import Decoded, away, head, mix, odds, places, refined, unfold, unit
from lf.models.peaks import falling, local_maxima

CELL = 4  # px, between two descriptors


def edgepoint2(
    maps: Mapping[str, Array], *, threshold: float, radius: int, border: int, refine: str, top_k: int | None = None
) -> Decoded:
    """Decode EdgePoint2 (arXiv 2504.17280): local maxima of a map of every pixel.

    Args:
        maps: score (4, h, w) logits of the pixels of 2x2 squares, row by row; descriptor (D, h, w) un-normalised.
        threshold: smallest score, a probability; published is the logit -5.
        radius: px; a point is the largest score of the square of side 2 * radius + 1 round it.
        border: px; points nearer to an edge are dropped.
        refine: how points move off whole pixels, see `lf.models.decode.refined`; published is none.
        top_k: number of best points to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, of the wrong shape, or not finite.
    """
    score = head(maps, "score")
    if len(score) != 4:
        raise LfError(f"the score map has shape {score.shape}; expected (4, height, width)")
    logits = unfold(score, 2)
    heat = odds(logits)
    index = local_maxima(heat, threshold / (1 - threshold), radius)
    index = falling(heat, index[away(index, heat.shape, border)])[:top_k]
    points = refined(logits, heat, places(index, logits.shape[1]), refine)
    odd = heat.reshape(-1)[index]
    return points, odd / (1 + odd), describe_edgepoint2(maps, points)


def describe_edgepoint2(maps: Mapping[str, Array], points: Array) -> Array:
    """Unit descriptors (N, D) at any points (N, 2) px: bilinear in the un-normalised map, by true cell centres."""
    return unit(mix(maps, "descriptor", (points + np.float32(0.5)) / CELL - np.float32(0.5)))
