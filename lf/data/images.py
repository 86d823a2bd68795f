"""Image files: finding them, reading them, and one clear line about those that cannot be read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lf.core import MAX_PIXELS, Array, BadInput
from lf.core.console import quiet
from lf.data import Picture
from lf.data.headers import declared_size, turned, white

SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff")
MIN_SIDE = 16  # px; below this no network of ours has a cell to look at

# Homographies are given in stored pixels, so a rotation tag in the metadata must not be obeyed.
DECODE = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION

LOG: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved getLogLevel and setLogLevel out of cv2 itself


def is_image(name: str) -> bool:
    """Whether a file name has one of the SUFFIXES, compared without case."""
    return name.lower().endswith(SUFFIXES)


def decode(data: bytes) -> Array | None:
    """What OpenCV makes of the file, without words of its own or of its libraries on stderr: (H, W, 3) BGR, or None."""
    with unheard(), quiet():  # libpng and libjpeg know nothing of the level of OpenCV's log
        try:
            return cv2.imdecode(np.frombuffer(data, np.uint8), DECODE) if data else None
        except cv2.error:
            return None


@contextmanager
def unheard() -> Iterator[None]:
    """Keep OpenCV's own words off stderr; the level is the process's."""
    level = LOG.getLogLevel()
    LOG.setLogLevel(0)
    try:
        yield
    finally:
        LOG.setLogLevel(level)


def read(path: Path, smallest: int = MIN_SIDE) -> Array:
    """Read an image file: colour, grey or with alpha (dropped), 8 or 16 bits per channel.

    Args:
        path: the file.
        smallest: least width and height, pixels.

    Returns:
        uint8 (H, W, 3) RGB, in stored orientation; other values than of 8 bits are scaled so that white, 65535 or
        what a PNM file says it is, becomes 255, and rounded.

    Raises:
        BadInput: absent, not an image of one of the types of SUFFIXES, whatever its name says, damaged, too large or
            too small, or a TIFF with a rotation tag; the text names the file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); expected an image file") from error
    image = _decoded(path, data)
    if image.dtype not in (np.uint8, np.uint16):
        raise BadInput(f"{path}: holds {image.dtype} values; expected 8 or 16 bits per channel")
    most = white(data) or np.iinfo(image.dtype).max
    if most != 255:
        image = np.round(np.minimum(image, most) * (255 / most)).astype(np.uint8)
    height, width = image.shape[:2]
    if min(height, width) < smallest:
        raise BadInput(f"{path}: {width} x {height} pixels; expected at least {smallest} x {smallest}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decoded(path: Path, data: bytes) -> Array:
    """(H, W, 3) BGR in stored orientation.

    Raises:
        BadInput: see `read`.
    """
    size = declared_size(data)
    if size and size[0] * size[1] > MAX_PIXELS:
        limit, shape = MAX_PIXELS // 1_000_000, f"{size[1]} x {size[0]}"
        raise BadInput(f"{path}: declares {shape} pixels; expected at most {limit} million, make it smaller")
    if turned(data):
        raise BadInput(f"{path}: a TIFF with a rotation tag, which cannot be ignored; save it without, or as PNG")
    image = decode(data) if size else None  # a container that the header reader does not know is not decoded
    if image is None:
        raise BadInput(
            f"{path}: {len(data)} bytes that do not decode (damaged, cut short, or no image); "
            f"expected a whole image file of one of the types {', '.join(SUFFIXES)}"
        )
    if image.shape[:2] != size:
        raise BadInput(f"{path}: declares (H, W) {size} and decodes to {image.shape[:2]}; save it again, as PNG")
    return image


def picture(path: Path, key: str) -> Picture:
    """The image file as a `Picture`: hashed now, decoded when needed.

    Raises:
        BadInput: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); expected an image file") from error
    return Picture(key, partial(read, path), digest)


def list_images(folder: Path, limit: int | None = None) -> list[Path]:
    """All image files below a folder, by suffix, in byte order of their paths; linked folders are followed.

    Args:
        folder: searched recursively, hidden files and folders left out.
        limit: keep the first so many.

    Raises:
        BadInput: no such folder, no image in it, or a folder in it that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise BadInput(f"{error.filename}: cannot be read ({error.strerror}); expected a folder of images") from error

    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; expected a folder of images")
    found, seen = [], set()
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(where))
        folders[:] = [f for f in folders if f[0] != "." and os.path.realpath(Path(where, f)) not in seen]  # no circles
        found += [Path(where, n) for n in names if n[0] != "." and is_image(n)]
    if not found:
        raise BadInput(f"{folder}: holds no image; expected files with one of {', '.join(SUFFIXES)}")
    return sorted(found, key=lambda path: os.fsencode(path.as_posix()))[:limit]
