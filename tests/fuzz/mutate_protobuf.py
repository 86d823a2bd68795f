"""Mutators of protobuf messages: a field changes, goes, comes twice; all lengths around it are right again."""

from __future__ import annotations

from random import Random
from typing import Any

from lf.formats.protobuf import encode_varint, fields, varint

from .mutate_bytes import BYTES, NUMBERS, Mutator

Field = tuple[int, int, Any]  # number, wire type, value: int, bytes, or a list of fields


def message(data: bytes, rng: Random) -> bytes:
    """Change one or two fields of a message."""
    root = _parsed(data)
    for _ in range(rng.randint(1, 2)):
        holders = [*_holders(root)]
        _change(rng.choice(holders), rng)
    return _encoded(root)


def _parsed(data: bytes, depth: int = 0) -> list[Field]:
    found: list[Field] = []
    for number, start, body, end in fields(data):
        wire = varint(data, start)[0] & 7
        value: Any = varint(data, body)[0] if wire == 0 else data[body:end]
        if wire == 2 and 1 < end - body < 1 << 16 and depth < 8:
            value = _tried(data[body:end], depth) or value
        found.append((number, wire, value))
    return found


def _tried(data: bytes, depth: int) -> list[Field] | None:
    """The fields of what may be a message and may be a text."""
    try:
        inner = _parsed(data, depth + 1)
    except (ValueError, IndexError):
        return None
    return inner if all(0 < number < 64 for number, _, _ in inner) else None


def _holders(found: list[Field]) -> Any:
    """The lists of fields that are not empty, deep ones included."""
    if found:
        yield found
    for _, _, value in found:
        if isinstance(value, list):
            yield from _holders(value)


def _change(holder: list[Field], rng: Random) -> None:
    at = rng.randrange(len(holder))
    number, wire, value = holder[at]
    kind = rng.choice(("value", "value", "value", "delete", "repeat", "number", "order"))
    if kind == "delete":
        del holder[at]
    elif kind == "repeat":
        holder[at:at] = [holder[at]] * rng.randint(1, 30)
    elif kind == "number":
        holder[at] = rng.randint(1, 30), wire, value
    elif kind == "order":
        rng.shuffle(holder)
    elif wire == 0:
        holder[at] = number, 0, rng.choice(NUMBERS)
    elif isinstance(value, bytes):
        texts = (
            b"",
            b"\xff",
            b"\0",
            b"x" * 300,
            b"Loop",
            b"If",
            b"Conv",
            b"NonZero",
            b"ai.onnx.ml",
            b"../../x",
            b"image",
        )
        new = rng.choice(texts) if rng.random() < 0.5 else rng.choice(BYTES)(value or b"\0", rng)
        holder[at] = number, wire, new if wire == 2 else (new + bytes(8))[: len(value)]
    else:
        holder[at] = number, 2, rng.choice((b"", b"x", _encoded(value)[:-1], [*value, *value]))


def _encoded(found: list[Field]) -> bytes:
    out = []
    for number, wire, value in found:
        raw = _encoded(value) if isinstance(value, list) else value
        tag = encode_varint(number << 3 | wire)
        out.append(tag + (encode_varint(raw) if wire == 0 else encode_varint(len(raw)) + raw if wire == 2 else raw))
    return b"".join(out)


PROTOBUF: tuple[Mutator, ...] = (message, message, message)
