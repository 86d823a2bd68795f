"""Pairs of a photo and its rotations or zooms, in steps.

The first view of a photo is the same for all its pairs. Turned views show the same square of the photo, rotated about
the centre. Zoomed views show the centre of the first view, so many times larger; from a factor of 2 on a photo of
640x480 px has no more detail to show, and its views grow smooth. Every second view has its own mild photometric change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from lf.core import Array
from lf.data import Pair, Picture, images, photometric
from lf.data.homography import translation_matrix, warp_image
from lf.data.warps import MILD, SIZE, Size, fit

VERSION = 1  # increase it if a view changes
ANGLES = tuple(range(0, 181, 30))  # degrees, clockwise in the image
FACTORS = (1.0, 2**0.5, 2.0, 2**1.5, 4.0)


@dataclass(frozen=True)
class Change:
    """A change between two views.

    Attributes:
        name: name of the pair, `turn_030` or `zoom_1.41`.
        stage: (H, W) px of the part of the photo for all its views.
        first, second: stage -> view, (3, 3) float64.
    """

    name: str
    stage: Size
    first: Array
    second: Array


def turned(angle: float, size: Size = SIZE) -> Change:
    """Return the change from the centre of a square stage to the same, rotated by `angle` degrees."""
    side = int(np.ceil(np.hypot(*size)))
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    middle = translation_matrix(-(side - 1) / 2, -(side - 1) / 2)
    back = translation_matrix((size[1] - 1) / 2, (size[0] - 1) / 2)
    return Change(f"turn_{angle:03.0f}", (side, side), back @ middle, back @ turn @ middle)


def zoomed(factor: float, size: Size = SIZE) -> Change:
    """Return the change from a whole stage of twice the size to its centre, `factor` times larger."""
    stage = size[0] * 2, size[1] * 2
    return Change(f"zoom_{factor:.2f}", stage, _scaling(size, stage, 0.5), _scaling(size, stage, factor / 2))


def view(load: Callable[[], Array], size: Size, stage: Size, placement: Array, entropy: list[int]) -> Array:
    """Render one view of a photo: uint8 (H, W, 3) RGB of `size`; shrunk views are averaged first."""
    seen = fit(load(), stage)
    shrink = float(np.sqrt(np.linalg.det(placement[:2, :2])))
    if shrink < 1:
        whole = round(stage[1] * shrink), round(stage[0] * shrink)
        seen = cv2.resize(seen, whole, interpolation=cv2.INTER_AREA)
        placement = placement @ np.linalg.inv(_scaling((whole[1], whole[0]), stage, shrink))
    seen = warp_image(seen, placement, size)
    return photometric.change(seen, np.random.default_rng(entropy), MILD)


def pairs(
    folder: Path, changes: Iterable[Change], limit_sequences: int | None = None, seed: int = 0, size: Size = SIZE
) -> list[Pair]:
    """Make one sequence per photo of a folder, searched recursively in byte order, with a pair for each change.

    Raises:
        BadInput: no folder, or no image in it. A photo that cannot be decoded raises when it is loaded.
    """
    found, changes = [], list(changes)
    for index, path in enumerate(images.list_images(folder, limit_sequences)):
        photo = images.picture(path, f"{index:05d}_{path.stem}")
        name = f"v_{photo.key}"
        draw = partial(_picture, photo, name, size, seed)
        first = draw("1", changes[0].stage, changes[0].first, 0)
        for k, change in enumerate(changes, 1):
            second = draw(change.name, change.stage, change.second, k)
            found.append(Pair(name, change.name, first, second, change.second @ np.linalg.inv(change.first)))
    return found


def _picture(
    photo: Picture, name: str, size: Size, seed: int, own: str, stage: Size, placement: Array, k: int
) -> Picture:
    entropy = [VERSION, seed, int(photo.digest[:16], 16), k]
    load = partial(view, photo.load, size, stage, placement, entropy)
    made_by = f"turns_and_zooms {entropy} {own} {size[0]}x{size[1]} of {photo.digest}"
    return Picture(f"{name}/{own}", load, hashlib.sha256(made_by.encode()).hexdigest(), photo.digest)


def _scaling(size: Size, stage: Size, factor: float) -> Array:
    """The centre of the stage, `factor` times as large, in the centre of a view: by areas of pixels, (3, 3)."""
    x, y = ((own - whole * factor) / 2 + (factor - 1) / 2 for own, whole in zip(size[::-1], stage[::-1], strict=True))
    return np.array([[factor, 0, x], [0, factor, y], [0, 0, 1.0]])
