"""Refuse malformed ONNX files that make an engine crash, hang or allocate all memory.

ONNX Runtime finds such faults itself; OpenVINO and OpenCV follow the graph without looking. Needs no package onnx.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lf.core import BadInput, files
from lf.formats.protobuf import fields, varint

OPSETS = 1000  # largest plausible version of an operator set
SIDE = 1 << 16  # longest side of an input
CONVOLUTIONS = ("Conv", "ConvTranspose", "FusedConv")
# fields of the messages of onnx.proto
OPSET, GRAPH = 8, 7
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12
READS, WRITES, NAME, KIND, ATTRIBUTE = 1, 2, 3, 4, 5
TENSOR_NAME = 8
INNER = (6, 11)  # graphs of an attribute
DIMS, TYPE, RAW = 1, 2, 9  # of a tensor
BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}  # type -> of a value

Message = memoryview


def refuse(path: Path) -> None:
    """Refuse a malformed graph. Data that is not a protobuf message passes: the engine refuses it.

    Raises:
        BadInput: a name is not text, an operator set or a side is out of range, no node writes an output, a
            convolution lacks its weights, or the bytes of a constant do not fit its shape.
    """
    try:
        found = next(_faults(memoryview(files.read_bytes(path, "an ONNX model"))), None)
    except UnicodeDecodeError:
        found = "a name is no UTF-8 text"
    except (ValueError, IndexError, RecursionError):
        return
    if found:
        raise BadInput(f"{path}: {found}; the file is damaged, export it again")


def _faults(model: Message) -> Iterator[str]:
    for opset in _inner(model, OPSET):
        version = next((varint(opset, body)[0] for number, _, body, _ in fields(opset) if number == 2), 0)
        if not 1 <= version <= OPSETS:
            yield f"operator set {version}, expected 1 to {OPSETS}"
    for graph in _inner(model, GRAPH):
        yield from _in_graph(graph)


def _in_graph(graph: Message) -> Iterator[str]:
    constants = {_text(tensor, TENSOR_NAME) for tensor in _inner(graph, INITIALIZER)}
    for tensor in _inner(graph, INITIALIZER):
        yield from _in_tensor(tensor)
    inputs = {_text(value, 1) for value in _inner(graph, INPUT)} - constants
    written = constants | inputs
    for node in _inner(graph, NODE):
        yield from _in_node(node, constants)
        written |= {*_texts(node, WRITES)}
    for name in (_text(value, 1) for value in _inner(graph, OUTPUT)):
        if name not in written:
            yield f"nothing writes its output {name!r}"
    for value in _inner(graph, INPUT):
        for side in _sides(value):
            if side > SIDE:
                yield f"its input {_text(value, 1)!r} has a side of {side}, expected at most {SIDE}"


def _in_tensor(tensor: Message) -> Iterator[str]:
    """Return whether the number of raw bytes of a constant fits its shape."""
    raw, kind, count = None, 0, 1
    for number, start, body, end in fields(tensor):
        if number == RAW:
            raw = end - body
        elif number == TYPE:
            kind = varint(tensor, body)[0]
        elif number == DIMS:
            packed = varint(tensor, start)[0] & 7 == 2
            while body < end:
                side, body = varint(tensor, body)
                count *= side
                if not packed:
                    break
    if raw is not None and kind in BYTES and raw != count * BYTES[kind]:
        yield f"the constant {_text(tensor, TENSOR_NAME)!r} has {raw} bytes, expected {count * BYTES[kind]}"


def _in_node(node: Message, constants: set[str]) -> Iterator[str]:
    reads, kind, name = [*_texts(node, READS)], _text(node, KIND), _text(node, NAME)
    if kind in CONVOLUTIONS and (len(reads) < 2 or not reads[1] or reads[0] in constants):
        yield f"the {kind} {name or (*_texts(node, WRITES), '')[0]!r} reads {reads}, expected a map and then weights"
    for attribute in _inner(node, ATTRIBUTE):
        _text(attribute, 1)
        for field in INNER:
            for graph in _inner(attribute, field):  # its names; what it reads may be written outside
                for inner in _inner(graph, NODE):
                    yield from _in_node(inner, set())


def _sides(value: Message) -> Iterator[int]:
    """Yield the fixed sides of an input: TypeProto is field 2, its tensor 1, its shape 2, a side 1, its length 1."""
    found = [value]
    for field in (2, 1, 2, 1):
        found = [part for each in found for part in _inner(each, field)]
    for side in found:
        yield from (varint(side, body)[0] for number, _, body, _ in fields(side) if number == 1)


def _inner(message: Message, field: int) -> Iterator[Message]:
    """Yield the values of a repeated field of messages or texts."""
    for number, start, body, end in fields(message):
        if number == field and varint(message, start)[0] & 7 == 2:
            yield message[body:end]


def _texts(message: Message, field: int) -> Iterator[str]:
    return (bytes(part).decode() for part in _inner(message, field))


def _text(message: Message, field: int) -> str:
    return next(_texts(message, field), "")
