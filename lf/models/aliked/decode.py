"""Decode ALIKED's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

from lf.core import Array
from lf.models import dkd
from lf.models.aliked.describe import describe_aliked
from lf.models.decode import Decoded, check_alike, head, sigmoid


def aliked(
    maps: Mapping[str, Array],
    *,
    threshold: float,
    nms_radius: int,
    border: int,
    temperature: float,
    rounds: int | None = None,
    limit: int | None = None,
    refine: str = "soft",
    top_k: int | None = None,
) -> Decoded:
    """Decode ALIKED (arXiv 2304.03608): maxima of a map of every pixel, moved to their 5x5 soft-argmax.

    Args:
        maps: score (1, H, W) logits, cut to the image; x1 to x4 and the weights of `lf.models.aliked.describe`.
        threshold: smallest score of a pixel, a probability. The final score is read at the moved point.
        nms_radius: px; a point suppresses the square of side 2 * nms_radius + 1 round it.
        border: px; points nearer to an edge are dropped.
        temperature: the soft-argmax divides probabilities by it.
        rounds: number of rounds of suppression, see `lf.models.peaks.nms`; published: three.
        limit: largest number of points, those with the highest pixel scores; None keeps all.
        refine: how points move off whole pixels, see `lf.models.decode.refined`.
        top_k: number of best points to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, of the wrong shape, or not finite.
    """
    check_alike(maps, "score", "x1")
    score = sigmoid(head(maps, "score")[0])
    edges = border, border
    points, scores = dkd.keypoints(score, threshold, nms_radius, edges, temperature, refine, rounds, limit)
    points, scores = points[:top_k], scores[:top_k]
    return points, scores, describe_aliked(maps, points)
