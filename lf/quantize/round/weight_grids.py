"""Weights on grids, one for every output channel, stored as integers in the file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lf.core import Array, BadInput, one_line
from lf.formats import onnx_model

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

OPSET = 21  # the first operator set with a type of 4 bits, and with 16 bits in the standard operators
PER_CHANNEL = 13  # the first with a scale per channel, and with the Split that merged heads need
IRS = {PER_CHANNEL: 7, OPSET: 10}  # versions of the format for these operator sets
SHRINK = np.linspace(0.4, 1, 61)  # ends of the grid to try, as shares of the largest weight
WIDE = 16  # layers with weights of this many bits or more are computed in float


@dataclass(frozen=True)
class Grid:
    """The weights of one convolution as integers.

    Attributes:
        numbers: (O, I, kH, kW) int8 or int16; weight = number * scale of its output channel.
        scale: (O,) float32.
        bits: bits of a number, which lies in +-(2^(bits - 1) - 1).
        bias: (O,) float32 that replaces the bias of the convolution, or None to keep it.
    """

    numbers: Array
    scale: Array
    bits: int
    bias: Array | None = None

    def weights(self) -> Array:
        """Return the rounded weights (O, I, kH, kW) float32."""
        scale = self.scale.reshape(-1, *[1] * (self.numbers.ndim - 1))
        return np.asarray(self.numbers * scale, np.float32)


def nearest(model: ModelProto, bits: Mapping[str, int]) -> dict[str, Grid]:
    """Round the weights of each convolution in `bits` independently to the grid of least squared error."""
    grids = {}
    for name, (weights, _) in parameters(model, bits).items():
        numbers, scale = grid(weights.reshape(len(weights), -1), bits[name])
        grids[name] = Grid(numbers.reshape(weights.shape), scale, bits[name])
    return grids


def parameters(model: ModelProto, names: Collection[str]) -> dict[str, tuple[Array, Array | None]]:
    """Return weights (O, I, kH, kW) and bias (O,) or None of the convolutions `names`, in the order of the graph."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.name in names:
            bias = numpy_helper.to_array(tensors[node.input[2]]) if len(node.input) > 2 else None
            found[node.name] = numpy_helper.to_array(tensors[node.input[1]]), bias
    return found


def grid(weights: Array, bits: int) -> tuple[Array, Array]:
    """Round each row to the symmetric grid of least squared error; rows that lie on a grid do not change.

    Args:
        weights: (N, K) float32.
        bits: bits of a weight; the grid has 2^bits - 1 points, with zero in the middle.

    Returns:
        (N, K) int8 grid numbers, int16 for more than 8 bits, and (N,) float32 scales.
    """
    end = 2 ** (bits - 1) - 1
    full = np.abs(weights).max(1) / np.float32(end)
    full[full < np.finfo(np.float32).tiny] = 1  # zeros, as for the quantizer of ONNX Runtime
    scale, least = full.copy(), np.full(len(weights), np.inf)
    exact = end / np.arange(end, end // 2, -1)  # any number of the upper half may be the largest weight
    for factor in np.concatenate([exact, SHRINK]).astype(np.float32) if bits < WIDE else ():
        tried = full * factor
        error = np.square(weights - on_grid(weights, tried, bits) * tried[:, None]).sum(1)
        better = error < least
        scale[better], least[better] = tried[better], error[better]
    return on_grid(weights, scale, bits).astype(np.int8 if bits <= 8 else np.int16), scale


def on_grid(weights: Array, scale: Array, bits: int) -> Array:
    """Return the nearest grid numbers of weights (N, K) with the step `scale` (N,) of each row; type of `weights`."""
    end = 2 ** (bits - 1) - 1
    return np.asarray(np.clip(np.rint(weights / scale[:, None]), -end, end))


def store(model: ModelProto, grids: Mapping[str, Grid]) -> ModelProto:
    """Return a copy with convolutions that read integer weights through DequantizeLinear: int4, int8 or int16."""
    import onnx
    from onnx import helper, numpy_helper, shape_inference

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes, replaced = [], set[str]()
    for node in graph.node:
        if node.name not in grids or node.input[1] not in tensors:  # two convolutions may share their weights
            continue
        made, name = grids[node.name], node.input[1]
        parts = [f"{name}_{part}" for part in ("quantized", "scale", "zero_point")]
        graph.initializer.remove(tensors.pop(name))
        graph.initializer.extend(
            [
                integers(made.numbers, made.bits, parts[0]),
                numpy_helper.from_array(made.scale, parts[1]),
                integers(np.zeros(len(made.scale), made.numbers.dtype), made.bits, parts[2]),
            ]
        )
        if made.bias is not None:
            bias = numpy_helper.from_array(made.bias, f"{node.name}.corrected_bias")
            graph.initializer.append(bias)
            replaced.update(node.input[2:])
            node.input[2:] = [bias.name]
        nodes.append(helper.make_node("DequantizeLinear", parts, [name], name=f"{name}_dequantized", axis=0))
    for name in replaced - {name for node in graph.node for name in node.input}:
        graph.initializer.remove(tensors[name])
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    return shape_inference.infer_shapes(copy)


def integers(values: Array, bits: int, name: str) -> TensorProto:
    """Store numbers as int8 or int16; up to 4 bits as int4, two to a byte, the lower half first."""
    import onnx

    if bits > 4:
        return onnx.numpy_helper.from_array(values, name)
    flat = values.reshape(-1).astype(np.uint8) & 15
    flat = np.pad(flat, (0, len(flat) % 2))
    packed = (flat[::2] | flat[1::2] << 4).tobytes()
    return onnx.helper.make_tensor(name, onnx.TensorProto.INT4, values.shape, packed, raw=True)


def untie(model: ModelProto, bits: Mapping[str, int]) -> None:
    """Duplicate weights that nodes with different bits share, in place: otherwise all would have the bits of the first.

    Args:
        model: float; other nodes than the convolutions in `bits` need 32.
        bits: bits of the weights of every convolution.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {node.input[1] for node in model.graph.node if node.name in bits}
    taken, owners, copies = onnx_model.tensors(model), dict[str, int](), dict[tuple[str, int], str]()
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            count = bits.get(node.name, 32) if place == 1 else 32
            if name not in weights or owners.setdefault(name, count) == count:
                continue
            if (name, count) not in copies:
                copies[name, count] = fresh = onnx_model.free(f"{node.name}.weight", taken)
                taken.add(fresh)
                model.graph.initializer.append(tensors[name])
                model.graph.initializer[-1].name = fresh
            node.input[place] = copies[name, count]


def lifted(model: ModelProto, opset: int, path: Path) -> ModelProto:
    """Convert the graph, from the file `path`, to operator set `opset` (a key of IRS), unless it has a later one.

    Raises:
        BadInput: the graph cannot be converted to that set.
    """
    from onnx import shape_inference, version_converter

    version = next(entry.version for entry in model.opset_import if entry.domain in onnx_model.STANDARD)
    if version >= opset and model.ir_version >= IRS[opset]:
        return model
    try:
        if version < opset:
            model = onnx_model.prepare(version_converter.convert_version(model, opset))  # it adds nodes without names
    except (RuntimeError, version_converter.ConvertError) as error:
        raise BadInput(
            f"{path}: operator set {version} is too old: expected {opset} or newer, into which onnx cannot convert it "
            f"({one_line(error, 200)}); make the file again: `export(CHECKPOINT, to=onnx)`"
        ) from error
    model.ir_version = max(model.ir_version, IRS[opset])
    return shape_inference.infer_shapes(model)
