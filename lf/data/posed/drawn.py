"""Drawn scenes: five textured rectangles, twelve cameras, exact poses, depth and visibility.

`scenes(N)` are for demonstrations and tests: the first is `synth12`, whose cameras are fixed, and the others have
textures of held-out families. `training(index)` draws from families and seeds that these never show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import cv2
import numpy as np

from lf.core import Array, UsageError
from lf.data import Picture, photometric
from lf.data.drawn import procedural
from lf.data.posed import Scene, View, planes
from lf.data.posed.correspond import shared_pairs

VERSION = 1  # increase it if a pixel of a view changes
SIZE = (480, 640)  # (H, W) px of a view
TEXTURE = 512  # px, both sides of a texture
VIEWS = 12
K = np.array([[560.0, 0, 319.5], [0, 560, 239.5], [0, 0, 1]])
NOISE = 2.0  # grey levels, deviation of the noise of a view
MILD = 0.35  # strength of the photometric change
SHARED = 0.3  # least share of each image that the other shows, for a listed pair
SYNTH12 = "synth12"
TARGET = (0.0, 0.2, 7.0)

# corner o, edges u and v in metres; world x right, y down, z forward: back wall, floor, three boards
RECTANGLES = np.array(
    [
        [(-6, -4, 9), (12, 0, 0), (0, 8, 0)],
        [(-6, 2, 2.5), (12, 0, 0), (0, 0, 6.5)],
        [(-3.2, -0.3, 6), (2.2, 0, 0.7), (0, 2.3, 0)],
        [(0.9, -1.1, 5.2), (2, 0, -0.8), (0, 3.1, 0)],
        [(-0.9, 0.6, 4.4), (1.5, 0, 0.2), (0, 1.4, 0)],
    ]
)
BOARDS = slice(2, 5)

Pose = tuple[Array, Array]


def scenes(count: int, seed: int = 0) -> list[Scene]:
    """Draw `synth12` and `count - 1` held-out scenes, which depend on `seed`."""
    return [synth12(), *(held_out(index + seed * 1000) for index in range(1, count))][:count]


def synth12() -> Scene:
    """The scene with fixed rectangles and cameras: 12 images of 640x480, fx = fy = 560."""
    return _scene(SYNTH12, _columns(RECTANGLES), _cameras(), [0], lambda: tuple(_speckle(k) for k in range(5)))


def held_out(index: int, size: tuple[int, int] = SIZE) -> Scene:
    """Scene `index` of the demonstration and test set: cameras, rectangles and textures that training never sees."""
    return _varied(f"scene{index:04d}", index, procedural.HELD_OUT_SEED + index, procedural.held_out, size)


def training(index: int, size: tuple[int, int] = SIZE) -> Scene:
    """Scene `index` of the training set; `size` (H, W) px of its views, with the same field of view along x.

    Raises:
        UsageError: `index` has no five images of `procedural.training`.
    """
    if not 0 <= index < procedural.HELD_OUT_SEED // 5:
        raise UsageError(f"training scenes have numbers in [0, {procedural.HELD_OUT_SEED // 5}), got {index}")
    return _varied(f"train{index:06d}", index, index, procedural.training, size)


def _varied(
    name: str, index: int, seed: int, picture: Callable[[int], tuple[str, int]], size: tuple[int, int]
) -> Scene:
    """A scene whose boards and cameras are moved by `seed`; its textures are five images from 5 * index on."""
    rng = np.random.default_rng([VERSION, seed])
    kinds = [picture(5 * index + k) for k in range(5)]
    made = partial(_textures, tuple(kinds))
    return _scene(name, _columns(_moved(rng)), _cameras(rng), [seed], made, size, [f"{f} {n}" for f, n in kinds])


def _scene(
    name: str,
    rectangles: Array,
    poses: Sequence[Pose],
    entropy: list[int],
    textures: Callable[[], tuple[Array, ...]],
    size: tuple[int, int] = SIZE,
    about: Sequence[str] = (),
) -> Scene:
    camera = _camera(size)
    views = []
    for k, (rotation, translation) in enumerate(poses):
        onto = planes.inverses(rectangles, camera, rotation, translation)
        load = partial(_photograph, textures, onto, size, [VERSION, *entropy, k], name != SYNTH12)
        numbers = np.concatenate([rectangles.ravel(), rotation.ravel(), translation, camera.ravel()])
        made_by = f"scenes {VERSION} {entropy} {k} {size} {[*about]} {procedural.GENERATOR} {_opencv()} "
        digest = hashlib.sha256(made_by.encode() + np.round(numbers, 9).astype("<f8").tobytes()).hexdigest()
        picture = Picture(f"{name}/{k:04d}", load, digest)
        views.append(View(f"{k:04d}.png", picture, camera, rotation, translation, partial(_depth, onto)))
    return Scene(name, tuple(views), tuple(shared_pairs(views, size, SHARED)))


def _opencv() -> str:
    return f"opencv {cv2.__version__.partition('.')[0]}"


def _camera(size: tuple[int, int]) -> Array:
    """K of SIZE, moved to another size by the scale of the width; the optical axis meets the centre."""
    scale = size[1] / SIZE[1]
    focal = scale * K[0, 0]
    return np.array([[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1]])


def _columns(rectangles: Array) -> Array:
    """(P, 3, 3) with the columns u, v, o, from rows o, u, v."""
    return np.asarray(rectangles[:, [1, 2, 0]].swapaxes(1, 2), dtype=np.float64)


def _cameras(rng: np.random.Generator | None = None) -> list[Pose]:
    """Return poses on an arc; `rng` changes its extent, its phases and its target."""
    wide, high, deep, bend, turn = (1.0, 1.0, 1.0, 0.0, 0.0)
    target = np.array(TARGET)
    if rng is not None:
        wide, high, deep = rng.uniform(0.7, 1.15), rng.uniform(0.6, 2.0), rng.uniform(0.6, 2.0)
        bend, turn = rng.uniform(0, 2 * np.pi, 2)
        target += rng.uniform(-0.4, 0.4, 3)
    poses = []
    for i in range(VIEWS):
        a = (i - (VIEWS - 1) / 2) / ((VIEWS - 1) / 2)
        y, z = 0.25 * high * np.cos(2.1 * i + bend), 0.35 * deep * np.cos(1.3 * i + turn)
        poses.append(planes.look_at(np.array([2.6 * wide * a, -0.35 + y, z + 0.5 * a * a]), target))
    return poses


def _moved(rng: np.random.Generator) -> Array:
    """Return RECTANGLES with every board moved, rotated about the vertical and scaled."""
    found = RECTANGLES.copy()
    for board in found[BOARDS]:
        corner, u, v = board
        centre = corner + (u + v) / 2 + rng.uniform(-0.5, 0.5, 3)
        angle, wide, tall = rng.uniform(-0.5, 0.5), rng.uniform(0.7, 1.3), rng.uniform(0.7, 1.2)
        c, s = np.cos(angle), np.sin(angle)
        u, v = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ u * wide, v * tall
        board[:] = centre - (u + v) / 2, u, v
    return found


def _depth(onto: Array, points: Array) -> Array:
    return planes.cast(points, onto)[0]


def _photograph(
    textures: Callable[[], tuple[Array, ...]],
    onto: Array,
    size: tuple[int, int],
    entropy: list[int],
    lit: bool,
) -> Array:
    """Add noise to a view and, if `lit`, its own exposure: uint8 (H, W, 3)."""
    seen, rng = planes.render(textures(), onto, size), np.random.default_rng(entropy)
    noisy = seen + rng.standard_normal((*size, 1), dtype=np.float32) * np.float32(NOISE)
    view = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return photometric.change(view, rng, MILD) if lit else view


@lru_cache(maxsize=4)
def _textures(kinds: tuple[tuple[str, int], ...]) -> tuple[Array, ...]:
    """Draw images of `procedural`, uint8 (TEXTURE, TEXTURE, 3)."""
    return tuple(procedural.draw(family, number, (TEXTURE, TEXTURE)) for family, number in kinds)


@lru_cache(maxsize=8)
def _speckle(index: int) -> Array:
    """A texture of `synth12`: five octaves of smooth noise and 60 filled squares, blurred; uint8 (n, n, 3)."""
    rng = np.random.default_rng([VERSION, index])
    field = np.full((TEXTURE, TEXTURE), 128, np.float32)
    for cells in (4, 8, 16, 32, 64):
        grid = rng.standard_normal((cells, cells), dtype=np.float32) * 14
        field += cv2.resize(grid, (TEXTURE, TEXTURE), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        centre, side, turn = rng.uniform(0, TEXTURE, 2), rng.uniform(6, 40), rng.uniform(0, 90)
        corners = cv2.boxPoints((centre.tolist(), (side, side), float(turn)))
        cv2.fillPoly(field, [np.rint(corners * 16).astype(np.int32)], float(rng.uniform(20, 235)), cv2.LINE_AA, 4)
    grey = np.clip(cv2.GaussianBlur(field, (0, 0), 0.8), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
