"""Mutators that know nothing of the format: (bytes, random numbers) -> bytes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Mutator = Callable[[bytes, Random], bytes]
NUMBERS = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 63) - 1,
    (1 << 64) - 1,
)


def flip(data: bytes, rng: Random) -> bytes:
    """Flip up to eight bits, more often near the start, where headers are."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        out[_place(out, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def number(data: bytes, rng: Random) -> bytes:
    """Write an interesting number of 1 to 8 bytes somewhere, in either order."""
    width = rng.choice((1, 2, 4, 8))
    raw = (rng.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
    at = _place(data, rng)
    return data[:at] + raw + data[at + width :]


def cut(data: bytes, rng: Random) -> bytes:
    """Cut the file short, or its start off."""
    at = rng.randrange(len(data))
    return data[:at] if rng.random() < 0.8 else data[at:]


def move(data: bytes, rng: Random) -> bytes:
    """Delete, repeat or exchange a stretch."""
    first, last = sorted((_place(data, rng), min(len(data), _place(data, rng) + rng.randint(1, 64))))
    part, to = data[first:last], rng.randrange(len(data))
    kind = rng.choice(("delete", "repeat", "copy"))
    if kind == "delete":
        return data[:first] + data[last:]
    if kind == "repeat":
        return data[:last] + part * rng.randint(1, 50) + data[last:]
    return data[:to] + part + data[to + len(part) :]


def fill(data: bytes, rng: Random) -> bytes:
    """Overwrite a stretch with one byte or with noise."""
    at, length = _place(data, rng), rng.randint(1, 200)
    raw = rng.choice((b"\0", b"\xff", b" ", b"A")) * length if rng.random() < 0.6 else rng.randbytes(length)
    return data[:at] + raw + data[at + length :]


def extend(data: bytes, rng: Random) -> bytes:
    """Add bytes at the end."""
    return data + (rng.randbytes(rng.randint(1, 300)) if rng.random() < 0.5 else data[: rng.randint(1, 300)])


def foreign(data: bytes, rng: Random) -> bytes:
    """The start of another format, with the rest of this file or without."""
    starts = (
        b"PK\3\4",
        b"\x80\2",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"BM",
        b"II*\0",
        b"RIFF\0\0\0\0WEBP",
        b"P6\n9 9\n255\n",
    )
    start = rng.choice(
        (*starts, b"SQLite format 3\0", b"\x89HDF\r\n\x1a\n", b"\x1c\0\0\0TFL3", b"{", b"", b"\xef\xbb\xbf")
    )
    return start + (data[len(start) :] if rng.random() < 0.7 else b"")


BYTES: tuple[Mutator, ...] = (flip, number, number, cut, move, fill, extend, foreign)


def _place(data: bytes | bytearray, rng: Random) -> int:
    """A position, half of them in the first 200 bytes."""
    return rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data))
