"""Decode Swift's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array, LfError
from lf.models import folded
from lf.models.decode import Decoded, head, refined, sample, unfold

CELL = 4  # px, between two descriptors


def swift(
    maps: Mapping[str, Array],
    *,
    threshold: float,
    nms_radius: int,
    border: int,
    temperature: float,
    refine: str = "soft",
    top_k: int | None = None,
) -> Decoded:
    """Decode Swift: greedy maxima of a map of every pixel, moved to the 5x5 soft-argmax of their logits.

    Args:
        maps: score (4, h, w) logits of the pixels of 2x2 squares, row by row; descriptor (D, h, w) un-normalised.
        threshold: smallest score, a probability.
        nms_radius: px; a point suppresses the square of side 2 * nms_radius + 1 round it.
        border: px; points nearer to an edge are dropped, after they suppressed others.
        temperature: the soft-argmax divides logits by it.
        refine: how points move off whole pixels, see `lf.models.decode.refined`; `quadratic` reads the logits.
        top_k: number of best points to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, or of the wrong shape.
        BadModel: a map is not finite.
    """
    score = head(maps, "score")
    if len(score) != 4:
        raise LfError(f"the score map has shape {score.shape}; expected (4, height, width)")
    points, odd = folded.detect(score, threshold / (1 - threshold), nms_radius, border, top_k)
    if refine == "soft":
        points = folded.refine(score, points, temperature)
    else:
        logits = unfold(score, 2)
        points = refined(logits, logits, points, refine)  # only `soft` reads the second map
    return points, odd / (1 + odd), describe_swift(maps, points)


def describe_swift(maps: Mapping[str, Array], points: Array) -> Array:
    """Unit descriptors (N, D) at any points (N, 2) px, by true cell centres, four pixels apart."""
    return sample(maps, "descriptor", (points + np.float32(0.5)) / CELL - np.float32(0.5))
