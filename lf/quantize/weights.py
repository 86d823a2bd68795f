"""Weights of fewer than 8 bits: a grid of its own for every output channel, stored as int4 in the file."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from lf.core import Array

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

OPSET, IR = 21, 10  # the first with a type of 4 bits, and with 16 bits in the standard operators
SHRINK = np.linspace(0.4, 1, 61)  # factors of the largest weight that are tried as the end of the grid


def grid(weights: Array, bits: int) -> tuple[Array, Array]:
    """Round each row to the symmetric grid of least squared error.

    Args:
        weights: (N, K) float32.
        bits: of a weight; the grid has 2^bits - 1 points, zero in the middle.

    Returns:
        (N, K) int8 grid numbers and (N,) float32 scales.
    """
    end = 2 ** (bits - 1) - 1
    full = np.abs(weights).max(1) / np.float32(end)
    full[full == 0] = 1
    scale, least = full.copy(), np.full(len(weights), np.inf)
    for factor in SHRINK.astype(np.float32):
        tried = full * factor
        error = np.square(weights - _round(weights, tried, end) * tried[:, None]).sum(1)
        better = error < least
        scale[better], least[better] = tried[better], error[better]
    return _round(weights, scale, end).astype(np.int8), scale


def _round(weights: Array, scale: Array, end: int) -> Array:
    return np.asarray(np.clip(np.rint(weights / scale[:, None]), -end, end))


def store(model: ModelProto, layers: Collection[str], bits: int) -> ModelProto:
    """A copy whose convolutions `layers` read int4 weights through DequantizeLinear, one scale per output channel."""
    import onnx
    from onnx import helper, numpy_helper, shape_inference

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    names = dict.fromkeys(node.input[1] for node in graph.node if node.name in layers)
    for name in names:
        weights = numpy_helper.to_array(tensors[name])
        numbers, scale = grid(weights.reshape(len(weights), -1), bits)
        parts = [f"{name}_{part}" for part in ("quantized", "scale", "zero_point")]
        graph.initializer.remove(tensors[name])
        graph.initializer.extend(
            [
                _int4(numbers.reshape(weights.shape), parts[0]),
                numpy_helper.from_array(scale, parts[1]),
                _int4(np.zeros(len(weights), np.int8), parts[2]),
            ]
        )
        nodes.append(helper.make_node("DequantizeLinear", parts, [name], name=f"{name}_dequantized", axis=0))
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    return shape_inference.infer_shapes(copy)


def _int4(values: Array, name: str) -> TensorProto:
    """Two to a byte, the lower half first."""
    import onnx

    flat = values.reshape(-1).astype(np.uint8) & 15
    flat = np.pad(flat, (0, len(flat) % 2))
    packed = (flat[::2] | flat[1::2] << 4).tobytes()
    return onnx.helper.make_tensor(name, onnx.TensorProto.INT4, values.shape, packed, raw=True)


def lifted(model: ModelProto) -> ModelProto:
    """The same graph in an operator set that has types of 4 and of 16 bits."""
    from onnx import shape_inference, version_converter

    if any(entry.domain in ("", "ai.onnx") and entry.version < OPSET for entry in model.opset_import):
        model = version_converter.convert_version(model, OPSET)
    model.ir_version = max(model.ir_version, IR)
    return shape_inference.infer_shapes(model)
