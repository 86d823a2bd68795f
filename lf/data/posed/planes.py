"""Textured rectangles seen by a pinhole camera, with exact depth and visibility.

A rectangle is (3, 3) float64 with the columns u, v, o: its points are `o + a u + b v` for a and b in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from lf.core import Array
from lf.data.cameras import homogeneous

OVERSAMPLE = 2  # pixels of the drawing along each axis of a pixel of the view
EMPTY = 96.0  # grey level without a rectangle
Size = tuple[int, int]  # (H, W), pixels


def inverses(planes: Array, K: Array, rotation: Array, translation: Array) -> Array:
    """(P, 3, 3): homogeneous pixels -> (a, b, 1) / z on each of (P, 3, 3) rectangles."""
    seen = rotation @ planes + translation[:, None] * np.array([0, 0, 1])
    return np.asarray(np.linalg.inv(seen) @ np.linalg.inv(K))


def cast(points: Array, onto: Array) -> tuple[Array, Array]:
    """Return the first intersections of the rays of points.

    Args:
        points: (N, 2) px.
        onto: (P, 3, 3), see `inverses`.

    Returns:
        Depth (N,) float64 along the optical axis, and index (N,) of the rectangle; 0 and -1 without intersection.
    """
    met = np.einsum("pij,nj->pin", onto, homogeneous(points))
    a, b, near = met.swapaxes(0, 1)
    hit = (near > 0) & (a >= 0) & (b >= 0) & (a <= near) & (b <= near)
    nearest = np.where(hit, near, 0)
    index = nearest.argmax(axis=0)
    best = np.take_along_axis(nearest, index[None], 0)[0]
    with np.errstate(divide="ignore"):
        return np.where(best > 0, 1 / best, 0.0), np.where(best > 0, index, -1)


def render(textures: Sequence[Array], onto: Array, size: Size) -> Array:
    """The view: float32 (H, W, 3), from textures uint8 (n, n, 3), at OVERSAMPLE times the size and area-shrunk."""
    height, width = (side * OVERSAMPLE for side in size)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = ((each + np.float32(0.5)) / OVERSAMPLE - np.float32(0.5) for each in (x, y))
    canvas = np.full((height, width, 3), EMPTY, np.float32)
    front = np.zeros((height, width), np.float32)
    for texture, matrix in zip(textures, onto.astype(np.float32), strict=True):
        a, b, near = (row[0] * x + row[1] * y + row[2] for row in matrix)
        hit = (near > front) & (a >= 0) & (b >= 0) & (a <= near) & (b <= near)
        if not hit.any():
            continue
        scale = np.divide(len(texture), near, out=np.zeros_like(near), where=hit)
        where = cv2.BORDER_REPLICATE
        paint = cv2.remap(texture, a * scale - 0.5, b * scale - 0.5, cv2.INTER_LINEAR, borderMode=where)
        canvas[hit], front[hit] = paint[hit], near[hit]
    return np.asarray(cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA))


def look_at(centre: Array, target: Array) -> tuple[Array, Array]:
    """World-to-camera rotation (3, 3) and translation (3,) of a camera at `centre`; the world's y points down."""
    forward = np.asarray(target, dtype=np.float64) - centre
    forward /= np.linalg.norm(forward)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return rotation, -rotation @ np.asarray(centre, dtype=np.float64)
