"""The wire format of protobuf messages, as far as ONNX files need it.

It uses only the standard library: devices that only run models read cards and 4-bit weights without the package onnx.
"""

from __future__ import annotations

from collections.abc import Iterator


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read the number that begins at byte `at`; also return the offset after it.

    Raises:
        ValueError: more than 64 bits.
        IndexError: cut short.
    """
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint of more than 64 bits")


def fields(data: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, start of the field, start of its payload, end) of one message.

    Raises:
        ValueError: not a message.
        IndexError: cut short.
    """
    at = 0
    while at < len(data):
        start = at
        tag, at = varint(data, at)
        wire = tag & 7
        if wire == 0:
            body, (_, at) = at, varint(data, at)
        elif wire == 2:
            length, body = varint(data, at)
            at = body + length
        elif wire in (1, 5):
            body, at = at, at + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(data):
            raise ValueError("a field runs past the end")
        yield tag >> 3, start, body, at


def message(number: int, payload: bytes) -> bytes:
    """Encode a field with a message, a text or bytes."""
    return encode_varint(number << 3 | 2) + encode_varint(len(payload)) + payload


def encode_varint(value: int) -> bytes:
    """Encode a number of at least 0 for `varint`."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
