"""Read and change the bytes of an ONNX file without the onnx package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from lf.formats.protobuf import fields, message, varint

GRAPH, NODE, NAME = 7, 1, 3  # fields of ModelProto, of GraphProto, of NodeProto
TENSOR = "tensor"
PLACE, ENTRIES = 14, 13  # fields of TensorProto: location of its values, and {key = 1, value = 2} about it
OUTSIDE = 1  # value of PLACE for another file

# message -> its fields that lead to tensors, and what they hold (onnx.proto)
PARTS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: TENSOR, 6: "graph", 10: TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: TENSOR, 2: TENSOR},
}


def replaced(data: bytes, field: int, change: Callable[[bytes], bytes]) -> bytes:
    """Apply `change` to the content of each `field` of a message; the same object if nothing changes."""
    parts, changed = [], False
    for number, start, body, end in fields(data):
        part, inner = data[start:end], data[body:end]
        if number == field and (made := change(inner)) is not inner:
            part, changed = message(field, made), True
        parts.append(part)
    return b"".join(parts) if changed else data


def single_names(data: bytes) -> bytes:
    """Remove names of nodes that an earlier node has from an ONNX file; the same object if there are none.

    Names do not affect results, but ONNX Runtime refuses files with duplicates.

    Raises:
        ValueError: not a protobuf message, or a truncated one.
    """
    taken = set[bytes]()

    def single(node: bytes) -> bytes:
        rows = [*fields(node)]
        name = next((node[body:end] for number, _, body, end in rows if number == NAME), b"")
        if name not in taken:
            taken.add(name)
            return node
        return b"".join(node[start:end] for number, start, _, end in rows if number != NAME) if name else node

    return replaced(data, GRAPH, lambda graph: replaced(graph, NODE, single))


def tensors(data: memoryview, kind: str = "model") -> Iterator[memoryview]:
    """Yield every message TensorProto of an ONNX file, or of a part of it: a row of PARTS.

    Raises:
        ValueError: not a protobuf message.
        IndexError: a truncated one.
    """
    if kind == TENSOR:
        yield data
        return
    for number, _, body, end in fields(data):
        if part := PARTS[kind].get(number):
            yield from tensors(data[body:end], part)


def outside(data: bytes) -> list[str]:
    """Return the names of the files with external data of an ONNX file, each once.

    Raises:
        ValueError: not a protobuf message.
        IndexError: a truncated one.
    """
    return list(dict.fromkeys(filter(None, map(_outside, tensors(memoryview(data))))))


def _outside(tensor: memoryview) -> str:
    """Return the file with the values of a tensor; "" if they are in the tensor itself."""
    name, away = "", False
    for number, _, body, end in fields(tensor):
        if number == PLACE:
            away = varint(tensor, body)[0] == OUTSIDE
        elif number == ENTRIES:
            entry = {n: bytes(tensor[body + b : body + e]) for n, _, b, e in fields(tensor[body:end])}
            if entry.get(1) == b"location":
                name = entry.get(2, b"").decode(errors="replace")
    return (name or "another file") if away else ""
