"""Decode the raw maps of a network that a TOML card describes, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lf.core import Array
from lf.models.decode import Decoded, check_alike, detect, head, heatmap, odds, raw, refined, sample, unfold
from lf.models.kp2d.decode import kp2d
from lf.models.peaks import falling
from lf.models.superpoint.decode import describe_superpoint


def decode(
    maps: Mapping[str, Array],
    *,
    part: str,
    stride: int,
    values: str,
    offset: float,
    spacing: int,
    sampling: str,
    threshold: float,
    nms_radius: int = 0,
    border: int = 0,
    refine: str = "none",
    top_k: int | None = None,
) -> Decoded:
    """Decode the maps of a described network.

    Args:
        maps: maps of the heads that `lf.models.own.heads` names for the part.
        part: a row of PARTS.
        stride: px between two positions of the detector.
        values: `logits`, or `scores`, which are used unchanged.
        offset: px of an offset of 1.
        spacing: px between two descriptors.
        sampling: a row of SAMPLINGS.
        threshold: smallest score.
        nms_radius: px; a point suppresses the square of side 2 * nms_radius + 1 round it.
        border: px; points nearer to an edge are dropped.
        refine: how points of `grid65` and `heatmap` move off whole pixels, see `lf.models.decode.refined`.
        top_k: number of best points to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, of the wrong shape, or not finite.
    """
    if part == "cell":
        fed = {"score": maps["score"], "shift": maps["shift"], "feat": maps["descriptor"]}
        points, scores, _ = kp2d(fed, cell=stride, threshold=threshold)
        points, scores = _inside(points, scores, np.array(fed["score"].shape[1:]) * stride, border, top_k)
    elif part == "heatmap+offset":
        points, scores = _shifted(maps, stride, values, offset, threshold, nms_radius)
        points, scores = _inside(points, scores, np.array(raw(maps, "score").shape[1:]) * stride, border, top_k)
    else:
        score, heat, scale = _heat(maps, part, stride, values, threshold)
        points, scores = detect(heat, scale, nms_radius, border, top_k)
        points = refined(score, np.maximum(heat, 0), points, refine)
        if part == "heatmap" and values == "logits":
            scores = scores / (1 + scores)
    return points, scores, describe(maps, points, spacing=spacing, sampling=sampling)


def describe(maps: Mapping[str, Array], points: Array, *, spacing: int, sampling: str) -> Array:
    """Return unit descriptors (N, D) at points (N, 2) px."""
    return SAMPLINGS[sampling](maps, points, spacing)


def _heat(
    maps: Mapping[str, Array], part: str, stride: int, values: str, threshold: float
) -> tuple[Array, Array, float]:
    """Return the scores of all pixels; the map for finding maxima (probabilities, odds or scores); its threshold."""
    if part == "grid65":
        heat = heatmap(head(maps, "detector"))
        return heat, heat, threshold
    score = unfold(head(maps, "score"), stride)
    if values == "scores":
        return score, score, threshold
    return score, odds(score), threshold / (1 - threshold)


def _shifted(
    maps: Mapping[str, Array], stride: int, values: str, offset: float, threshold: float, nms_radius: int
) -> tuple[Array, Array]:
    """Find maxima of a map of positions, and move each by its offset from the centre of its square."""
    check_alike(maps, "score", "offset")
    _, heat, scale = _heat({"score": head(maps, "score")}, "heatmap", 1, values, threshold)
    cells, scores = detect(heat, scale, nms_radius // stride, 0, None)
    x, y = cells.astype(np.intp).T
    centre = cells * stride + np.float32((stride - 1) / 2)
    moved = centre + head(maps, "offset")[:, y, x].T * np.float32(offset)
    return moved, scores / (1 + scores) if values == "logits" else scores


def _inside(points: Array, scores: Array, size: Array, border: int, top_k: int | None) -> tuple[Array, Array]:
    """Return the points (N, 2) that are at least `border` px from the edges of (H, W), best first."""
    last = size[::-1] - 1 - border
    kept = np.flatnonzero(((points >= border) & (points <= last)).all(1))
    kept = kept[falling(scores[kept], np.arange(len(kept)))][:top_k]
    return points[kept], scores[kept]


def _centres(maps: Mapping[str, Array], points: Array, spacing: int) -> Array:
    return sample(maps, "descriptor", (points + np.float32(0.5)) / spacing - np.float32(0.5))


def _corners(maps: Mapping[str, Array], points: Array, spacing: int) -> Array:
    cells = np.array(raw(maps, "descriptor").shape[:0:-1], np.float32)
    return sample(maps, "descriptor", points / (cells * spacing - 1) * (cells - 1))


def _superpoint(maps: Mapping[str, Array], points: Array, spacing: int) -> Array:
    return describe_superpoint(maps, points)


SAMPLINGS: dict[str, Callable[[Mapping[str, Array], Array, int], Array]] = {
    "centres": _centres,  # bilinear between the centres of the cells
    "corners": _corners,  # the outermost pixels lie on the outermost cells: align_corners
    "superpoint": _superpoint,  # the published rule of SuperPoint, for a stride of 8
}
