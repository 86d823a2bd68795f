"""Decode KP2D's raw maps with numpy, by the conventions of `lf.models.decode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array
from lf.models.decode import Decoded, check_alike, head, mix, raw, sigmoid, unit
from lf.models.peaks import falling


def kp2d(
    maps: Mapping[str, Array],
    *,
    cell: int,
    threshold: float,
    cross: bool = True,
    align_corners: bool = True,
    top_k: int | None = None,
) -> Decoded:
    """Decode KP2D (arXiv 1912.10615): one point per cell, moved from the centre; no suppression.

    Args:
        maps: score (1, h, w) logits, shift (2, h, w) x, y before tanh, feat (D, h', w') un-normalised.
        cell: px, side of the square that one score describes.
        threshold: scores are above it, a probability. Cells of the outermost ring have no points.
        cross: True: a point may leave its cell by up to half a cell. False: it stays on the pixels of the cell.
        align_corners: see `describe_kp2d`.
        top_k: number of best points to keep; None keeps all.

    Returns:
        keypoints (N, 2) float32 px, scores (N,) float32 descending, descriptors (N, D) float32 of unit length.

    Raises:
        LfError: a map is missing, or of the wrong shape.
        BadModel: a map is not finite.
    """
    check_alike(maps, "score", "shift")
    score, shift = sigmoid(head(maps, "score")[0]), head(maps, "shift")
    rows, columns = score.shape
    inner = score[1:-1, 1:-1].reshape(-1)
    index = _best(inner, np.flatnonzero(inner > threshold), top_k)
    y, x = 1 + np.stack(np.divmod(index, max(1, columns - 2)))
    middle = np.float32((cell - 1) / 2)  # px, from the first pixel of a cell to its centre
    reach = middle * (2 if cross else 1)
    points = np.stack([x, y], 1).astype(np.float32) * cell + middle + np.tanh(shift[:, y, x].T) * reach
    points = np.clip(points, 0, np.array([columns * cell - 1, rows * cell - 1], np.float32))
    return points, inner[index], describe_kp2d(maps, points, cell=cell, align_corners=align_corners)


def describe_kp2d(maps: Mapping[str, Array], points: Array, *, cell: int, align_corners: bool = True) -> Array:
    """Return unit descriptors (N, D) at points (N, 2) px: bilinear in the un-normalised feature map.

    With `align_corners`, the outer pixels of the image lie on the centres of the outer samples of the map; without, as
    in some published networks, on the outer edges of these samples.
    """
    samples = np.array(raw(maps, "feat").shape[:0:-1], np.float32)
    share = points / (np.array(raw(maps, "score").shape[:0:-1], np.float32) * cell - 1)
    at = share * (samples - 1) if align_corners else share * samples - np.float32(0.5)
    return unit(mix(maps, "feat", at))


def _best(score: Array, index: Array, top_k: int | None) -> Array:
    """Return the `top_k` of ascending flat `index` (N,) with the highest scores, best first; ties go to the first."""
    if top_k is not None and 0 < top_k < len(index):  # sort only candidates
        found = score[index]
        index = index[found >= np.partition(found, -top_k)[-top_k]]
    return falling(score, index)[:top_k]
