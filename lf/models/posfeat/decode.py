"""Decode PoSFeat's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array, LfError
from lf.models.decode import Decoded, head, mix, places, raw, refined, softplus, unit
from lf.models.peaks import falling, local_maxima

CELL = 4  # px, between two descriptors
REACH = 1  # px: `soft` takes the mean position of the scores of 3x3 px
EDGE = 1  # px, width of the ring along the edges that no point lies in, and that suppresses none


def posfeat(
    maps: Mapping[str, Array], *, threshold: float, radius: int, refine: str = "soft", top_k: int | None = None
) -> Decoded:
    """Decode PoSFeat (arXiv 2203.12993): local maxima of a map of every pixel, moved to the mean of their 3x3 square.

    The original fills up to 128 points with arbitrary ones where fewer pass the threshold; this does not.

    Args:
        maps: score (1, H, W), whose softplus is the score; descriptor (D, H/4, W/4) un-normalised.
        threshold: scores must be above it.
        radius: px; a point is the largest score of the square of side 2 * radius + 1 round it.
        refine: how points move off whole pixels, see `lf.models.decode.refined`; published is `soft`.
        top_k: keep this many of the best; None keeps all.

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
    """Points (N, 2) and scores (N,) of a score map (H, W), best first.

    The original mirrors the map at its edges and takes the first of equal pixels. Behind the left and the top edge some
    pixels come second after their own mirror image, and are lost: so they are here.
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
    """Unit descriptors (N, D) at any points (N, 2) px, as published: the outermost pixels lie on the map's outer edge.

    Beyond the outermost cells the original mixes in zeros, which the normalisation takes out again.
    """
    cells = np.array(raw(maps, "descriptor").shape[:0:-1], np.float32)
    return unit(mix(maps, "descriptor", points * (cells / (cells * CELL - 1)) - np.float32(0.5)))
