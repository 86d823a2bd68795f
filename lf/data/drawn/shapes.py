"""Shapes, shadows and perspective for `lf.data.drawn.painters` and `lf.data.drawn.scenes`.

A canvas is float32 (H, W, 3) and is changed in place; points are (N, 2) float64, x then y, pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from lf.core import Array
from lf.data.drawn.surfaces import Rng, Size


def power_law(rng: Rng, count: int, low: float, high: float, exponent: float = 3) -> Array:
    """(count,) radii with density r**-exponent on [low, high], pixels.

    Source: exponent 3 is that of natural images, Lee, Mumford, Huang, "Occlusion models ...", IJCV 2001.
    """
    a, b = low ** (1 - exponent), high ** (1 - exponent)
    radii: Array = (a - rng.random(count) * (a - b)) ** (1 / (1 - exponent))
    return radii


def outline(rng: Rng, radius: float) -> Array:
    """The outline of one random shape around (0, 0): (K, 2) float64, x then y, pixels."""
    kind, turn = int(rng.integers(6)), rng.uniform(0, 2 * np.pi)
    if kind == 0:  # rectangle, often upright
        a, b = radius, radius * rng.uniform(0.15, 1)
        shape = np.array([[-a, -b], [a, -b], [a, b], [-a, b]])
        turn = turn if rng.random() < 0.5 else float(rng.choice([0.0, np.pi / 2]))
    else:
        count = {1: 24, 2: 24, 3: int(rng.integers(3, 8)), 4: 36, 5: 2 * int(rng.integers(4, 8))}[kind]
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
        reach = np.full(count, radius)  # disc
        if kind == 3:  # polygon
            angle = angle + rng.uniform(-0.35, 0.35, count) * 2 * np.pi / count
            reach = radius * rng.uniform(0.6, 1, count)
        elif kind == 4:  # leaf or pebble
            reach = radius * (0.7 + 0.3 * np.cos(int(rng.integers(2, 6)) * angle + turn) * rng.uniform(0.2, 1))
        elif kind == 5:  # star
            reach = radius * np.where(np.arange(count) % 2, rng.uniform(0.3, 0.7), 1.0)
        shape = reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        shape[:, 1] *= rng.uniform(0.3, 1) if kind in (2, 4) else 1.0  # ellipse, leaf
    c, s = np.cos(turn), np.sin(turn)
    turned: Array = shape @ np.array([[c, s], [-s, c]])
    return turned


def coverage(points: Array, size: Size) -> Array:
    """Anti-aliased inside of a polygon (K, 2): float32 (H, W) in [0, 1]."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)  # 4 fractional bits
    inside: Array = mask.astype(np.float32) * np.float32(1 / 255)
    return inside


def blend(canvas: Array, mask: Array, paint: Array) -> None:
    """Lay `paint` over `canvas` (H, W, 3) in place where `mask` (H, W) is 1."""
    canvas += mask[..., None] * (paint - canvas)


def cast_shadow(rng: Rng, canvas: Array, mask: Array, distance: float) -> None:
    """Darken `canvas` in place by the blurred, shifted `mask` of what will lie on it; `distance` in pixels."""
    blurred = cv2.GaussianBlur(mask, (0, 0), max(0.5, distance * rng.uniform(0.2, 0.8)))
    shift = np.array([[1, 0, distance * rng.uniform(-1, 1)], [0, 1, distance * rng.uniform(0, 1)]])
    shifted = cv2.warpAffine(blurred, shift, mask.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    canvas *= 1 - np.float32(rng.uniform(0.2, 0.7)) * shifted[..., None]


def window(points: Array, size: Size, margin: float) -> tuple[slice, slice]:
    """The part (rows, columns) of a canvas that a shape with these `points` and a `margin` around it can touch."""
    low = np.clip(np.floor(points.min(0) - margin), 0, (size[1] - 2, size[0] - 2)).astype(int)
    high = np.clip(np.ceil(points.max(0) + margin), low + 2, (size[1], size[0])).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def stamp(canvas: Array, points: Array, colour: Array) -> None:
    """Fill a polygon (K, 2) with one colour."""
    rows, columns = window(points, canvas.shape[:2], 1)
    view = canvas[rows, columns]
    blend(view, coverage(points - (columns.start, rows.start), view.shape[:2]), colour)


def lay(rng: Rng, canvas: Array, plane: Array, quad: Array, shadow: float = 0) -> None:
    """Lay an image on the quadrilateral `quad` (4, 2), clockwise from top left, with a shadow of `shadow` pixels."""
    rows, columns = window(quad, canvas.shape[:2], 1 + 2 * shadow)
    view, quad = canvas[rows, columns], quad - (columns.start, rows.start)
    height, width = plane.shape[:2]
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float32)
    homography = cv2.getPerspectiveTransform(corners, quad.astype(np.float32))
    paint = cv2.warpPerspective(plane, homography, view.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    mask = coverage(quad, view.shape[:2])
    if shadow > 0:
        cast_shadow(rng, view, mask, shadow)
    blend(view, mask, paint)


def tilted(rng: Rng, size: Size, half: Array, amount: float) -> Array:
    """Corners (4, 2) of a rectangle of half extent `half` (x, y, pixels) somewhere on the canvas, each corner moved by
    up to `amount` of it; clockwise from top left.
    """
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + rng.uniform(-amount, amount, (4, 2))
    turn = rng.normal(0, 0.5 * amount)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    moved: Array = (corners * half) @ rotation + rng.uniform(0.15, 0.85, 2) * (size[1], size[0])
    return moved
