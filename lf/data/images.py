"""Find and read image files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lf.core import MAX_PIXELS, Array, BadInput, files
from lf.core.console import quiet
from lf.data import Picture
from lf.data.headers import declared_size, turned, white

SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff")
MIN_SIDE = 16  # px, smallest side; smaller images have no complete cell

PIXELS = "expected a numpy array of uint8, or of floats from 0 to 1, (H, W) grey or (H, W, 3) RGB"
ROUNDING = 1e-5  # largest excess beyond [0, 1] from resizing and grey conversion

# Homographies are given in stored pixels, so rotation tags in the metadata must be ignored.
DECODE = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION

LOG: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved getLogLevel and setLogLevel out of cv2 itself


def is_image(name: str) -> bool:
    """Return whether a file name has one of the SUFFIXES, ignoring case."""
    return name.lower().endswith(SUFFIXES)


def decode(data: bytes) -> Array | None:
    """Decode a file with OpenCV, quietly: (H, W, 3) BGR, or None."""
    with unheard(), quiet():  # libpng and libjpeg ignore OpenCV's log level
        try:
            return cv2.imdecode(np.frombuffer(data, np.uint8), DECODE) if data else None
        except cv2.error:
            return None


@contextmanager
def unheard() -> Iterator[None]:
    """Suppress OpenCV's log, for the whole process."""
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
        uint8 (H, W, 3) RGB, in stored orientation. Values of more than 8 bits are scaled and rounded, so that white
        (65535, or the value in a PNM file) becomes 255.

    Raises:
        BadInput: missing, not of one of the types of SUFFIXES by content, damaged, too large or too small, or a TIFF
            with a rotation tag; the text names the file.
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
    image = decode(data) if size else None  # unknown containers are not decoded
    if image is None:
        raise BadInput(
            f"{path}: {len(data)} bytes that do not decode (damaged, cut short, or no image); "
            f"expected a whole image file of one of the types {', '.join(SUFFIXES)}"
        )
    if image.shape[:2] != size:
        raise BadInput(f"{path}: declares (H, W) {size} and decodes to {image.shape[:2]}; save it again, as PNG")
    return image


def check(image: Any) -> Array:
    """Check the pixels of an image; all images to extract from pass here.

    Args:
        image: a numpy array, (H, W) grey or (H, W, 3) RGB, in any order of memory; uint8, or floats from 0 to 1.

    Returns:
        The same pixels: uint8, or float32.

    Raises:
        BadInput: another kind of value. The text says what it is, what was expected and what to type.
    """
    if not isinstance(image, np.ndarray):
        name = f"{type(image).__module__}.{type(image).__qualname__}"
        raise BadInput(f"an image of type {name}; {PIXELS}; convert it, such as with numpy.asarray(image)")
    if help_ := _misshapen(image.shape) or _mistyped(image.dtype):
        raise BadInput(f"an image of {image.dtype} and shape {image.shape}; {PIXELS}; {help_}")
    if image.dtype == np.uint8:
        return np.asarray(image)
    with np.errstate(invalid="ignore"):
        low, high = float(image.min()), float(image.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadInput(f"an image of {image.dtype} holds a value that is not finite; {PIXELS}; replace it")
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise BadInput(
            f"an image of {image.dtype} with values from {low:.6g} to {high:.6g}; {PIXELS}; "
            "where 255 is white type: image / 255"
        )
    return np.asarray(image, np.float32)


def _misshapen(shape: tuple[int, ...]) -> str:
    """Return advice for a shape that is neither (H, W) nor (H, W, 3), or has no pixel; otherwise ""."""
    if 0 in shape:
        return "give one with pixels"
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
        return ""
    if len(shape) == 4:
        return "pass the images of a batch one by one"
    if len(shape) != 3:
        return "reshape it"
    planes_first = {1: "type: image[0]", 3: "type: image.transpose(1, 2, 0)"}
    if shape[0] in planes_first and shape[2] > 4:
        return planes_first[shape[0]]
    return {1: "type: image[..., 0]", 4: "type: image[..., :3]"}.get(shape[2], "give one channel or three")


def _mistyped(dtype: np.dtype[Any]) -> str:
    """Return advice for values that are neither uint8 nor floats; otherwise ""."""
    if dtype == np.uint8 or dtype.kind == "f":
        return ""
    if dtype.kind == "b":
        return "type: image.astype(numpy.uint8) * 255"
    if dtype == np.uint16:
        return "where 65535 is white type: (image / 257).round().astype(numpy.uint8)"
    return "where 255 is white type: image.astype(numpy.uint8)"


def picture(path: Path, key: str) -> Picture:
    """Return the image file as a `Picture`: hashed now, decoded when needed.

    Raises:
        BadInput: the file cannot be opened.
    """
    return Picture(key, partial(read, path), files.sha256(path, "an image file"), path=path)


def list_images(folder: Path, limit: int | None = None) -> list[Path]:
    """List all image files below a folder, by suffix, in byte order of their paths; linked folders are followed.

    Args:
        folder: searched recursively, hidden files and folders left out.
        limit: number of first files to keep.

    Raises:
        BadInput: no such folder, no image in it, or a folder in it cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise BadInput(f"{error.filename}: cannot be read ({error.strerror}); expected a folder of images") from error

    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; expected a folder of images")
    found, seen = [], set()
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(where))
        folders[:] = [f for f in folders if f[0] != "." and os.path.realpath(Path(where, f)) not in seen]  # no cycles
        found += [Path(where, n) for n in names if n[0] != "." and is_image(n)]
    if not found:
        raise BadInput(f"{folder}: holds no image; expected files with one of {', '.join(SUFFIXES)}")
    return sorted(found, key=lambda path: os.fsencode(path.as_posix()))[:limit]
