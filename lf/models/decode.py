"""Raw maps -> keypoints, scores, descriptors: the same numpy code behind every backend. numpy and OpenCV only.

Maps are (c, h, w). Keypoints are x, y in pixels of the network's image, pixel centres at integers. A flat index is
y * W + x; wherever scores are equal, the lower index goes first, so the plateaus of 8-bit maps cannot multiply points.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from lf.core import FEATURES, Array, LfError
from lf.models.peaks import falling, local_maxima, nms, square

Decoded = tuple[Array, Array, Array]
CELL = 8  # px, side of the square that one detector position describes
BLOCK = 1 << 19  # bytes that stay in a core's own cache between two readings


def superpoint(
    maps: Mapping[str, Array], *, threshold: float, nms_radius: int, border: int, top_k: int | None = None
) -> Decoded:
    """Decode SuperPoint (arXiv 1712.07629).

    Args:
        maps: detector (65, h, w) logits, descriptor (D, h, w) un-normalised.
        threshold: smallest score, a probability.
        nms_radius: px; a point suppresses the square of side 2 * nms_radius + 1 round it.
        border: px; points nearer to an edge are dropped, after they suppressed others.
        top_k: keep this many of the best; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, of the wrong shape, or not finite.
    """
    points, scores = _detect(heatmap(_head(maps, "detector")), threshold, nms_radius, border, top_k)
    return points, scores, describe_superpoint(maps, points)


def describe_superpoint(maps: Mapping[str, Array], points: Array) -> Array:
    """Unit descriptors (N, D) at any points (N, 2) px, by the published rule, which misses the true cells a little."""
    descriptor = _head(maps, "descriptor")
    # It divides by the size, not by size - 1, and then samples with aligned corners.
    cells = np.array(descriptor.shape[:0:-1], np.float32)
    normalised = points / (cells * CELL / 2) - 1
    return sample(descriptor, (normalised + 1) / 2 * (cells - 1))


def wren(
    maps: Mapping[str, Array], *, threshold: float, nms_radius: int, border: int, top_k: int | None = None
) -> Decoded:
    """Decode Wren: as `superpoint`, with sub-pixel positions and descriptors sampled there by true cell centres."""
    heat = heatmap(_head(maps, "detector"))
    points, scores = _detect(heat, threshold, nms_radius, border, top_k)
    points = refine(heat, points)
    return points, scores, describe_wren(maps, points)


def describe_wren(maps: Mapping[str, Array], points: Array) -> Array:
    """Unit descriptors (N, D) at any points (N, 2) px, by true cell centres."""
    return sample(_head(maps, "descriptor"), (points + np.float32(0.5)) / CELL - np.float32(0.5))


def r2d2(maps: Mapping[str, Array], *, repeatability: float, reliability: float, top_k: int | None = None) -> Decoded:
    """Decode R2D2 (arXiv 1906.06195): 3x3 maxima of the repeatability, scored by both maps.

    Args:
        maps: descriptor (D, H, W) un-normalised, reliability (1, H, W) and repeatability (1, H, W) logits.
        repeatability: smallest s / (1 + s), where s = softplus(logit).
        reliability: smallest sigmoid(logit).
        top_k: keep this many of the best; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, of the wrong shape, or not finite.
    """
    _check_alike(maps, "repeatability", "reliability", "descriptor")
    repeatable = _softplus(_head(maps, "repeatability")[0])
    repeatable /= 1 + repeatable
    index = local_maxima(repeatable, repeatability)
    reliable = _sigmoid(_head(maps, "reliability").reshape(-1)[index])
    index, reliable = index[reliable >= reliability], reliable[reliable >= reliability]
    scores = reliable * repeatable.reshape(-1)[index]
    best = falling(scores, np.arange(len(scores)))[:top_k]
    index = index[best]
    return _points(index, repeatable.shape[1]), scores[best], _unit(read(maps, "descriptor", index).T)


def describe_r2d2(maps: Mapping[str, Array], points: Array) -> Array:
    """Unit descriptors (N, D) at any points (N, 2) px: bilinear in the un-normalised full-resolution map."""
    return _unit(mix(maps, "descriptor", points))


def points(maps: Mapping[str, Array], *, top_k: int | None = None) -> Decoded:
    """Read the point list of a baseline: points (4 + D, 1, N), rows x px, y px, size px, score, then the descriptor."""
    rows = _head(maps, "points")[:, 0].T
    best = np.argsort(-rows[:, 3], kind="stable")[:top_k]
    return rows[best, :2], rows[best, 3], _unit(rows[best, 4:])


def features(maps: Mapping[str, Array], *, top_k: int | None = None) -> Decoded:
    """Read what a file gives that decodes in its graph: keypoints (K, 2), scores (K,), descriptors (K, D), best first.

    Slots that nothing fills have the score 0.

    Raises:
        LfError: one of them is missing or has another shape.
    """
    if lost := [name for name in FEATURES if name not in maps]:
        raise LfError(f"the network gives no {lost[0]}, only {', '.join(maps)}; is the file what its card says?")
    points, scores, descriptors = (np.asarray(maps[name], np.float32) for name in FEATURES)
    if scores.ndim != 1 or points.shape != (len(scores), 2) or descriptors.shape[:-1] != scores.shape:
        raise LfError(
            f"features of shapes {points.shape}, {scores.shape}, {descriptors.shape}; expected (K, 2), (K,), (K, D)"
        )
    used = np.flatnonzero(scores != 0)[:top_k]  # nan is used, so that somebody notices
    return points[used], scores[used], descriptors[used]


def heatmap(detector: Array) -> Array:
    """Softmax over (65, h, w) logits, without the dustbin, cells unfolded: (8h, 8w) probabilities."""
    # In place: a fresh megabyte per step costs more in page faults than the arithmetic.
    cells = detector - detector.max(0)
    np.exp(cells, out=cells)
    total = cells.sum(0)
    cells = cells[:-1]
    cells /= total
    _, rows, columns = cells.shape
    unfolded = cells.reshape(CELL, CELL, rows, columns).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(unfolded).reshape(rows * CELL, columns * CELL)


def refine(heat: Array, points: Array) -> Array:
    """Move integer points (N, 2) to the mean position of the heat in their 5x5 square; zero beyond the edge."""
    padded = np.pad(heat, 2)
    stride = padded.shape[1]
    x, y = points.astype(np.intp).T
    patch = padded.reshape(-1)[((y + 2) * stride + x + 2)[:, None] + square(2, stride)].reshape(-1, 5, 5)
    reach = np.arange(-2, 3, dtype=np.float32)
    with np.errstate(invalid="ignore"):  # all is finite, yet BLAS was once seen to raise this flag
        shift = np.stack([patch.sum(1) @ reach, patch.sum(2) @ reach], 1)
    moved: Array = points + shift / np.maximum(patch.sum((1, 2)), np.float32(1e-12))[:, None]
    return moved


def sample(descriptor: Array, at: Array) -> Array:
    """Bilinear samples of unit-normalised cells, normalised again.

    Args:
        descriptor: (D, h, w) un-normalised.
        at: (N, 2) float32 x, y in cells; beyond the outermost centres the outermost value holds.

    Returns:
        (N, D) float32.
    """
    depth, rows, columns = descriptor.shape
    cells = cv2.transpose(descriptor.reshape(depth, -1))  # (h * w, D): a neighbour is one contiguous row
    length = np.maximum(np.sqrt(np.einsum("nd,nd->n", cells, cells)), np.float32(1e-12))
    index, weights = _bilinear(at, rows, columns)
    return _unit(np.einsum("kn,knd->nd", weights / length[index], cells[index]))


def mix(maps: Mapping[str, Array], name: str, at: Array) -> Array:
    """Bilinear samples (N, D) of a map (D, h, w) at points (N, 2) x, y in its pixels; beyond its edge that holds."""
    index, weights = _bilinear(at, *_map(maps, name).shape[1:])
    mixed: Array = np.einsum("kn,dkn->nd", weights, read(maps, name, index))
    return mixed


def read(maps: Mapping[str, Array], name: str, index: Array) -> Array:
    """Values (D, ...) of a map (D, h, w) at flat indices (...), all inside; the whole map is checked as by `_head`.

    A few channels at a time are checked and read: what the check brought into the cache is not fetched again.
    """
    head = _map(maps, name)
    flat = head.reshape(len(head), -1)
    values = np.empty((len(flat), *index.shape), np.float32)
    step = max(4, BLOCK // max(1, flat[:1].nbytes))
    for i in range(0, len(flat), step):
        _check_finite(flat[i : i + step], name)
        flat[i : i + step].take(index, axis=1, mode="clip", out=values[i : i + step])
    return values


def _bilinear(at: Array, rows: int, columns: int) -> tuple[Array, Array]:
    """Flat indices (4, N) of the cells round points (N, 2) x, y in cells, and their weights; clamped to the map."""
    last = np.array([columns - 1, rows - 1], np.float32)
    at = np.clip(at, 0, last)
    low = np.floor(at)
    (x1, y1), (x0, y0) = (at - low).T, 1 - (at - low).T
    (left, top), (right, bottom) = low.astype(np.intp).T, np.minimum(low + 1, last).astype(np.intp).T
    index = np.stack([top * columns + left, top * columns + right, bottom * columns + left, bottom * columns + right])
    return index, np.stack([y0 * x0, y0 * x1, y1 * x0, y1 * x1])


def _detect(heat: Array, threshold: float, nms_radius: int, border: int, top_k: int | None) -> tuple[Array, Array]:
    """Points (N, 2) and scores (N,) of a heat map, descending."""
    height, width = heat.shape
    index = nms(heat, threshold, nms_radius)
    y, x = np.divmod(index, width)
    inside = (x >= border) & (x < width - border) & (y >= border) & (y < height - border)
    index = index[inside][:top_k]
    return _points(index, width), heat.reshape(-1)[index]


def _head(maps: Mapping[str, Array], name: str) -> Array:
    """One map, contiguous float32 (c, h, w), finite."""
    head = _map(maps, name)
    _check_finite(head, name)
    return head


def _map(maps: Mapping[str, Array], name: str) -> Array:
    """One map, contiguous float32 (c, h, w), of whatever values."""
    if name not in maps:
        raise LfError(f"the network gives no {name} map, only {', '.join(maps)}; is the file of this model?")
    head = np.ascontiguousarray(maps[name], np.float32)
    if head.ndim != 3:
        raise LfError(f"the {name} map has shape {head.shape}; expected (channels, height, width)")
    return head


def _check_alike(maps: Mapping[str, Array], *names: str) -> None:
    """Raise LfError unless the maps of these names have one size."""
    if len({_map(maps, name).shape[1:] for name in names}) > 1:
        found = ", ".join(f"{name} {maps[name].shape}" for name in names)
        raise LfError(f"maps of one size expected, found {found}: is the file of this model?")


def _check_finite(values: Array, name: str) -> None:
    with np.errstate(all="ignore"):
        finite = np.isfinite(values.sum()) or np.isfinite(values).all()  # the sum is twice as fast on large maps
    if not finite:
        raise LfError(f"the {name} map holds a non-finite value: the network or its quantization is broken")


def _points(index: Array, width: int) -> Array:
    y, x = np.divmod(index, width)
    return np.stack([x, y], 1).astype(np.float32)


def _unit(rows: Array) -> Array:
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    unit: Array = rows / np.maximum(length, np.float32(1e-12))[:, None]
    return unit


def _softplus(logit: Array) -> Array:
    """log(1 + exp(logit)), without overflow."""
    return np.log1p(np.exp(-np.abs(logit))) + np.maximum(logit, 0)


def _sigmoid(logit: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(89) is infinite in float32, and 1 / inf the right answer
        return 1 / (1 + np.exp(-logit))
