"""Decode SuperPoint's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array
from lf.models.decode import CELL, Decoded, detect, head, heatmap, raw, refined, sample


def superpoint(
    maps: Mapping[str, Array],
    *,
    threshold: float,
    nms_radius: int,
    border: int,
    refine: str = "none",
    top_k: int | None = None,
) -> Decoded:
    """Decode SuperPoint (arXiv 1712.07629).

    Args:
        maps: detector (65, h, w) logits, descriptor (D, h, w) un-normalised.
        threshold: smallest score, a probability.
        nms_radius: px; a point suppresses the square of side 2 * nms_radius + 1 round it.
        border: px; points nearer to an edge are dropped, after they suppressed others.
        refine: how points move off whole pixels, see `lf.models.decode.refined`; published is none.
        top_k: number of best points to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, or of the wrong shape.
        BadModel: a map is not finite.
    """
    heat = heatmap(head(maps, "detector"))
    points, scores = detect(heat, threshold, nms_radius, border, top_k)
    points = refined(heat, heat, points, refine)
    return points, scores, describe_superpoint(maps, points)


def describe_superpoint(maps: Mapping[str, Array], points: Array) -> Array:
    """Return unit descriptors (N, D) at points (N, 2) px, by the published rule, slightly off the true cells."""
    # It divides by the size, not by size - 1, and then samples with aligned corners.
    cells = np.array(raw(maps, "descriptor").shape[:0:-1], np.float32)
    normalised = points / (cells * CELL / 2) - 1
    return sample(maps, "descriptor", (normalised + 1) / 2 * (cells - 1))
