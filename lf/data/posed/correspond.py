"""Correspondences and visibility of points between two views with depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lf.core import Array, UsageError
from lf.data.cameras import homogeneous
from lf.data.posed import View

SAME = 1e-6  # largest relative difference of two depths of one point of a drawn scene
GRID = 16  # px between the points that measure the overlap of two views
Size = tuple[int, int]  # (H, W), pixels


def depth_map(view: View, size: Size) -> Array:
    """Return depth (H, W) float64 along the optical axis at the pixel centres, 0 if unknown.

    Raises:
        UsageError: the view has no depth.
    """
    y, x = np.mgrid[: size[0], : size[1]]
    return np.asarray(_depth(view, np.column_stack([x.ravel(), y.ravel()])).reshape(size))


def project(points: Array, depth: Array, first: View, second: View) -> tuple[Array, Array]:
    """(N, 2) px in the second image and (N,) depth there, of points (N, 2) of the first at (N,) depths.

    Both are meaningless where the depth is 0 or the result is not in front of the second camera (depth there <= 0).
    """
    world = (homogeneous(points) @ np.linalg.inv(first.K).T * np.asarray(depth)[:, None] - first.translation) @ (
        first.rotation
    )
    seen = (world @ second.rotation.T + second.translation) @ second.K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(seen[:, :2] / seen[:, 2:]), np.asarray(seen[:, 2])


def correspond(points: Array, first: View, second: View, size: Size, tolerance: float = SAME) -> tuple[Array, Array]:
    """Positions of points of the first image in the second.

    Args:
        points: (N, 2) px of the first image.
        first: a view with depth.
        second: a view of the same scene; without depth, no point counts as hidden.
        size: (H, W) of the second image.
        tolerance: relative difference of two depths of one point; SAME for drawn scenes, about 0.05 for measured ones.

    Returns:
        (N, 2) px of the second image, and (N,) bool: known, in front of the second camera, on its image, not hidden.

    Raises:
        UsageError: the first view has no depth.
    """
    depth = _depth(first, points)
    found, far = project(points, depth, first, second)
    with np.errstate(invalid="ignore"):
        inside = ((found >= -0.5) & (found < np.array(size[::-1]) - 0.5)).all(axis=1)
    seen = (depth > 0) & (far > 0) & inside
    if second.depth is not None:
        there = second.depth(np.where(seen[:, None], found, 0.0))
        seen &= np.abs(there - far) <= tolerance * far
    return found, seen


def flow(first: View, second: View, size: Size, other: Size) -> Array:
    """Return positions (H, W, 2) float32 in the second image of the pixels of the first, NaN if not visible.

    Args:
        first: a view with depth.
        second: a view of the same scene.
        size: (H, W) of the first image.
        other: (H, W) of the second.

    Raises:
        UsageError: the first view has no depth.
    """
    y, x = np.mgrid[: size[0], : size[1]]
    found, seen = correspond(np.column_stack([x.ravel(), y.ravel()]), first, second, other)
    found[~seen] = np.nan
    return found.reshape(*size, 2).astype(np.float32)


def shared_pairs(views: Sequence[View], size: Size, least: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs i < j of views that both show at least a share `least` of the other."""
    y, x = np.mgrid[GRID // 2 : size[0] : GRID, GRID // 2 : size[1] : GRID]
    points = np.column_stack([x.ravel(), y.ravel()])
    for i, first in enumerate(views):
        for j in range(i + 1, len(views)):
            pair = ((first, views[j]), (views[j], first))
            if min(correspond(points, a, b, size)[1].mean() for a, b in pair) >= least:
                yield i, j


def _depth(view: View, points: Array) -> Array:
    if view.depth is None:
        raise UsageError(f"{view.image.key} has no depth; take drawn scenes (scenes:5) or a set with depth maps")
    return view.depth(points)
