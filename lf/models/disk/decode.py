"""Decode DISK's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array
from lf.models.decode import Decoded, check_alike, head, mix, places, refined, unit
from lf.models.peaks import falling, local_maxima


def disk(
    maps: Mapping[str, Array], *, threshold: float, radius: int, refine: str = "none", top_k: int | None = None
) -> Decoded:
    """Decode DISK (arXiv 2006.13566): local maxima of a map of every pixel, above a threshold.

    Args:
        maps: score (1, H, W), used directly and without an upper limit; descriptor (D, H, W) un-normalised.
        threshold: scores of points are above it; published: 0.
        radius: px; a point is the largest score of the square of side 2 * radius + 1 round it.
        refine: how points move off whole pixels, see `lf.models.decode.refined`; published is none. `soft` weighs the
            scores above 0.
        top_k: number of best points to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, of the wrong shape, or not finite.
    """
    check_alike(maps, "score", "descriptor")
    score = head(maps, "score")[0]
    index = local_maxima(score, threshold, radius)
    index = falling(score, index[score.reshape(-1)[index] > threshold])[:top_k]
    points = refined(score, np.maximum(score, 0), places(index, score.shape[1]), refine)
    return points, score.reshape(-1)[index], describe_disk(maps, points)


def describe_disk(maps: Mapping[str, Array], points: Array) -> Array:
    """Return unit descriptors (N, D) at points (N, 2) px, interpolated bilinearly between pixels."""
    return unit(mix(maps, "descriptor", points))
