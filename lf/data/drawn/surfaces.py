"""Fields and surfaces: the materials of `lf.data.drawn.procedural`.

A field is float32 (H, W), zero mean and unit deviation, drawn by one row of FIELDS. A surface is float32 (H, W, 3) RGB
reflectance, nominally in [0, 1]: a field looked up in a palette and, mostly, lit from one side. `rng` is consumed in a
fixed order, so equal seeds give equal images.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from lf.core import Array

Size = tuple[int, int]  # (H, W), pixels
Rng = np.random.Generator


def standardise(field: Array) -> Array:
    """Shift and scale to zero mean and unit deviation, as float32."""
    centred = field.astype(np.float32) - np.float32(field.mean())
    return centred / np.float32(centred.std() + 1e-6)


def noise(
    rng: Rng, size: Size, slope: float = 0.0, coarsest: float = 2.0, stretch: tuple[float, float] = (1, 1)
) -> Array:
    """Multi-octave noise; `slope` 0 gives every octave equal energy, the 1/f amplitude spectrum of natural images.

    Args:
        slope: each finer octave is 2**-slope times weaker.
        coarsest: grid cells along the longer side in the first octave.
        stretch: (y, x) factors on the number of cells; (0.1, 1) draws vertical fibres.

    Source: D. J. Field, "Relations between the statistics of natural images ...", JOSA A 1987.
    """
    height, width = size
    field, cells, amplitude = np.zeros(size, np.float32), coarsest, 1.0
    while cells < max(size):
        rows = max(2, min(height, round(cells * stretch[0] * height / max(size))))
        columns = max(2, min(width, round(cells * stretch[1] * width / max(size))))
        grid = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(amplitude)
        field += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, amplitude = cells * 2, amplitude * 2.0**-slope
    return standardise(field)


def coordinates(rng: Rng, size: Size, warp: float) -> tuple[Array, Array]:
    """Rotated (u, v) pixel coordinates, float32 (H, W) each, bent by smooth noise of `warp` pixels deviation."""
    y, x = np.indices(size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.6 else rng.choice([0.0, np.pi / 2])
    bend_u, bend_v = (np.float32(warp) * noise(rng, size, 1.2, 3) for _ in range(2))
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y + bend_u, c * y - s * x + bend_v


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """One draw whose logarithm is uniform: equal odds for every octave of [low, high]."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def cloud(rng: Rng, size: Size) -> Array:
    """Isotropic or stretched noise: plaster, sky, bark."""
    stretch = (1.0, log_uniform(rng, 0.15, 1)) if rng.random() < 0.4 else (1.0, 1.0)
    return noise(rng, size, rng.uniform(0, 0.8), log_uniform(rng, 2, 16), stretch)


def grain(rng: Rng, size: Size) -> Array:
    """Fine noise only: sand, asphalt, cloth."""
    return noise(rng, size, rng.uniform(-0.3, 0.3), log_uniform(rng, max(size) / 16, max(size) / 4))


def grating(rng: Rng, size: Size) -> Array:
    """Warped bars, from sinusoidal to square: fences, zebra, corrugated sheet."""
    period = log_uniform(rng, 5, max(10, max(size) / 4))  # px
    u, _ = coordinates(rng, size, period * rng.uniform(0, 0.7))
    return standardise(np.tanh(np.float32(log_uniform(rng, 0.5, 8)) * np.sin(u * np.float32(2 * np.pi / period))))


def wood(rng: Rng, size: Size) -> Array:
    """Rings cut by a plane, with fibres."""
    period = log_uniform(rng, 6, 30)  # px
    u, v = coordinates(rng, size, 0.8 * period)
    rings = np.sin(np.hypot(u, v * np.float32(0.1)) * np.float32(2 * np.pi / period))
    return standardise(rings + 0.6 * noise(rng, size, 0, 8, (0.08, 1)))


def voronoi(rng: Rng, size: Size, spacing: float, warp: float) -> tuple[Array, Array]:
    """Cells around jittered grid points.

    Returns:
        (distance in pixels to the nearest cell border float32 (H, W), cell number int32 (H, W)).
    """
    height, width = size
    seeds = np.full((height + 64, width + 64), 255, np.uint8)  # 32 px margin, so that warped look-ups find a cell
    count = max(4, int(seeds.size / spacing**2))
    seeds[rng.integers(0, seeds.shape[0], count), rng.integers(0, seeds.shape[1], count)] = 0
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    y, x = np.indices(size, dtype=np.float32)
    bend_y, bend_x = (np.float32(min(warp, 10)) * noise(rng, size, 0.7, 4) + 32 for _ in range(2))
    cells = cv2.remap(labels.astype(np.float32), x + bend_x, y + bend_y, cv2.INTER_NEAREST, None, cv2.BORDER_REPLICATE)
    inside = (cv2.morphologyEx(cells, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) == 0).astype(np.uint8)
    return cv2.distanceTransform(inside, cv2.DIST_L2, 3), cells.astype(np.int32)


def stones(rng: Rng, size: Size) -> Array:
    """Rounded cells of different height with joints: cobbles, cracked earth, leather."""
    spacing = log_uniform(rng, 10, 70)  # px
    border, cells = voronoi(rng, size, spacing, spacing / 8)
    profile = 1 - np.exp(-border / np.float32(spacing * rng.uniform(0.03, 0.15)))
    heights = rng.normal(0, 0.35, cells.max() + 1).astype(np.float32)
    return standardise(profile + heights[cells] * (border > 1) + 0.15 * noise(rng, size, 0, 8))


def bricks(rng: Rng, size: Size) -> Array:
    """Running bond with joints, each brick of its own tone."""
    height = log_uniform(rng, 7, 40)  # px, as all below
    width, joint = height * rng.uniform(1, 3), height * rng.uniform(0.05, 0.15)
    u, v = coordinates(rng, size, rng.uniform(0, 2))
    row = np.floor(v / height)
    shifted = u + row * width * rng.choice([0.0, 0.5])
    column = np.floor(shifted / width)
    edge = np.minimum(np.minimum(v - row * height, (row + 1) * height - v),
                      np.minimum(shifted - column * width, (column + 1) * width - shifted))  # fmt: skip
    tones = rng.normal(0, 0.4, 4096).astype(np.float32)
    tone = tones[((row * 131 + column * 17).astype(np.int64)) % 4096]
    return standardise(np.clip(edge / joint, 0, 1) * (1 + tone) + 0.2 * noise(rng, size, 0, 16))


def spots(rng: Rng, size: Size) -> Array:
    """Soft discs of power-law radii, light and dark: gravel, foliage, bokeh."""
    field = np.zeros(size, np.float32)
    low = rng.uniform(1.5, 4)
    for _ in range(int(rng.integers(80, 400))):
        radius = min(low * rng.random() ** -0.7, max(size) / 6)
        centre = (int(rng.integers(-10, size[1] + 10)), int(rng.integers(-10, size[0] + 10)))
        cv2.circle(field, centre, int(radius), float(rng.normal()), -1, cv2.LINE_AA)
    return standardise(cv2.GaussianBlur(field, (0, 0), rng.uniform(0.5, 1.5)) + 0.2 * noise(rng, size, 0, 8))


def strokes(rng: Rng, size: Size) -> Array:
    """Short curved strokes around one direction: grass, fur, straw."""
    field = np.zeros(size, np.float32)
    mean, spread, length = rng.uniform(0, np.pi), rng.uniform(0.1, 0.9), log_uniform(rng, 8, 50)  # rad, rad, px
    count = 500
    start = rng.uniform(-10, max(size) + 10, (count, 2))
    angle = rng.normal(mean, spread, (count, 1)) + np.array([[0.0, 0.4]]) * rng.normal(0, 1, (count, 1))
    step = np.stack([np.cos(angle), np.sin(angle)], -1) * length * rng.uniform(0.2, 1, (count, 1, 1))
    lines = np.concatenate([start[:, None], start[:, None] + np.cumsum(step, 1)], 1)
    for line, tone in zip(np.round(lines * 8).astype(np.int32), rng.normal(0, 1, count), strict=True):
        cv2.polylines(field, [line], False, float(tone), int(rng.integers(1, 3)), cv2.LINE_AA, 3)
    return standardise(field + 0.4 * noise(rng, size, 0.3, 4))


def weave(rng: Rng, size: Size) -> Array:
    """Two crossed gratings: cloth, tiles, netting."""
    period = log_uniform(rng, 6, 50)  # px
    u, v = coordinates(rng, size, period * rng.uniform(0, 0.4))
    turn = np.float32(2 * np.pi / period)
    wave = np.sin(u * turn) * np.sin(v * turn / np.float32(rng.uniform(0.6, 1.6)))
    return standardise(np.tanh(wave * np.float32(log_uniform(rng, 0.7, 10))) + 0.2 * noise(rng, size, 0, 8))


FIELDS: dict[str, Callable[[Rng, Size], Array]] = {
    "cloud": cloud, "grain": grain, "grating": grating, "wood": wood, "stones": stones, "bricks": bricks,
    "spots": spots, "strokes": strokes, "weave": weave,
}  # fmt: skip


def palette(rng: Rng, count: int) -> Array:
    """(count, 3) float32 RGB in [0, 1]: muted, mostly around one hue of earth, foliage or sky."""
    base = rng.choice([28.0, 90.0, 210.0]) + rng.normal(0, 20) if rng.random() < 0.75 else rng.uniform(0, 360)
    hue = base + rng.normal(0, 20, count) + 180 * (rng.random(count) < 0.15)  # degrees
    hsv = np.stack([hue % 360, rng.beta(1.2, 3.5, count), rng.uniform(0.04, 1, count)], -1).astype(np.float32)
    rgb: Array = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    return rgb


def colourise(field: Array, colours: Array) -> Array:
    """Look a field up in a ramp of colours (K, 3), from -2 to +2 deviations; float32 (H, W, 3)."""
    stops = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), stops, colours[:, c]) for c in range(3)], -1).astype(np.float32)
    coloured: Array = table[np.clip(field * 64 + 128, 0, 255).astype(np.uint8)]
    return coloured


def relief(field: Array, angle: float, depth: float) -> Array:
    """Light on a height field: a factor float32 (H, W, 1) around 1 from its slope along `angle` (radians)."""
    slope = cv2.Scharr(field, cv2.CV_32F, 1, 0) * np.cos(angle) + cv2.Scharr(field, cv2.CV_32F, 0, 1) * np.sin(angle)
    light: Array = (1 + depth * np.tanh(slope / (2 * slope.std() + 1e-6)))[..., None].astype(np.float32)
    return light


def surface(rng: Rng, size: Size, kind: str | None = None) -> Array:
    """A whole coloured, lit material, float32 (H, W, 3); `kind` is a row of FIELDS, drawn when None."""
    field = FIELDS[kind or str(rng.choice(list(FIELDS)))](rng, size)
    coloured = colourise(field, palette(rng, int(rng.integers(2, 5))))
    if rng.random() < 0.6:
        coloured = coloured * relief(field, rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.6))
    return np.clip(coloured, 0, 1)
