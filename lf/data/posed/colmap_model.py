"""Read COLMAP models, text or binary: cameras and poses of registered images.

COLMAP has the centre of the first pixel at (0.5, 0.5); here it is (0, 0), so half a pixel is taken off cx and cy.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput, files
from lf.data.cameras import checked_quaternion
from lf.data.colmap_cameras import CAMERAS, HALF
from lf.data.posed import View
from lf.data.posed.rows import numbers, rows

PLACES = (".", "sparse", "sparse/0")
FOCAL = {  # indices of fx, fy, cx, cy among the parameters of models without lens distortion, or with a known one
    "SIMPLE_PINHOLE": (0, 0, 1, 2),
    "PINHOLE": (0, 1, 2, 3),
    "SIMPLE_RADIAL": (0, 0, 1, 2),
    "RADIAL": (0, 0, 1, 2),
    "OPENCV": (0, 1, 2, 3),
}
# name -> its number in binary files, indices of fx, fy, cx, cy, and how many numbers it has
MODELS = {name: (CAMERAS[name][0], index, CAMERAS[name][1]) for name, index in FOCAL.items()}
Camera = tuple[str, Array]  # name of the model, its parameters


def place(folder: Path) -> Path | None:
    """Find the folder of the COLMAP model; None if there is none."""
    for where in (folder / name for name in PLACES):
        if any(
            (where / f"images.{kind}").is_file() and (where / f"cameras.{kind}").is_file() for kind in ("bin", "txt")
        ):
            return where
    return None


def views(folder: Path) -> list[View]:
    """Read the registered images, in byte order of their names.

    Raises:
        BadInput: a damaged model, a camera with lens distortion, or an image that is missing.
    """
    from lf.data.posed.folders import view

    model = place(folder)
    if model is None:
        raise BadInput(f"{folder}: holds no COLMAP model; expected cameras and images as .txt or .bin")
    binary = (model / "images.bin").is_file() and (model / "cameras.bin").is_file()
    kind = "bin" if binary else "txt"
    cameras_in, images_in = model / f"cameras.{kind}", model / f"images.{kind}"
    cameras = (_cameras_bin if binary else _cameras_txt)(cameras_in)
    found = []
    for name, pose, camera in sorted(
        (_images_bin if binary else _images_txt)(images_in), key=lambda f: os.fsencode(f[0])
    ):
        where = f"{images_in}: {name}"
        if camera not in cameras:
            raise BadInput(f"{where}: has no intrinsics, camera {camera} is not in {cameras_in.name}")
        K = _matrix(f"{cameras_in}: camera {camera}", *cameras[camera])
        found.append(view(folder, where, name, K, checked_quaternion(pose[:4], where), pose[4:]))
    return found


def _matrix(where: str, model: str, values: Array) -> Array:
    """Return K (3, 3) with pixel centres at integers."""
    (_, index, _) = MODELS[model]
    if values[max(index) + 1 :].any():
        raise BadInput(f"{where}: {model} with lens distortion; expected none, undistort the images with COLMAP")
    fx, fy, cx, cy = values[[*index]]
    return np.array([[fx, 0, cx - HALF], [0, fy, cy - HALF], [0, 0, 1]])


def _known(where: str, model: str) -> int:
    """Return the number of parameters of a camera model."""
    if model not in MODELS:
        raise BadInput(f"{where}: camera model {model}; expected one of {', '.join(MODELS)} without lens distortion")
    return MODELS[model][2]


def _cameras_txt(path: Path) -> dict[int, Camera]:
    found = {}
    for where, words in rows(path, "lines of camera id, model, width, height and numbers"):
        if len(words) < 4 or not words[0].isdecimal():
            raise BadInput(f"{where}: no camera; expected id, model, width, height and numbers")
        count = _known(where, words[1])
        found[int(words[0])] = words[1], numbers(where, words[4:], count, f"the parameters of {words[1]}")
    return found


def _images_txt(path: Path) -> Iterator[tuple[str, Array, int]]:
    """Two lines per image; the second, of its points, may be empty."""
    what = "qw qx qy qz tx ty tz"
    lines = files.read_bytes(path, "the images of a COLMAP model").decode("utf-8", "replace").splitlines()
    kept = [(n, line) for n, line in enumerate(lines, 1) if not line.startswith("#")]
    for number, line in kept[::2]:
        words = line.split(maxsplit=9)
        if not words:
            continue
        if len(words) != 10 or not words[8].isdecimal():
            raise BadInput(f"{path}:{number}: no image; expected id, {what}, camera id, name, then a line of points")
        yield words[9].strip(), numbers(f"{path}:{number}", words[1:8], 7, what), int(words[8])


def _cameras_bin(path: Path) -> dict[int, Camera]:
    names = {number: name for name, (number, _, _) in MODELS.items()}
    data, at, found = files.read_bytes(path, "the cameras of a COLMAP model"), 8, {}
    for _ in range(_unpack(path, data, 0, "<Q")[0]):
        number, model, _, _ = _unpack(path, data, at, "<iiQQ")
        name = names.get(model, f"number {model}")
        count = _known(f"{path}: camera {number}", name)
        found[number] = name, np.array(_unpack(path, data, at + 24, f"<{count}d"))
        at += 24 + 8 * count
    return found


def _images_bin(path: Path) -> Iterator[tuple[str, Array, int]]:
    data, at = files.read_bytes(path, "the images of a COLMAP model"), 8
    for _ in range(_unpack(path, data, 0, "<Q")[0]):
        values = _unpack(path, data, at, "<i7di")
        end = data.find(b"\0", at + 64)
        if end < 0:
            raise BadInput(f"{path}: cut short at byte {at}; expected the images of a COLMAP model")
        name = data[at + 64 : end]
        if any(byte < 32 for byte in name):  # a line break in a name would break an error into several lines
            raise BadInput(f"{path}: an image has the name {name[:40]!r}; expected a path without control characters")
        yield os.fsdecode(name), np.array(values[1:8]), values[8]
        at = end + 9 + 24 * _unpack(path, data, end + 1, "<Q")[0]


def _unpack(path: Path, data: bytes, at: int, form: str) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, at)
    except (struct.error, OverflowError) as error:
        raise BadInput(f"{path}: cut short at byte {at} of {len(data)}; expected a COLMAP model") from error
