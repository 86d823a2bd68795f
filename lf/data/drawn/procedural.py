"""Images drawn by lf: free of licences, unlimited, with known seeds. numpy and OpenCV only.

`draw(family, seed, size)` depends only on its arguments, GENERATOR and the version of OpenCV (5 draws text differently
from 4). The families of HELD_OUT_FAMILIES, and seeds from HELD_OUT_SEED on, are for demonstrations and tests only;
training never uses them. `training` and `held_out` give the images of both sets.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable

import cv2
import numpy as np

from lf.core import Array, UsageError, pick
from lf.data.drawn import painters, scenes
from lf.data.drawn.surfaces import Rng, Size, log_uniform, noise

GENERATOR = 1  # raise it whenever a pixel of any image changes
HELD_OUT_SEED = 2**31  # training draws from [0, HELD_OUT_SEED), demonstrations and tests from [HELD_OUT_SEED, 2**32)

FAMILIES: dict[str, Callable[[Rng, Size], Array]] = {
    "dead-leaves": painters.dead_leaves,
    "textures": painters.textures,
    "text": painters.text,
    "polygons": painters.polygons,
    "gradients": painters.gradients,
    "mixed": painters.mixed,
    "scene": scenes.scene,
    "mosaic": scenes.mosaic,
}
HELD_OUT_FAMILIES = ("scene", "mosaic")
TRAIN_FAMILIES = tuple(name for name in FAMILIES if name not in HELD_OUT_FAMILIES)


def expose(rng: Rng, canvas: Array) -> Array:
    """Photograph the canvas: uneven light, colour cast, vignette, tone, lens blur, sensor noise; uint8 (H, W, 3)."""
    height, width = canvas.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = np.exp(np.float32(rng.uniform(0, 0.25)) * noise(rng, (64, 64), 1.5, 2))
    light = cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC)
    light = light * (1 - np.float32(rng.uniform(0, 0.25)) * (x**2 + y**2) / 2).astype(np.float32)
    picture = canvas * light[..., None] * rng.uniform(0.9, 1.1, 3).astype(np.float32)
    grey = picture.mean(-1, keepdims=True)
    picture = grey + np.float32(rng.uniform(0.3, 1)) * (picture - grey)
    low, middle, high = np.percentile(grey[::4, ::4], [1, 50, 99])
    black, white = rng.uniform(0, 0.15), rng.uniform(0.75, 1.1)
    gain = (white - black) / max(0.1, high - low)
    picture = np.clip((picture - low) * np.float32(gain) + np.float32(black), 0, 1)
    middle = np.clip((middle - low) * gain + black, 0.05, 0.9)
    gamma = np.log(rng.uniform(0.25, 0.6)) / np.log(middle)  # sets the median grey, as an exposure meter does
    picture = cv2.pow(picture, float(np.clip(gamma, 0.5, 2)))
    picture = cv2.GaussianBlur(picture, (0, 0), log_uniform(rng, 0.3, 0.8))  # px
    picture += rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(log_uniform(rng, 0.002, 0.025))
    exposed: Array = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
    return exposed


def draw(family: str, seed: int, size: Size = (320, 320)) -> Array:
    """Draw an image.

    Args:
        family: a row of FAMILIES.
        seed: from 0 to 2**32 - 1.
        size: (H, W), pixels, each at least 32.

    Returns:
        uint8 (H, W, 3) RGB, the same on every call.

    Raises:
        UsageError: unknown family, seed or size out of range.
    """
    paint = pick(FAMILIES, family, "family of procedural images")
    if not 0 <= seed < 2**32 or min(size) < 32:
        raise UsageError(f"procedural images need a seed in [0, 2**32) and sides from 32 px, got {seed} and {size}")
    rng = np.random.default_rng([GENERATOR, zlib.crc32(family.encode()), seed, *size])
    return expose(rng, paint(rng, size))


def digest(family: str, seed: int, size: Size) -> str:
    """Return the hex sha256 of all that `draw` depends on: it identifies the image without drawing it."""
    made_by = f"procedural {GENERATOR} {family} {seed} {size[0]}x{size[1]} opencv {cv2.__version__.partition('.')[0]}"
    return hashlib.sha256(made_by.encode()).hexdigest()


def training(index: int) -> tuple[str, int]:
    """Return (family, seed) of image `index` of the training set; families alternate.

    Raises:
        UsageError: `index` is outside [0, HELD_OUT_SEED).
    """
    if not 0 <= index < HELD_OUT_SEED:
        raise UsageError(f"training images have numbers in [0, 2**31), got {index}")
    return TRAIN_FAMILIES[index % len(TRAIN_FAMILIES)], index


def held_out(index: int) -> tuple[str, int]:
    """Return (family, seed) of image `index` of the demonstration and test set, which training never uses.

    Raises:
        UsageError: `index` is outside [0, HELD_OUT_SEED).
    """
    if not 0 <= index < HELD_OUT_SEED:
        raise UsageError(f"held-out images have numbers in [0, 2**31), got {index}")
    return HELD_OUT_FAMILIES[index % len(HELD_OUT_FAMILIES)], HELD_OUT_SEED + index


def training_picture(index: int, size: Size = (320, 320)) -> Array:
    """Draw image `index` of the training set; uint8 (H, W, 3) RGB."""
    return draw(*training(index), size)


def held_out_picture(index: int, size: Size = (320, 320)) -> Array:
    """Draw image `index` of the demonstration and test set; uint8 (H, W, 3) RGB."""
    return draw(*held_out(index), size)
