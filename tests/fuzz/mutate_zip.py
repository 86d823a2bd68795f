"""Mutators of zip archives with right checksums: members, npy headers and pickles inside; and of bare pickles."""

from __future__ import annotations

import io
import struct
import zipfile
from random import Random

import numpy as np

from .mutate_bytes import BYTES, Mutator

Member = tuple[zipfile.ZipInfo, bytes]
SHAPES = (
    "(1, 1 << 40)",
    "(-1,)",
    "(2, 0)",
    "()",
    "(1000000000000, 4)",
    "(3.0, 2)",
    "('a',)",
    "(1, 2, 3, 4, 5)",
    "None",
    "(True, 2)",
)
TYPES = (
    "O",
    "<U1000000",
    "|V8",
    "<M8[ns]",
    "<c16",
    "<f2",
    ">f8",
    "|S5",
    "<f16",
    "<u8",
    "|b1",
    "[('a','<f4')]",
    "<f0",
    "<U0",
    "x",
)
BOMB = bytes(80 << 20)
# opcodes that would run code: os.system by name, by stack, through a reduce, through an object's state, by an extension
CODE = (
    b"cos\nsystem\n(Vtouch pwned\ntR0",
    b"\x8c\x02os\x8c\x06system\x93\x8c\x0btouch pwned\x85R0",
    b"cbuiltins\nexec\n(Vopen('pwned','w')\ntR0",
    b"(Vtouch pwned\nios\nsystem\n0",
    b"c__main__\nx\n0",
    b"cnumpy\nload\n(Vx\ntR0",
    b"cbuiltins\ngetattr\n(cos\nsystem\nV__call__\ntR0",
    b"\x82\x010",
    b"ctorch\nload\n)R0",
    b"cbuiltins\nbytearray\n(I9999999999\ntR0",
    b"cbuiltins\nrange\n(I99999999999\ntR0",
)


def member(data: bytes, rng: Random) -> bytes:
    """Change the bytes of a member; its checksum is right again."""
    members = _members(data)
    at = rng.randrange(len(members))
    members[at] = members[at][0], rng.choice(BYTES)(members[at][1] or b"\0", rng)
    return _packed(members, rng)


def npy(data: bytes, rng: Random) -> bytes:
    """Give an array in the archive another shape, type or content."""
    members = _members(data)
    at = rng.choice([index for index, (info, _) in enumerate(members) if info.filename.endswith(".npy")] or [0])
    info, raw = members[at]
    kind = rng.choice(("shape", "type", "values", "other", "text"))
    if kind == "other":
        arrays = (
            np.zeros(0),
            np.zeros((2, 3, 4)),
            np.array(5),
            np.array(["x"]),
            np.full((4, 2), np.nan),
            np.eye(3, dtype="u1"),
        )
        stream = io.BytesIO()
        np.save(stream, rng.choice(arrays), allow_pickle=False)
        raw = stream.getvalue()
    elif kind == "values":
        raw = raw[:128] + b"".join(struct.pack("<f", rng.choice((np.nan, np.inf, 3e38, -1, 0))) for _ in raw[128::4])
    else:
        dtype, shape = (
            rng.choice(TYPES) if kind == "type" else "<f4",
            rng.choice(SHAPES) if kind == "shape" else "(4, 2)",
        )
        named = dtype if dtype[0] == "[" else repr(dtype)
        order = rng.choice(("False", "True", "1"))
        text = f"{{'descr': {named}, 'fortran_order': {order}, 'shape': {shape}, }}"
        text = (
            rng.choice((text, "__import__('os').system('touch pwned')", "(" * 9000, text[:-3]))
            if kind == "text"
            else text
        )
        raw = (
            b"\x93NUMPY"
            + rng.choice((b"\1\0", b"\2\0", b"\3\0"))
            + struct.pack("<H", len(text) + 1)
            + text.encode()
            + b"\n"
            + raw[128:]
        )
    members[at] = info, raw
    return _packed(members, rng)


def entries(data: bytes, rng: Random) -> bytes:
    """Delete, repeat, rename, link, encrypt or blow up an entry."""
    members = _members(data)
    at = rng.randrange(len(members))
    info, raw = members[at]
    kind = rng.choice(("delete", "repeat", "rename", "link", "bomb", "empty", "many", "flag"))
    if kind == "delete" and len(members) > 1:
        del members[at]
    elif kind == "repeat":
        members.append((info, raw))
    elif kind == "rename":
        info.filename = rng.choice(
            ("../out", "/etc/x", "a\\..\\b", "x" * 300, "", "\u202e.npy", info.filename + "/", "C:/x")
        )
    elif kind == "link":
        info.external_attr = 0o120777 << 16
    elif kind == "bomb":
        info.compress_type, raw = zipfile.ZIP_DEFLATED, BOMB
    elif kind == "empty":
        raw = b""
    elif kind == "many":
        members += [(zipfile.ZipInfo(f"n{index}"), b"") for index in range(3000)]
    if kind in ("bomb", "empty"):
        members[at] = info, raw
    packed = _packed(members, rng)
    if kind == "flag":  # encrypted, or an unknown way of compression, as the directory says
        where = packed.rfind(b"PK\1\2")
        at = where + rng.choice((8, 10, 20, 24, 28, 42))
        packed = packed[:at] + struct.pack("<H", rng.choice((1, 9, 12, 99, 0xFFFF))) + packed[at + 2 :]
    return packed


def pickle_in_zip(data: bytes, rng: Random) -> bytes:
    """Change the pickle of a checkpoint."""
    members = _members(data)
    at = next((index for index, (info, _) in enumerate(members) if info.filename.endswith("data.pkl")), 0)
    members[at] = members[at][0], pickle(members[at][1] or b"\0", rng)
    return _packed(members, rng)


def pickle(data: bytes, rng: Random) -> bytes:
    """Put opcodes that would run code, or odd ones, into a pickle; or change numbers and names in it."""
    kind = rng.choice(("code", "code", "start", "name", "bytes", "deep"))
    if kind == "code":
        return data[:2] + rng.choice(CODE) + data[2:]
    if kind == "start":
        at = rng.randrange(len(data))
        return data[:at] + rng.choice(CODE) + data[at:]
    if kind == "deep":
        return (
            data[:2]
            + rng.choice((b"(" * 100000, b"]" * 50000 + b"a" * 49999, b"(" * 50 + b"t" * 50, b"2" * 1000))
            + data[2:]
        )
    if kind == "name":
        names = (b"FloatStorage", b"_rebuild_tensor_v2", b"torch._utils", b"collections", b"OrderedDict")
        swaps = (b"LongStorage", b"_rebuild_parameter", b"torch._tensor", b"builtins", b"eval", b"HalfStorage", b"x")
        return data.replace(rng.choice(names), rng.choice(swaps))
    return rng.choice(BYTES)(data, rng)


def _members(data: bytes) -> list[Member]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def _packed(members: list[Member], rng: Random) -> bytes:
    stream, deflate = io.BytesIO(), rng.random() < 0.3
    with zipfile.ZipFile(stream, "w") as archive:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name that is there twice
            for info, raw in members:
                fresh = zipfile.ZipInfo(info.filename or "x", info.date_time)
                fresh.external_attr, fresh.filename = info.external_attr, info.filename
                fresh.compress_type = zipfile.ZIP_DEFLATED if deflate or len(raw) == len(BOMB) else info.compress_type
                archive.writestr(fresh, raw)
    return stream.getvalue()


ZIP: tuple[Mutator, ...] = (member, entries)
NPZ: tuple[Mutator, ...] = (member, entries, npy, npy)
TORCH: tuple[Mutator, ...] = (member, entries, pickle_in_zip, pickle_in_zip)
PICKLE: tuple[Mutator, ...] = (pickle,)
