"""Decode ALIKE's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array
from lf.models import dkd
from lf.models.decode import Decoded, bilinear, check_alike, head, raw, read, sigmoid, unit


def alike(
    maps: Mapping[str, Array],
    *,
    threshold: float,
    nms_radius: int,
    border: int,
    temperature: float,
    refine: str = "soft",
    top_k: int | None = None,
) -> Decoded:
    """Decode ALIKE (arXiv 2112.02906): greedy maxima of a map of every pixel, moved to their 5x5 soft-argmax.

    Args:
        maps: score (1, H, W) logits; descriptor (D, H, W) un-normalised.
        threshold: smallest score of a pixel, a probability. The final score is read at the moved point.
        nms_radius: px; a point suppresses the square of side 2 * nms_radius + 1 round it.
        border: px; points nearer to an edge are dropped; as published, one pixel more at the left and the top.
        temperature: the soft-argmax divides probabilities by it.
        refine: how points move off whole pixels, see `lf.models.decode.refined`.
        top_k: number of best points to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, of the wrong shape, or not finite.
    """
    check_alike(maps, "score", "descriptor")
    score, edges = sigmoid(head(maps, "score")[0]), (border + 1, border)
    points, scores = dkd.keypoints(score, threshold, nms_radius, edges, temperature, refine)
    points, scores = points[:top_k], scores[:top_k]
    return points, scores, describe_alike(maps, points)


def describe_alike(maps: Mapping[str, Array], points: Array) -> Array:
    """Unit descriptors (N, D) at any points (N, 2) px: bilinear between pixels of unit length, normalised again."""
    index, weights = bilinear(points, *raw(maps, "descriptor").shape[1:])
    values = read(maps, "descriptor", index)  # (D, 4, N)
    length = np.maximum(np.sqrt(np.einsum("dkn,dkn->kn", values, values)), np.float32(1e-12))
    return unit(np.einsum("kn,dkn->nd", weights / length, values))
