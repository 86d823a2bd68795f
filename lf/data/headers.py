"""What the first bytes of an image file declare, before anything is decoded."""

from __future__ import annotations

import struct

TIFF_WIDTH, TIFF_HEIGHT, TIFF_ORIENTATION = 256, 257, 274  # tags, TIFF 6.0, section 8
TIFF_SHORT, TIFF_LONG = 3, 4  # types of a tag's value


def declared_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) from the header of a PNG, BMP, JPEG, PNM, WebP or TIFF file; None for others, and for damaged headers."""
    try:
        if data.startswith(b"\x89PNG"):
            width, height = struct.unpack(">II", data[16:24])
        elif data.startswith(b"BM"):
            width, height = struct.unpack("<ii", data[18:26])
        elif data.startswith(b"\xff\xd8"):
            height, width = _jpeg_size(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            height, width = _webp_size(data)
        elif tags := tiff_tags(data):
            height, width = tags[TIFF_HEIGHT], tags[TIFF_WIDTH]
        else:
            width, height = _pnm(data)[:2]
    except (struct.error, ValueError, KeyError):
        return None
    return abs(height), width


def white(data: bytes) -> int | None:
    """The value of white that a PNM file declares, where OpenCV does not scale by it; None for other files.

    It scales bitmaps, and text of at most 8 bits.
    """
    try:
        most = _pnm(data)[2]
    except (ValueError, IndexError):
        return None
    return most if data[:2] in (b"P5", b"P6") or most > 255 else None


def tiff_tags(data: bytes) -> dict[int, int]:
    """Tag -> value, of the whole numbers of the first picture of a TIFF file; empty for other and for damaged files."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return {}
    found = {}
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", data, at)
            if number == 1 and kind in (TIFF_SHORT, TIFF_LONG):
                (found[tag],) = struct.unpack_from(order + ("H" if kind == TIFF_SHORT else "I"), data, at + 8)
    except struct.error:
        return {}
    return found


def _pnm(data: bytes) -> list[int]:
    """Width, height and white of a PNM file, of bitmaps without white; its type is checked, what follows is not.

    Raises:
        ValueError: another file, or a damaged header.
    """
    if data[:2] not in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
        raise ValueError("not a PNM file")
    lines = [line.partition(b"#")[0] for line in data[:4096].splitlines()]
    wanted = 2 if data[:2] in (b"P1", b"P4") else 3
    found = [int(token) for token in b" ".join(lines).split()[1 : wanted + 1]]
    if len(found) < wanted:
        raise ValueError("a PNM header that is cut short")
    return found


def _webp_size(data: bytes) -> tuple[int, int]:
    """(H, W) by the first chunk of a WebP container (RFC 9649): lossy, lossless or extended.

    Raises:
        struct.error: cut short.
        ValueError: another kind of chunk.
    """
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X":
        low, high = struct.unpack_from("<IH", data, 24)
        return (low >> 24 | high << 8) + 1, (low & 0xFFFFFF) + 1
    raise ValueError("not a chunk that WebP begins with")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(H, W) from the frame header, skipping the segments before it (and the thumbnails in them).

    Raises:
        struct.error: there is none.
        ValueError: what should be a segment is not.
    """
    position = 2
    while True:
        marker, kind, length = struct.unpack(">BBH", data[position : position + 4])
        if marker != 0xFF:
            raise ValueError("not a JPEG segment")
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # start of frame, table B.1 of ITU-T T.81
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return height, width
        position += 1 if kind == 0xFF else 2 + length  # a run of 0xFF is padding
