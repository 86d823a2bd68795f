"""Decode XFeat's raw maps with numpy, by the conventions of `lf.models.decode`.

The published reader places pixel x at x / (W - 1) * w - 0.5 of a map w wide, where (x + 0.5) / 8 - 0.5 would be exact.
It takes what lies beyond the map as 0. Both are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lf.core import Array, LfError
from lf.models.decode import Decoded, check_alike, head, heatmap, places, refined, sigmoid, unit
from lf.models.peaks import falling, local_maxima

CUBIC = -0.75  # the parameter of the published cubic convolution
TAPS = np.arange(-1, 3)  # cells relative to the cell at or before a place


def xfeat(
    maps: Mapping[str, Array], *, threshold: float, radius: int, refine: str = "none", top_k: int | None = None
) -> Decoded:
    """Decode XFeat (arXiv 2404.19174): local maxima of a heat map, scored by heat and reliability.

    Args:
        maps: detector (65, h, w) and reliability (1, h, w) logits, descriptor (D, h, w) un-normalised.
        threshold: smallest heat, a probability. The score is heat times reliability and may be lower.
        radius: px; a point is the largest heat of the square of side 2 * radius + 1 round it.
        refine: how points move off whole pixels, see `lf.models.decode.refined`; published is none.
        top_k: keep this many of the best; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length. No point
        lies in the last row, in the last column or at 0, 0: the published code gives these the score 0.

    Raises:
        LfError: a map is missing, of the wrong shape, or not finite.
    """
    check_alike(maps, "detector", "reliability", "descriptor")
    detector = head(maps, "detector")
    if len(detector) != 65:
        raise LfError(f"the detector map has shape {detector.shape}; expected (65, height, width)")
    heat, reliability = heatmap(detector), sigmoid(head(maps, "reliability")[0])[..., None]
    rows, columns = heat.shape
    index = local_maxima(heat, threshold, radius)
    y, x = np.divmod(index, columns)
    index = index[(y < rows - 1) & (x < columns - 1) & (index > 0)]
    points = places(index, columns)
    scores = heat.reshape(-1)[index] * _sampled(reliability, points, _linear)[:, 0]
    seen = scores > 0
    index, points, scores = index[seen], points[seen], scores[seen]
    best = falling(scores, np.arange(len(scores)))[:top_k]
    points = refined(heat, heat, points[best], refine)
    return points, scores[best], describe_xfeat(maps, points)


def describe_xfeat(maps: Mapping[str, Array], points: Array) -> Array:
    """Return unit descriptors (N, D) at points (N, 2) px: normalised cells, bicubic interpolation, normalised again."""
    descriptor = head(maps, "descriptor")
    depth, rows, columns = descriptor.shape
    cells = unit(descriptor.reshape(depth, -1).T).reshape(rows, columns, depth)
    return unit(_sampled(cells, points, _cubic))


def _sampled(cells: Array, points: Array, kernel: Callable[[Array], Array]) -> Array:
    """Samples (N, C) of a map (h, w, C) with zeros round it at points (N, 2) px, by weights of TAPS along each axis."""
    rows, columns, depth = cells.shape
    padded = np.zeros((rows + 4, columns + 4, depth), np.float32)
    padded[2:-2, 2:-2] = cells
    sides, half = np.array([columns, rows], np.float32), np.float32(0.5)
    at = np.clip(points / (sides * 8 - 1) * sides - half, -half, sides - half)
    low = np.floor(at)
    (x, y), (wide, high) = low.astype(np.intp).T[:, None] + TAPS[:, None] + 2, kernel((at - low).T[:, None])
    index = (y[:, None] * (columns + 4) + x).reshape(16, -1)
    weights = (high[:, None] * wide).reshape(16, -1)
    sampled: Array = np.einsum("kn,knc->nc", weights, padded.reshape(-1, depth)[index])
    return sampled


def _linear(share: Array) -> Array:
    """Return linear weights (..., 4, N) of TAPS at places `share` (..., 1, N) of a cell after the second tap."""
    return np.asarray(np.maximum(1 - np.abs(TAPS[:, None].astype(np.float32) - share), 0))


def _cubic(share: Array) -> Array:
    """Return cubic weights, see `_linear`."""
    away = np.abs(TAPS[:, None].astype(np.float32) - share)
    near = ((CUBIC + 2) * away - (CUBIC + 3)) * away**2 + 1
    far = ((CUBIC * away - 5 * CUBIC) * away + 8 * CUBIC) * away - 4 * CUBIC
    weights: Array = np.where(away <= 1, near, far).astype(np.float32)
    return weights
