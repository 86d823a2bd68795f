"""Decode R2D2's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array
from lf.models.decode import Decoded, check_alike, head, mix, places, read, refined, sigmoid, softplus, unit
from lf.models.peaks import falling, local_maxima


def r2d2(
    maps: Mapping[str, Array],
    *,
    repeatability: float,
    reliability: float,
    refine: str = "none",
    top_k: int | None = None,
) -> Decoded:
    """Decode R2D2 (arXiv 1906.06195): 3x3 maxima of the repeatability, scored by both maps.

    Args:
        maps: descriptor (D, H, W) un-normalised, reliability (1, H, W) and repeatability (1, H, W) logits.
        repeatability: smallest s / (1 + s), where s = softplus(logit).
        reliability: smallest sigmoid(logit).
        refine: how points move off whole pixels, see `lf.models.decode.refined`; published is none.
        top_k: number of best points to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, or of the wrong shape.
        BadModel: a map is not finite.
    """
    check_alike(maps, "repeatability", "reliability", "descriptor")
    repeatable = softplus(head(maps, "repeatability")[0])
    repeatable /= 1 + repeatable
    index = local_maxima(repeatable, repeatability)
    reliable = sigmoid(head(maps, "reliability").reshape(-1)[index])
    index, reliable = index[reliable >= reliability], reliable[reliable >= reliability]
    scores = reliable * repeatable.reshape(-1)[index]
    best = falling(scores, np.arange(len(scores)))[:top_k]
    index = index[best]
    points = refined(repeatable, repeatable, places(index, repeatable.shape[1]), refine)
    if refine != "none":
        return points, scores[best], describe_r2d2(maps, points)
    return points, scores[best], unit(read(maps, "descriptor", index).T)


def describe_r2d2(maps: Mapping[str, Array], points: Array) -> Array:
    """Unit descriptors (N, D) at any points (N, 2) px: bilinear in the un-normalised full-resolution map."""
    return unit(mix(maps, "descriptor", points))
