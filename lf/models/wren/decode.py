"""Decode Wren's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array
from lf.models.decode import CELL, Decoded, detect, head, heatmap, refined, sample


def wren(
    maps: Mapping[str, Array],
    *,
    threshold: float,
    nms_radius: int,
    border: int,
    refine: str = "soft",
    top_k: int | None = None,
) -> Decoded:
    """Decode Wren: as `superpoint`, with sub-pixel positions and descriptors sampled there by true cell centres."""
    heat = heatmap(head(maps, "detector"))
    points, scores = detect(heat, threshold, nms_radius, border, top_k)
    points = refined(heat, heat, points, refine)
    return points, scores, describe_wren(maps, points)


def describe_wren(maps: Mapping[str, Array], points: Array) -> Array:
    """Unit descriptors (N, D) at any points (N, 2) px, by true cell centres."""
    return sample(maps, "descriptor", (points + np.float32(0.5)) / CELL - np.float32(0.5))
