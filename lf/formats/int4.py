"""4-bit weights: widened to int8 when a file is opened, because ONNX Runtime has no 4-bit convolution.

The numbers and their scales stay the same; where int4 takes 1.35 times as long as float, int8 takes a third. The bytes
are rewritten without the library that owns the format, because a device that only runs models does not have it.
"""

from __future__ import annotations

import numpy as np

from lf.core import Array
from lf.formats.onnx_bytes import GRAPH, replaced
from lf.formats.protobuf import encode_varint, fields, message, varint

INITIALIZER = 5  # field of GraphProto
DIMS, DATA_TYPE, RAW_DATA = 1, 2, 9  # fields of TensorProto
INT4, INT8 = 22, 3  # types of TensorProto
# operator type of a node: field 4 of NodeProto, length, text
QUANTIZES, DEQUANTIZES = b'"\x0eQuantizeLinear', b'"\x10DequantizeLinear'


def weights_only(data: bytes) -> bool:
    """Return whether an ONNX file has quantized weights and float activations: its weights can be made float once."""
    return DEQUANTIZES in data and QUANTIZES not in data


def widened(data: bytes) -> bytes:
    """Convert every int4 initializer of an ONNX file to int8; the same object if there is none.

    Raises:
        ValueError: not a protobuf message, or a truncated one.
    """
    return replaced(data, GRAPH, lambda graph: replaced(graph, INITIALIZER, _tensor))


def _tensor(data: bytes) -> bytes:
    """Convert an int4 tensor with raw data to int8; other tensors do not change."""
    count, kind, raw, kept = 1, 0, None, []
    for number, start, body, end in fields(data):
        if number == DATA_TYPE:
            kind = varint(data, body)[0]
        elif number == RAW_DATA:
            raw = data[body:end]
        else:
            kept.append(data[start:end])
        if number == DIMS:
            while body < end:  # one, or a packed list
                side, body = varint(data, body)
                count *= side
    if kind != INT4 or raw is None:
        return data
    key = encode_varint(DATA_TYPE << 3) + encode_varint(INT8)
    return b"".join([*kept, key, message(RAW_DATA, _unpacked(raw)[:count].tobytes())])


def _unpacked(raw: bytes) -> Array:
    """Unpack two numbers per byte, the lower half first, to int8."""
    both = np.frombuffer(raw, np.int8)
    halves = np.stack([both << 4 >> 4, both >> 4], 1)
    return halves.reshape(-1)
