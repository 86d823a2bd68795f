"""Mutators of PNG files with right checksums: sizes, colours, palettes, chunks, and what is compressed in them."""

from __future__ import annotations

import struct
import zlib
from random import Random

from .mutate_bytes import BYTES, NUMBERS, Mutator, flip

Chunk = tuple[bytes, bytes]


def chunks(data: bytes, rng: Random) -> bytes:
    """Change, delete, repeat or add a chunk."""
    found = _parsed(data)
    if not found:
        return flip(data, rng)
    at = rng.randrange(len(found))
    kind, body = found[at]
    what = rng.choice(("header", "header", "body", "delete", "repeat", "add", "pixels", "order"))
    if what == "header":
        values = [*struct.unpack(">IIBBBBB", found[0][1][:13])]
        index = rng.randrange(7)
        values[index] = rng.choice(NUMBERS) % (1 << 32 if index < 2 else 256)
        found[0] = found[0][0], struct.pack(">IIBBBBB", *values)
    elif what == "body":
        found[at] = kind, rng.choice(BYTES)(body or b"\0", rng)
    elif what == "delete":
        del found[at]
    elif what == "repeat":
        found.insert(at, found[at])
    elif what == "add":
        names = (
            b"PLTE",
            b"tRNS",
            b"gAMA",
            b"iCCP",
            b"eXIf",
            b"acTL",
            b"fcTL",
            b"zTXt",
            b"sBIT",
            b"hIST",
            b"\xff\xff\xff\xff",
        )
        found.insert(at, (rng.choice(names), rng.randbytes(rng.choice((0, 1, 3, 8, 26, 768, 2000)))))
    elif what == "pixels":
        size = rng.choice((0, 1, 100, 10 << 20))
        found[at] = b"IDAT", zlib.compress(bytes(size) if rng.random() < 0.5 else rng.randbytes(min(size, 1000)))
    else:
        rng.shuffle(found)
    return data[:8] + b"".join(_packed(*chunk) for chunk in found)


def _parsed(data: bytes) -> list[Chunk]:
    found, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _packed(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


PNG: tuple[Mutator, ...] = (chunks, chunks, chunks)
