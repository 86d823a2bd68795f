"""Image size and type from the first bytes of a file, before decoding.

Pillow is not used: it would add 22 MB to every device that extracts features, and the result must agree with OpenCV's
decoder, for example for a repeated rotation tag.
"""

from __future__ import annotations

import struct

TIFF_WIDTH, TIFF_HEIGHT, TIFF_ORIENTATION = 256, 257, 274  # tags, TIFF 6.0, section 8
TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}  # type of a value -> struct format
TIFF_MOST_TAGS = 0xFFFF  # libtiff reads no larger directory
TIFFS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # first bytes -> byte order; + is BigTIFF


def declared_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) from the header of a PNG, BMP, JPEG, PNM, WebP or TIFF file; None for others, and for damaged headers."""
    try:
        if data.startswith(b"\x89PNG"):
            width, height = struct.unpack(">II", data[16:24])
        elif data.startswith(b"BM"):
            width, height = struct.unpack("<HH", data[18:22]) if _is_os2(data) else struct.unpack("<ii", data[18:26])
        elif data.startswith(b"\xff\xd8"):
            height, width = _jpeg_size(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            height, width = _webp_size(data)
        elif data[:4] in TIFFS:
            tags = _tiff_tags(data)
            height, width = tags[TIFF_HEIGHT] or 0, tags[TIFF_WIDTH] or 0
        else:
            width, height = _pnm(data)[:2]
    except (struct.error, ValueError, KeyError):
        return None
    return abs(height), width


def white(data: bytes) -> int | None:
    """Return the value of white in a PNM file if OpenCV does not scale by it; None for other files.

    OpenCV scales bitmaps, and text of at most 8 bits.
    """
    try:
        most = _pnm(data)[2]
    except (ValueError, IndexError):
        return None
    return most if data[:2] in (b"P5", b"P6") or most > 255 else None


def turned(data: bytes) -> bool:
    """Return whether a decoder may rotate or mirror the first image of a TIFF file; False for other or damaged files.

    A rotation tag that is repeated, or is not one integer, counts as rotation, because decoders treat it differently.
    """
    try:
        return data[:4] in TIFFS and _tiff_tags(data).get(TIFF_ORIENTATION, 1) != 1
    except (struct.error, ValueError):
        return False  # its size is unknown, too


def _tiff_tags(data: bytes) -> dict[int, int | None]:
    """Return the tags of the first image of a TIFF file; None for a tag that is repeated or not one integer.

    Raises:
        struct.error: cut short.
        ValueError: more tags than libtiff reads.
    """
    order, word, count = TIFFS[data[:4]], *(("Q", "Q") if b"+" in data[:4] else ("I", "H"))
    wide = struct.calcsize(word)  # bytes of an offset, and of the field of a value; the first offset begins there
    (start,) = _at(order + word, data, wide)
    (tags,) = _at(order + count, data, start)
    if tags > TIFF_MOST_TAGS:
        raise ValueError(f"{tags} tags in one directory")
    start += struct.calcsize(count)
    step = 4 + 2 * wide
    found: dict[int, int | None] = {}
    for at in range(start, start + tags * step, step):
        tag, kind, number = _at(f"{order}HH{word}", data, at)
        form = order + TIFF_INTEGERS.get(kind, "")
        fits = number == 1 and 0 < struct.calcsize(form) <= wide
        found[tag] = None if tag in found or not fits else _at(form, data, at + 4 + wide)[0]
    return found


def _at(form: str, data: bytes, start: int) -> tuple[int, ...]:
    """Unpack integers from a byte offset, which may be far beyond the end of the data."""
    return struct.unpack(form, data[start : start + struct.calcsize(form)])


def _is_os2(data: bytes) -> bool:
    return data[14:18] == b"\x0c\0\0\0"  # the size of the oldest header of a BMP file


def _pnm(data: bytes) -> list[int]:
    """Read width, height and, except for bitmaps, white of a PNM file; only its type is checked.

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
        ValueError: likewise.
    """
    position = 2
    while True:
        position = data.index(0xFF, position)  # decoders pass over other bytes between segments
        kind, length = struct.unpack(">BH", data[position + 1 : position + 4])
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # start of frame, table B.1 of ITU-T T.81
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return height, width
        if kind == 0xFF:  # padding
            position += 1
        elif kind in (0x00, 0x01) or 0xD0 <= kind <= 0xD8:  # markers without a segment
            position += 2
        else:
            position += 2 + length
