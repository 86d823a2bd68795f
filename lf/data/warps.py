"""Pairs with exact homographies, made from single photos or drawn images.

Every image is first brought to one size, the stage, STAGE times the size of a view. In an `i_` sequence every view is
the centre of the stage, untouched pixels. In a `v_` sequence view 1 is the centre under a random zoom, and the others
show the stage through random homographies, drawn again until the whole view lies on the stage: no view has a border.
All views are then changed photometrically, each by its own draw: strongly the later views of `i_` sequences, mildly all
others. `v_` and `i_` sequences take turns.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from lf.core import Array
from lf.data import Pair, Picture, images, photometric
from lf.data.drawn import procedural
from lf.data.homography import corners, inside, sample, translation_matrix, warp_image, warp_points

VERSION = 1  # increase it if a view changes
STAGE = 1.5
ZOOM = 1.6
SIZE = (240, 320)  # (H, W) of a view, pixels
STAGES = 4  # number of stages in memory: one for each image that threads process at the same time
MILD, STRONG = 0.35, 1.0  # strength of the photometric change

Size = tuple[int, int]


def stage_size(size: Size) -> Size:
    """Return (H, W) of the stage of a view, with even margins, so that view 1 is cut at whole pixels."""
    return (size[0] + 2 * round(size[0] * (STAGE - 1) / 2), size[1] + 2 * round(size[1] * (STAGE - 1) / 2))


def fit(picture: Array, size: Size) -> Array:
    """Crop the largest central part of an image with the aspect ratio of `size`, and resize it: uint8 (H, W, 3)."""
    height, width = picture.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    rows, columns = min(height, max(1, round(size[0] / scale))), min(width, max(1, round(size[1] / scale)))
    top, left = (height - rows) // 2, (width - columns) // 2
    part = picture[top : top + rows, left : left + columns]
    return cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def centre_crop(size: Size) -> Array:
    """Return the homography (3, 3) float64, stage -> view, that shows the centre of the stage without scaling."""
    stage = stage_size(size)
    return translation_matrix((size[1] - stage[1]) // 2, (size[0] - stage[0]) // 2)


def draw_placement(rng: np.random.Generator, size: Size) -> Array:
    """Draw a random homography (3, 3) float64, stage -> view, with the whole view on the stage.

    Homographies that do not fit are drawn again, a little weaker each time.
    """
    weaker = 1.0
    while True:
        homography = sample(
            rng, size, perspective=0.2 * weaker, scale=ZOOM**weaker, rotation=40 * weaker, translation=0.15 * weaker
        )
        placement: Array = homography @ centre_crop(size)
        if inside(warp_points(corners(size), np.linalg.inv(placement)), stage_size(size)).all():
            return placement
        weaker *= 0.99


def draw_zoom(rng: np.random.Generator, size: Size) -> Array:
    """Draw a random zoom (3, 3) about the centre of the stage. It compensates that `draw_placement` mostly zooms in."""
    zoom: Array = sample(rng, size, perspective=0, scale=ZOOM, rotation=0, translation=0)
    return (zoom if zoom[0, 0] > 1 else np.linalg.inv(zoom)) @ centre_crop(size)


@lru_cache(maxsize=STAGES)
def stage(source: Picture, size: Size) -> Array:
    """Return the stage of an image for views of `size`, read-only; it is cached for consecutive views."""
    found = fit(source.load(), stage_size(size))
    found.flags.writeable = False
    return found


def view(source: Picture, size: Size, placement: Array, entropy: list[int], strength: float) -> Array:
    """Render one view of an image: uint8 (H, W, 3) RGB of `size`; `placement` (3, 3) maps stage -> view."""
    seen = warp_image(stage(source, size), placement, size)
    return photometric.change(seen, np.random.default_rng(entropy), strength)


def sequence(source: Picture, kind: str, views: int, size: Size, seed: int) -> list[Pair]:
    """Make the pairs of one image; `kind` is `i` or `v`, and `source.key` the rest of the name of the sequence."""
    name = f"{kind}_{source.key}"
    placements, pictures = [], []
    for k in range(1, views + 1):
        entropy = [VERSION, seed, int(source.digest[:16], 16), k]
        draw = draw_zoom if k == 1 else draw_placement
        placements.append(draw(np.random.default_rng([*entropy, 0]), size) if kind == "v" else centre_crop(size))
        strength = STRONG if kind == "i" and k > 1 else MILD
        load = partial(view, source, size, placements[-1], [*entropy, 1], strength)
        made_by = f"warps {entropy} {kind} {size[0]}x{size[1]} of {source.digest}"
        pictures.append(Picture(f"{name}/{k}", load, hashlib.sha256(made_by.encode()).hexdigest(), source.digest))
    to_stage = np.linalg.inv(placements[0])
    others = zip(range(2, views + 1), pictures[1:], placements[1:], strict=True)
    return [Pair(name, f"1_{k}", pictures[0], other, placement @ to_stage) for k, other, placement in others]


def pairs(
    folder: Path, limit_sequences: int | None = None, seed: int = 0, pairs_per_photo: int = 1, size: Size = SIZE
) -> list[Pair]:
    """Make one sequence per photo of a folder (searched recursively, in byte order), with `pairs_per_photo` pairs each.

    Raises:
        BadInput: no folder, or no image in it. A photo that cannot be decoded raises when it is loaded.
    """
    found = []
    for index, path in enumerate(images.list_images(folder, limit_sequences)):
        photo = images.picture(path, f"{index:05d}_{path.stem}")
        found += sequence(photo, "vi"[index % 2], pairs_per_photo + 1, size, seed)
    return found


def drawn(count: int, seed: int = 0, pairs_per_picture: int = 1, size: Size = SIZE) -> list[Pair]:
    """One sequence per held-out image of `lf.data.drawn.procedural`, which training never sees."""
    stage, found = stage_size(size), []
    for index in range(count):
        family, number = procedural.held_out(index)
        load = partial(procedural.draw, family, number, stage)
        picture = Picture(f"{index:05d}_{family}", load, procedural.digest(family, number, stage))
        kind = "vi"[index // len(procedural.HELD_OUT_FAMILIES) % 2]  # every family is seen in both kinds
        found += sequence(picture, kind, pairs_per_picture + 1, size, seed)
    return found
