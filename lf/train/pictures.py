"""The pictures a run learns from: drawn by the project, or read from any folder of photos. Grey, square, in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from lf.core import Array, BadInput
from lf.data import images, procedural
from lf.train import Recipe

Progress = Callable[[int, int, str], None]


def collect(recipe: Recipe, data: str, progress: Progress) -> Array:
    """Pictures (recipe.pictures, P, P) uint8 grey, P = recipe.picture_size; fewer if the folder holds fewer.

    `data` is `procedural` (the training families of `lf.data.procedural`) or a folder, searched recursively.

    Raises:
        BadInput: no folder, or none of its files is a usable image.
    """
    if data == "procedural":
        return _draw(recipe, progress)
    found = []
    paths = images.list_images(Path(data), limit=recipe.pictures)
    for index, path in enumerate(paths):
        progress(index, len(paths), "reading pictures")
        try:
            found.append(_square(images.read(path), recipe.picture_size))
        except BadInput:
            continue  # counted below: one broken photo must not end a run of hours
    if not found:
        raise BadInput(f"{data}: none of its {len(paths)} images could be read; expected a folder of photos")
    progress(len(paths), len(paths), f"read {len(found)} pictures, {len(paths) - len(found)} unreadable")
    return np.stack(found)


def _draw(recipe: Recipe, progress: Progress) -> Array:
    side = recipe.picture_size
    pictures = np.empty((recipe.pictures, side, side), np.uint8)
    for index in range(recipe.pictures):
        progress(index, recipe.pictures, "drawing pictures")
        picture = procedural.training_picture(recipe.seed * 100_000 + index, (side, side))
        pictures[index] = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return pictures


def _square(image: Array, side: int) -> Array:
    """The central square of an RGB image, grey, `side` pixels wide."""
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    grey = cv2.cvtColor(image[top : top + short, left : left + short], cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
