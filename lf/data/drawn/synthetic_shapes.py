"""MagicPoint's synthetic shapes (arXiv 1712.07629, section 4): an image and its corners.

The published set is drawn at 960x1280 for 120x160, blurred, made smaller, and kept in archives. Here every image
follows from a seed in a millisecond or two; it is drawn at SUPER times its size and blurred alike.
"""

from __future__ import annotations

import cv2
import numpy as np

from lf.core import Array
from lf.data import homography
from lf.data.drawn.primitives import PRIMITIVES, Drawing, Rng, Size

SUPER = 4  # canvas pixels per pixel; the published set has 8
BLUR = 3.5 / 8  # px, standard deviation of the published 21x21 kernel
CONTRAST = 30  # gray levels between a shape and what it lies on
TEXTURE = 10  # gray levels, of the texture of polygons

_NAMES = tuple(PRIMITIVES)
_KEPT = np.cumsum([kept for _, kept in PRIMITIVES.values()]) / sum(kept for _, kept in PRIMITIVES.values())


def shape(seed: int, size: Size) -> tuple[Array, Array]:
    """One image of one of the nine primitives, chosen as often as the published set keeps it.

    Args:
        seed: determines the image.
        size: (H, W), pixels.

    Returns:
        image (H, W) uint8; points (N, 2) float32 x, y of its visible corners, px, pixel centres at integers.
    """
    drawing, rng = _drawing(seed, size)
    return paint(drawing, rng, size), _inside(drawing.points, size)


def points(seed: int, size: Size) -> Array:
    """Return only the points of `shape(seed, size)`, in a tenth of the time."""
    return _inside(_drawing(seed, size)[0].points, size)


def draw(name: str, rng: Rng, size: Size) -> tuple[Array, Array]:
    """One image of the primitive `name`, and its points; see `shape`."""
    drawing = PRIMITIVES[name][0](rng, size)
    return paint(drawing, rng, size), _inside(drawing.points, size)


def _drawing(seed: int, size: Size) -> tuple[Drawing, Rng]:
    rng = np.random.default_rng(seed)
    return PRIMITIVES[_NAMES[int(np.searchsorted(_KEPT, rng.random(), "right"))]][0](rng, size), rng


def _inside(points: Array, size: Size) -> Array:
    kept: Array = points[homography.inside(points, size)].astype(np.float32)
    return kept


def paint(drawing: Drawing, rng: Rng, size: Size) -> Array:
    """The finished image (H, W) uint8."""
    if drawing.noise:
        noise: Array = rng.uniform(60, 195) + rng.uniform(10, 60) * rng.standard_normal(size, np.float32)
        return np.clip(noise, 0, 255).astype(np.uint8)
    height, width = size
    ground = background(rng, size)
    canvas = cv2.resize(ground, (width * SUPER, height * SUPER), interpolation=cv2.INTER_LINEAR)
    taken = (int(ground.min()), int(ground.max()))
    for polygon, level in zip(drawing.polygons, _levels(drawing, rng, taken), strict=True):
        # px -> canvas px, half-pixel exact, with 4 fractional bits
        corners = np.round(((polygon + 0.5) * SUPER - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [corners], int(level), cv2.LINE_8, 4)
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    if drawing.textured:
        _texture(image, drawing, rng)
    blurred: Array = cv2.GaussianBlur(image, (3, 3), BLUR)
    return blurred


def background(rng: Rng, size: Size) -> Array:
    """A level with soft spots, (H, W) uint8: a hundred discs, blurred until none can be made out."""
    height, width = size
    ground = np.full(size, round(255 * rng.random()), np.uint8)  # mean of uniform noise behind a random threshold
    places = (rng.uniform(0, 1, (100, 2)) * (width, height)).astype(int).tolist()
    radii = np.round(rng.uniform(0.02, 0.031, 100) * max(size)).astype(int).tolist()
    for place, radius, level in zip(places, radii, rng.integers(0, 256, 100).tolist(), strict=True):
        cv2.circle(ground, place, radius, level, -1)
    kernel = max(3, round(rng.uniform(150, 500) / 1280 * max(size)))
    return cv2.blur(cv2.blur(ground, (kernel, kernel)), (3, 3))


def _texture(image: Array, drawing: Drawing, rng: Rng) -> None:
    """Vary the gray of the polygons smoothly, in place."""
    height, width = image.shape
    kernel = round(rng.uniform(50, 100) / 1280 * max(height, width))
    noise: Array = cv2.blur(rng.standard_normal((height, width), np.float32), (kernel, kernel))
    mask = np.zeros((height, width), np.uint8)
    for polygon in drawing.polygons:
        cv2.fillPoly(mask, [np.round(polygon * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    strength = np.float32(TEXTURE * rng.random() * kernel)  # blurring divided the deviation by `kernel`
    image[:] = np.clip(image + noise * mask * strength, 0, 255)


def _levels(drawing: Drawing, rng: Rng, taken: tuple[int, int]) -> list[int]:
    """A gray level for each polygon, CONTRAST away from the background and from polygons that it touches."""
    if drawing.related:
        own: list[int] = []
        for _ in range(max(drawing.tones) + 1):
            own.append(_level(rng, [taken, *((level, level) for level in own)]))
        return [own[tone] for tone in drawing.tones]
    tones = [_level(rng, [taken]) for _ in range(max(drawing.tones, default=-1) + 1)]
    return [tones[tone] for tone in drawing.tones]


def _level(rng: Rng, taken: list[tuple[int, int]]) -> int:
    """A random level at least CONTRAST from all the `taken` ranges, or as far from them as possible."""
    gray = np.arange(256)
    distance = np.min([np.maximum(low - gray, gray - high) for low, high in taken], 0)
    free = np.flatnonzero(distance >= min(CONTRAST, distance.max()))
    return int(free[int(rng.random() * len(free))])
