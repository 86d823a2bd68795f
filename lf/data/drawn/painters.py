"""Families of training images: each paints a canvas (H, W, 3) float32 RGB in [0, 1]."""

from __future__ import annotations

import cv2
import numpy as np

from lf.core import Array
from lf.data.drawn.shapes import blend, cast_shadow, coverage, lay, outline, power_law, stamp, tilted, window
from lf.data.drawn.surfaces import Rng, Size, colourise, log_uniform, noise, palette, standardise, surface

LETTERS = list("eeettaaooiinnsshhrrddlucmfwygpbvkxjqzETAOINSHRDLU0123456789&?!   ")  # by rough frequency


def leaf(rng: Rng, canvas: Array, radius: float, materials: list[Array], colours: Array) -> None:
    """Lay a shape of `radius` pixels somewhere: a cut-out of a material, or one colour with that material's grain."""
    height, width = canvas.shape[:2]
    points = outline(rng, radius) + rng.uniform(0, 1, 2) * (width, height)
    where = window(points, (height, width), 2 + radius / 8)
    view = canvas[where]
    rows, columns = view.shape[:2]
    y, x = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    paint = materials[int(rng.integers(len(materials)))][y : y + rows, x : x + columns]
    if rng.random() < 0.6:
        flat = colours[int(rng.integers(len(colours)))]
        paint = flat + np.float32(rng.uniform(0, 0.6)) * (paint - paint.mean((0, 1)))
    down, across = rng.normal(0, 0.25, 2)
    light = 1 + np.linspace(-down, down, rows)[:, None] + np.linspace(-across, across, columns)
    mask = coverage(points - (where[1].start, where[0].start), (rows, columns))
    if radius > 6 and rng.random() < 0.5:
        cast_shadow(rng, view, mask, radius / 8)
    blend(view, mask, paint * light.astype(np.float32)[..., None])


def dead_leaves(rng: Rng, size: Size) -> Array:
    """Occluding shapes of power-law radii over a material."""
    materials, colours = [surface(rng, size) for _ in range(4)], palette(rng, 24)
    canvas = materials[0].copy()
    count = int(rng.integers(60, 180) * size[0] * size[1] / 320**2) + 10
    radii = power_law(rng, count, rng.uniform(3, 8), max(size) / 3, rng.uniform(1.6, 2.6))
    order = np.argsort(-np.log(radii) + rng.normal(0, 0.6, len(radii)))  # mostly large ones first, so small ones show
    for radius in radii[order]:
        leaf(rng, canvas, float(radius), materials, colours)
    return canvas


def textures(rng: Rng, size: Size) -> Array:
    """One to three materials, side by side along noisy or straight borders."""
    canvas = surface(rng, size)
    for _ in range(int(rng.integers(0, 3))):
        border = noise(rng, size, 0.8, 2) if rng.random() < 0.5 else standardise(np.indices(size)[int(rng.integers(2))])
        mask = np.clip((border - rng.uniform(-0.5, 1)) * log_uniform(rng, 2, 60), 0, 1).astype(np.float32)
        blend(canvas, mask, surface(rng, size))
    return canvas


def write(rng: Rng, plane: Array, words: int, low: float, high: float) -> None:
    """Write lines of random letters on `plane` (uint8 (H, W, 3)) in place; letters are `low` to `high` pixels high."""
    height, width = plane.shape[:2]
    y = 0.0
    for _ in range(words):
        scale = log_uniform(rng, low, high) / 22  # a capital is about 22 px high at scale 1
        y += 30 * scale
        ink = palette(rng, 1)[0] * 255
        if abs(float(ink.mean()) - float(plane.mean())) < 60:  # grey levels; keep the writing legible
            ink = np.full(3, 240.0 if plane.mean() < 128 else 15.0)
        line = "".join(rng.choice(LETTERS, max(1, int(rng.uniform(0.5, 1) * width / (16 * scale)))))
        origin = (int(rng.integers(1, 2 + width // 8)), int(y))
        cv2.putText(plane, line, origin, int(rng.integers(8)), scale, ink.tolist(), 1, cv2.LINE_AA)
        y += 8 * scale * rng.uniform(0.5, 3)
        if y > height:
            return


def sheet(rng: Rng, size: Size) -> Array:
    """A sign or a page with writing, float32 (H, W, 3)."""
    ground = np.clip(palette(rng, 1)[0] + rng.uniform(0, 0.3) * (surface(rng, size) - 0.5), 0, 1)
    plane = np.ascontiguousarray(ground * 255, np.uint8)
    write(rng, plane, 12, 8, max(10, size[0] * rng.uniform(0.1, 0.7)))
    if rng.random() < 0.5:
        frame = (palette(rng, 1)[0] * 255).tolist()
        cv2.rectangle(plane, (2, 2), (size[1] - 3, size[0] - 3), frame, int(rng.integers(1, 4)), cv2.LINE_AA)
    return plane.astype(np.float32) / 255


def text(rng: Rng, size: Size) -> Array:
    """Signs, labels and pages at an angle in front of a material."""
    canvas = surface(rng, size)
    for k in range(int(rng.integers(2, 6))):
        half = np.array([rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.6)]) if k == 0 else rng.uniform(0.08, 0.3, 2)
        half *= (size[1], size[0])
        plane = sheet(rng, (max(12, int(2 * half[1])), max(12, int(2 * half[0]))))
        lay(rng, canvas, plane, tilted(rng, size, half, 0.25), shadow=4)
    return canvas


def facade(rng: Rng, size: Size) -> Array:
    """A wall with a grid of windows (panes, frames, sills, some lit), doors and ledges, seen frontally."""
    height, width = size
    wall = surface(rng, size, str(rng.choice(["bricks", "grain", "cloud", "stones"])))
    base = palette(rng, 1)[0] + rng.uniform(0.1, 0.8) * (wall - wall.mean())
    canvas: Array = np.clip(base, 0, 1).astype(np.float32)
    step = np.array([log_uniform(rng, 16, 70), log_uniform(rng, 18, 80)])  # px between windows, x and y
    part, panes = rng.uniform(0.35, 0.8, 2), int(rng.integers(1, 4))
    frame, glass, ledge = palette(rng, 3)
    for y in np.arange(step[1] * 0.3, height, step[1]):
        if rng.random() < 0.5:
            cv2.rectangle(canvas, (0, int(y - 4)), (width, int(y - 2)), ledge.tolist(), -1)
        for x in np.arange(step[0] * 0.2, width, step[0]):
            if rng.random() < 0.08:
                continue
            low, high = np.array([x, y]).astype(int), np.array([x, y] + step * part).astype(int)
            shine = glass * rng.uniform(0.2, 1.5) if rng.random() < 0.9 else np.array([1.0, 0.85, 0.5])
            cv2.rectangle(canvas, (low - 2).tolist(), (high + 2).tolist(), frame.tolist(), -1)
            cv2.rectangle(canvas, low.tolist(), high.tolist(), shine.tolist(), -1)
            canvas[low[1] : low[1] + max(1, int(step[1] / 12)), low[0] : high[0]] *= 0.5  # shadow of the lintel
            for pane in range(1, panes):
                across = int(low[0] + (high[0] - low[0]) * pane / panes)
                cv2.line(canvas, (across, int(low[1])), (across, int(high[1])), frame.tolist(), 1)
            if panes > 1:
                middle = int((low[1] + high[1]) / 2)
                cv2.line(canvas, (int(low[0]), middle), (int(high[0]), middle), frame.tolist(), 1)
    return canvas


def checkerboard(rng: Rng, size: Size) -> Array:
    """Squares in two surfaces of different tone."""
    step = log_uniform(rng, 8, 50)  # px
    y, x = np.indices(size)
    mask = ((np.floor(x / step) + np.floor(y / step * rng.uniform(0.6, 1.6))) % 2).astype(np.float32)
    canvas = surface(rng, size) * np.float32(rng.uniform(0.1, 0.6))
    blend(canvas, mask, 1 - surface(rng, size) * np.float32(rng.uniform(0.1, 0.6)))
    return canvas


def box(rng: Rng, canvas: Array, plane: Array) -> None:
    """Lay a box with three visible faces, each covered by `plane` under its own light."""
    size = canvas.shape[:2]
    corner = np.array([rng.uniform(0.15, 0.85) * size[1], rng.uniform(0.2, 0.9) * size[0]])  # the corner nearest to us
    reach = log_uniform(rng, 0.1, 0.45) * max(size)
    up = np.array([rng.normal(0, 0.05), -rng.uniform(0.5, 1.4)]) * reach
    left = np.array([-rng.uniform(0.4, 1), -rng.uniform(0.05, 0.5)]) * reach
    right = np.array([rng.uniform(0.4, 1), -rng.uniform(0.05, 0.5)]) * reach
    far = rng.uniform(0.7, 0.95)  # perspective: edges shrink with distance
    a, b, c = corner + up, corner + left, corner + right
    faces = [
        (b + up * far, a, corner, b),
        (a, c + up * far, c, corner),
        (b + up * far, corner + up + (left + right) * far, c + up * far, a),
    ]
    for face, light in zip(faces, rng.uniform(0.25, 1.1, 3), strict=True):
        lay(rng, canvas, plane * np.float32(light), np.array(face))


def polygons(rng: Rng, size: Size) -> Array:
    """Man-made structure: facades, boxes, checkerboards, stars, struts and wires before a sky or a material."""
    canvas = gradients(rng, size) if rng.random() < 0.6 else surface(rng, size)
    planes = [facade(rng, size), checkerboard(rng, size) if rng.random() < 0.4 else facade(rng, size)]
    for _ in range(int(rng.integers(1, 4))):
        half = rng.uniform(0.2, 0.6, 2) * (size[1], size[0])
        lay(rng, canvas, planes[int(rng.integers(2))], tilted(rng, size, half, 0.35), shadow=5)
    for _ in range(int(rng.integers(0, 3))):
        box(rng, canvas, planes[int(rng.integers(2))])
    for radius in power_law(rng, int(rng.integers(0, 12)), 6, max(size) / 6):
        points = outline(rng, radius) + rng.uniform(0, 1, 2) * (size[1], size[0])
        stamp(canvas, points, palette(rng, 1)[0])
    for _ in range(int(rng.integers(0, 10))):
        ends = (rng.uniform(-0.1, 1.1, (2, 2)) * (size[1], size[0]) * 8).astype(int)
        cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), palette(rng, 1)[0].tolist(), int(rng.integers(1, 4)),
                 cv2.LINE_AA, 3)  # fmt: skip
    return canvas


def ball(rng: Rng, canvas: Array, radius: float, light: float) -> None:
    """Lay a shaded ball of `radius` pixels, in or out of focus, lit from the direction `light` (radians)."""
    size = canvas.shape[:2]
    centre = rng.uniform(0, 1, 2) * (size[1], size[0])
    where = window(centre + np.array([[-radius], [radius]]), size, radius / 2)
    y, x = (axis.astype(np.float32) for axis in np.ogrid[where])
    dx, dy = (x - np.float32(centre[0])) / np.float32(radius), (y - np.float32(centre[1])) / np.float32(radius)
    square = dx * dx + dy * dy
    inside = np.clip((1 - np.sqrt(square)) * np.float32(radius * rng.choice([1.0, 0.1])), 0, 1)
    facing = np.float32(0.5 * np.cos(light)) * dx + np.float32(0.5 * np.sin(light)) * dy
    shade = np.clip(0.25 + 0.8 * (0.6 * np.sqrt(np.clip(1 - square, 0, 1)) + facing), 0, 1.2)
    view = canvas[where]
    cast_shadow(rng, view, inside, radius / 4)
    blend(view, inside, palette(rng, 1)[0] * shade[..., None])


def gradients(rng: Rng, size: Size) -> Array:
    """Smooth shading: skies, walls, shaded balls and soft shadows; few edges."""
    y, x = (axis.astype(np.float32) for axis in np.ogrid[: size[0], : size[1]])
    light = rng.uniform(0, 2 * np.pi)
    slope = standardise(np.float32(np.cos(light)) * x + np.float32(np.sin(light)) * y)
    clouds = np.float32(rng.uniform(0, 1)) * noise(rng, size, rng.uniform(0.8, 1.3), 2)
    canvas = colourise(slope + clouds, palette(rng, 3))
    for radius in power_law(rng, int(rng.integers(0, 8)), max(size) / 20, max(size) / 3):
        ball(rng, canvas, float(radius), light)
    for _ in range(int(rng.integers(0, 4))):
        points = outline(rng, max(size) * rng.uniform(0.1, 0.6)) + rng.uniform(0, 1, 2) * (size[1], size[0])
        cast_shadow(rng, canvas, coverage(points, size), max(size) * log_uniform(rng, 0.005, 0.05))
    return canvas


def mixed(rng: Rng, size: Size) -> Array:
    """Patches of the other training families at all angles, composed over one of them."""
    parts = (dead_leaves, textures, text, polygons, gradients)
    canvas = parts[int(rng.integers(len(parts)))](rng, size)
    for _ in range(int(rng.integers(2, 5))):
        half = rng.uniform(0.12, 0.4, 2) * (size[1], size[0])
        part = parts[int(rng.integers(len(parts)))](rng, (int(2 * half[1]), int(2 * half[0])))
        lay(rng, canvas, part, tilted(rng, size, half, 0.4), shadow=5)
    return canvas
