"""Masks in PNG files: 8-bit ids, greyscale or with a palette, and COCO's 24-bit segment ids.

OpenCV turns a palette into its colours, so a palette file is read as the grey file that holds the same numbers. Files
are foreign: sizes are checked before anything is decoded.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from lf.core import MAX_PIXELS, Array, BadInput, files
from lf.core.console import quiet
from lf.data.images import unheard

MAX_BYTES = 64 << 20
SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3  # colour types of PNG
WHAT = "a mask: a PNG of 8-bit ids, grey or with a palette"


def read_ids(path: Path) -> Array:
    """Read the stored numbers (H, W) uint8 of a PNG of at most 8 bits, grey or with a palette.

    Raises:
        BadInput: not such a file, damaged, or too large.
    """
    data, depth, colour = _header(path, WHAT)
    if colour not in (GREY, PALETTE) or depth > 8:
        kind = {GREY: "grey", RGB: "RGB", PALETTE: "palette"}.get(colour, "with alpha")
        raise BadInput(f"{path}: {depth} bits per channel, {kind}; expected {WHAT}")
    ids = _decoded(path, _grey(data) if colour == PALETTE else data, cv2.IMREAD_GRAYSCALE, WHAT)
    return ids // (255 // ((1 << depth) - 1)) if depth < 8 else ids  # decoders scale fewer bits to 255


def read_segments(path: Path) -> Array:
    """Read segment ids (H, W) int32 of COCO panoptic: R + 256 G + 65536 B.

    Raises:
        BadInput: not such a file, damaged, or too large.
    """
    what = "a panoptic PNG of COCO: 8-bit RGB"
    data, depth, colour = _header(path, what)
    if (depth, colour) != (8, RGB):
        raise BadInput(f"{path}: {depth} bits per channel, PNG colour type {colour}; expected {what}")
    blue, green, red = cv2.split(_decoded(path, data, cv2.IMREAD_COLOR, what).astype(np.int32))
    return np.asarray(red + 256 * green + 65536 * blue)


def _header(path: Path, what: str) -> tuple[bytes, int, int]:
    """Return the bytes of the file, its bits per channel and its colour type.

    Raises:
        BadInput: not a PNG, or a size that is not allowed.
    """
    data = files.read_bytes(path, what, MAX_BYTES)
    if data[:8] != SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        raise BadInput(f"{path}: no PNG; expected {what}")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if not 0 < width * height <= MAX_PIXELS:
        raise BadInput(f"{path}: declares {width} x {height} pixels; expected 1 to {MAX_PIXELS // 1_000_000} million")
    return data, depth, colour


def _decoded(path: Path, data: bytes, how: int, what: str) -> Array:
    width, height = struct.unpack(">II", data[16:24])
    with unheard(), quiet():
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), how | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            image = None
    if image is None or image.shape[:2] != (height, width):
        raise BadInput(f"{path}: does not decode (damaged or cut short); expected {what}")
    return image


def _grey(data: bytes) -> bytes:
    """Convert a palette PNG to grey with the same numbers: change the colour type and remove the palette."""
    kept, at = [SIGNATURE], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            body = body[:9] + bytes([GREY]) + body[10:]
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(_chunk(kind, body))
        at += length + 12
    return b"".join(kept)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_palette(path: Path, mask: Array, palette: Array) -> Path:
    """Write a mask (H, W) uint8 as a PNG with a palette (N, 3) RGB, atomically, for `read_ids`."""
    height, width = mask.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = mask
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, PALETTE, 0, 0, 0)),
        (b"PLTE", np.ascontiguousarray(palette, np.uint8).tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 6)),
        (b"IEND", b""),
    )
    return files.write_bytes(path, SIGNATURE + b"".join(_chunk(*each) for each in chunks))


def write_ids(path: Path, mask: Array) -> Path:
    """Write a mask (H, W) uint8 as a grey PNG, atomically."""
    _, data = cv2.imencode(".png", mask)
    return files.write_bytes(path, data.tobytes())
