"""Decode PoSFeat's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array, LfError
from lf.models.decode import Decoded, head, mix, places, raw, refined, softplus, unit
from lf.models.peaks import falling, local_maxima

CELL = 4  # px, between two descriptors
REACH = 1  # px: `soft` takes the mean position of the scores of 3x3 px
EDGE = 1  # px, width of the ring along the edges, in which no points are found or suppress others


def posfeat(
    maps: Mapping[str, Array], *, threshold: float, radius: int, refine: str = "soft", top_k: int | None = None
) -> Decoded:
    """Decode PoSFeat (arXiv 2203.12993): local maxima of a score map, moved to the mean position of their 3x3 square.

    If fewer than 128 points pass the threshold, the original adds arbitrary points; this decoder does not.

    Args:
        maps: score (1, H, W), before the softplus; descriptor (D, H/4, W/4) un-normalised.
        threshold: scores of points are above it.
        radius: px; a point is the largest score of the square of side 2 * radius + 1 round it.
        refine: how points move off whole pixels, see `lf.models.decode.refined`; published is `soft`.
        top_k: number of best points to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, of the wrong shape, or not finite.
    """
    score = head(maps, "score")
    if len(score) != 1:
        raise LfError(f"the score map has shape {score.shape}; expected (1, height, width)")
    points, scores = peaks(softplus(score[0]), threshold, radius, refine, top_k)
    return points, scores, describe_posfeat(maps, points)


def peaks(score: Array, threshold: float, radius: int, refine: str, top_k: int | None) -> tuple[Array, Array]:
    """Find points (N, 2) px and scores (N,) in a score map (H, W), best first.

    The original mirrors the map at its edges and takes the first of equal pixels. Near the left and the top edge, some
    pixels are suppressed by their own mirror image; this decoder does the same.
    """
    width = score.shape[1]
    inner = np.ascontiguousarray(score[EDGE:-EDGE, EDGE:-EDGE])
    above = np.nextafter(np.float32(threshold), np.float32(np.inf))
    found = np.divmod(local_maxima(inner, float(above), radius), max(1, inner.shape[1]))
    mirrored = [(side >= 1) & (side <= radius // 2) for side in found]
    y, x = (side[~(mirrored[0] | mirrored[1])] + EDGE for side in found)
    index = falling(score, y * width + x)[:top_k]
    return refined(score, score, places(index, width), refine, REACH), score.reshape(-1)[index]


def describe_posfeat(maps: Mapping[str, Array], points: Array) -> Array:
    """Return unit descriptors (N, D) at points (N, 2) px; as published, the outermost pixels lie on the map's edge.

    Beyond the outermost cells, the original interpolates with zeros; the normalisation removes their effect.
    """
    cells = np.array(raw(maps, "descriptor").shape[:0:-1], np.float32)
    return unit(mix(maps, "descriptor", points * (cells / (cells * CELL - 1)) - np.float32(0.5)))
