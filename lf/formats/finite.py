"""Find non-finite constants in model files; some engines hide them behind finite maps."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import BadModel, files
from lf.formats.onnx_bytes import tensors
from lf.formats.protobuf import fields, varint

KIND, INT32_DATA, NAME = 2, 5, 8  # fields of TensorProto
VALUES = (4, 9, 10)  # fields of TensorProto: float_data, raw_data, double_data
FLOAT32, FLOAT16 = ("<u4", 0x7F800000), ("<u2", 0x7C00)  # an integer of as many bytes; the bits of the exponent
FLOAT64, BFLOAT16 = ("<u8", 0x7FF0000000000000), ("<u2", 0x7F80)
ONNX = {1: FLOAT32, 10: FLOAT16, 11: FLOAT64, 16: BFLOAT16}  # by the type in TensorProto
TFLITE = {0: FLOAT32, 1: FLOAT16, 10: FLOAT64, 18: BFLOAT16}  # by TensorType


def refuse_onnx(path: Path) -> None:
    """Refuse an ONNX file with such a weight, bias or scale. A damaged file passes: its engine refuses it.

    Raises:
        BadModel: there is one.
    """
    with suppress(ValueError, IndexError, RecursionError):
        for tensor in tensors(memoryview(files.read_bytes(path, "an ONNX model"))):
            _refuse(path, *_onnx(tensor))


def refuse_tflite(path: Path, model: Any) -> None:
    """Refuse a TFLite file with such a weight, bias or scale.

    Args:
        path: path for the error.
        model: result of `lf.formats.tflite.read`.

    Raises:
        BadModel: there is one.
    """
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        data = model.buffers[tensor.buffer].data
        if data is not None and tensor.type in TFLITE:
            _refuse(path, tensor.name, TFLITE[tensor.type], np.asarray(data, np.uint8).tobytes())


def _onnx(tensor: memoryview) -> tuple[bytes, tuple[str, int] | None, bytes]:
    """Return name, format and values of a message TensorProto; format None if they are not floats."""
    rows = [(number, tensor[body:end]) for number, _, body, end in fields(tensor)]
    form = next((ONNX.get(varint(part, 0)[0]) for number, part in rows if number == KIND), None)
    if form is None:
        return b"", None, b""
    values = [bytes(part) for number, part in rows if number in VALUES]
    for part in (part for number, part in rows if number == INT32_DATA):  # of 16 bits, one in each varint
        at = 0
        while at < len(part):
            value, at = varint(part, at)
            values.append((value & 0xFFFF).to_bytes(2, "little"))
    return b"".join(bytes(part) for number, part in rows if number == NAME), form, b"".join(values)


def _refuse(path: Path, name: bytes, form: tuple[str, int] | None, values: bytes) -> None:
    """Raise BadModel if one of several values is not finite; a single value may be a limit or a mask value."""
    if form is None:
        return
    kind, exponent = form
    bits = np.frombuffer(values, kind, len(values) // np.dtype(kind).itemsize)
    if len(bits) > 1 and (bits & np.array(exponent, kind) == exponent).any():
        raise BadModel.not_finite(f"the constant {name.decode(errors='replace')}", path)
