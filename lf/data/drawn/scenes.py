"""The held-out families `scene` and `mosaic`, for demonstrations and tests, never for training."""

from __future__ import annotations

import cv2
import numpy as np

from lf.core import Array
from lf.data.drawn.painters import facade, sheet
from lf.data.drawn.shapes import blend, cast_shadow, coverage, lay, stamp
from lf.data.drawn.surfaces import Rng, Size, colourise, log_uniform, noise, palette, surface, voronoi


def sky(rng: Rng, size: Size) -> Array:
    """A vertical gradient with clouds."""
    ramp = np.linspace(2, -2, size[0], dtype=np.float32)[:, None] * np.ones((1, size[1]), np.float32)
    tone = np.array([[0.55, 0.6, 0.7], [0.3, 0.5, 0.9], [0.95, 0.7, 0.5]])[int(rng.integers(3))]  # dull, blue, dusk
    canvas = colourise(ramp, np.array([[0.95, 0.93, 0.9], tone, tone * 0.6]) * rng.uniform(0.7, 1))
    clouds = np.clip(noise(rng, size, 0.5, 3, (1, 0.5)) * 0.5 - rng.uniform(-0.3, 0.6), 0, 1)
    blend(canvas, clouds, np.float32(rng.uniform(0.6, 1)) * np.ones_like(canvas))
    return canvas


def ridge(rng: Rng, canvas: Array, height: float, haze: float) -> None:
    """A range of hills, `height` of the canvas below its top, paler by `haze` in [0, 1]."""
    size = canvas.shape[:2]
    profile = noise(rng, (4, size[1]), log_uniform(rng, 0.4, 1.2), 3)[0] * 0.06 * size[0] + height * size[0]
    points = np.stack([np.arange(size[1]), profile], -1)
    points = np.vstack([points, [[size[1], size[0]], [0, size[0]]]])
    blend(canvas, coverage(points, size), surface(rng, size) * np.float32(1 - haze) + np.float32(haze * 0.75))


def ground(rng: Rng, canvas: Array, horizon: float) -> None:
    """A plane seen towards the horizon (fraction of the height)."""
    height, width = canvas.shape[:2]
    plane = surface(rng, (height, width))
    far, near = rng.uniform(0.3, 0.7), rng.uniform(2, 3)  # half widths at the horizon and below us
    quad = np.array([[0.5 - far, horizon], [0.5 + far, horizon], [0.5 + near, 1.02], [0.5 - near, 1.02]])
    canvas[int(horizon * height) :] = plane.mean((0, 1))
    lay(rng, canvas, plane, quad * (width, height))


def house(rng: Rng, canvas: Array, foot: Array, width: float) -> None:
    """Two walls and a roof standing on `foot` (x, y pixels, the near corner)."""
    wall = facade(rng, (120, 160))
    height, split = width * rng.uniform(0.5, 1.6), rng.uniform(0.25, 0.75)
    left, right = foot + np.array([-split, -0.12]) * width, foot + np.array([1 - split, -0.12]) * width
    up, far = np.array([0, -height]), np.array([0, -0.85 * height])
    lay(rng, canvas, wall * np.float32(0.6), np.array([left + far, foot + up, foot, left]), shadow=width / 10)
    lay(rng, canvas, wall, np.array([foot + up, right + far, right, foot]))
    if rng.random() < 0.7:  # a gable over the right wall, one slope of its roof over the left one
        ridge_end = (foot + up + right + far) / 2 + up * rng.uniform(0.15, 0.5)
        stamp(canvas, np.array([foot + up, ridge_end, right + far]), wall.mean((0, 1)))
        slope = np.array([ridge_end + left + far - foot - up, ridge_end, foot + up, left + far])
        lay(rng, canvas, surface(rng, (64, 96), "bricks") * np.float32(0.6), slope)
    if rng.random() < 0.4:  # a shop sign
        low, high = foot + up * 0.45, foot + up * 0.3
        along = (right - foot) * 0.8
        lay(rng, canvas, sheet(rng, (24, 90)), np.array([low, low + along, high + along, high]), shadow=2)


def tree(rng: Rng, canvas: Array, foot: Array, length: float) -> None:
    """Branches splitting into thinner ones, with leaves at the tips; `length` of the trunk in pixels."""
    bark, leaves = palette(rng, 1)[0] * 0.4, palette(rng, 5) * np.array([0.7, 1.0, 0.5])
    branches = [(foot, -np.pi / 2 + rng.normal(0, 0.1), length)]
    bare = rng.random() < 0.3
    while branches:
        start, angle, reach = branches.pop(0)
        tip = start + reach * np.array([np.cos(angle), np.sin(angle)])
        ends = np.round(np.stack([start, tip]) * 8).astype(int)
        thick = max(1, round(reach / 8))
        cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), bark.tolist(), thick, cv2.LINE_AA, 3)
        if reach > length / 5:
            spread = rng.uniform(0.3, 0.8, 2) * (-1, 1)
            branches += [(tip, angle + turn, reach * rng.uniform(0.6, 0.8)) for turn in spread]
        for offset in rng.normal(0, length / 8, (0 if bare or reach > length / 2 else 8, 2)):
            centre = np.round((tip + offset) * 8).astype(int)
            colour = leaves[int(rng.integers(5))] * rng.uniform(0.4, 1.2)
            radius = int(8 * rng.uniform(0.015, 0.05) * length) + 8
            cv2.circle(canvas, centre.tolist(), radius, colour.tolist(), -1, cv2.LINE_AA, 3)


def scene(rng: Rng, size: Size) -> Array:
    """A landscape: sky, hazy hills, ground in perspective, houses with signs, trees."""
    canvas = sky(rng, size)
    horizon = rng.uniform(0.35, 0.6)
    for k in range(int(rng.integers(1, 4)), 0, -1):
        ridge(rng, canvas, horizon - 0.07 * k, 0.2 * k)
    ground(rng, canvas, horizon)
    for depth in np.sort(rng.uniform(0.15, 1, int(rng.integers(3, 8)))):  # far ones first
        foot = np.array([rng.uniform(0, 1), horizon + (0.95 - horizon) * depth]) * (size[1], size[0])
        if rng.random() < 0.6:
            house(rng, canvas, foot, 0.5 * max(size) * depth * rng.uniform(0.6, 1.2))
        else:
            tree(rng, canvas, foot, 0.2 * max(size) * depth * rng.uniform(0.7, 1.3))
    return canvas


def mosaic(rng: Rng, size: Size) -> Array:
    """Irregular tiles between joints: each of one colour or cut from a material, over large colour regions."""
    spacing = log_uniform(rng, 9, 40)  # px
    border, cells = voronoi(rng, size, spacing, 0)
    materials = np.stack([surface(rng, size) for _ in range(3)])
    region = cv2.resize(noise(rng, (16, 16), 0.8, 2), size[::-1], interpolation=cv2.INTER_CUBIC)
    colours, count = palette(rng, 12), int(cells.max()) + 1
    number = np.clip(region * 3 + 6 + rng.normal(0, 0.8, count)[cells], 0, 11).astype(int)
    grain = np.take_along_axis(materials, rng.integers(0, 3, count)[cells][None, ..., None], 0)[0]
    light = rng.normal(1, 0.15, count)[cells][..., None].astype(np.float32)
    tiles = colours[number] * light + np.float32(rng.uniform(0, 0.7)) * (grain - 0.4)
    joint = np.clip(border / max(1.0, spacing * rng.uniform(0.05, 0.12)), 0, 1).astype(np.float32)
    canvas = surface(rng, size, "grain") * np.float32(rng.uniform(0.2, 0.9))
    cast_shadow(rng, canvas, joint, 1.5)
    blend(canvas, joint, tiles.astype(np.float32))
    return canvas
