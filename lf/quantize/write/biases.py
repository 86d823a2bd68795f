"""Weight scales large enough for the biases of a QDQ graph.

The quantizer of ONNX Runtime gives a bias the scale of the input times that of the weights. Weights that are tiny
beside their bias make that too small: the int32 number saturates. Weights of zero have the scale 1: it is too coarse.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lf.core import Array
from lf.formats.int32_bias import raised
from lf.quantize.round.weight_grids import integers, on_grid

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto


class _Reader(NamedTuple):
    """A convolution: its float bias (O,), the scale of its input, the DequantizeLinear of its int32 bias."""

    bias: Array
    entry: float
    made_by: NodeProto


def fit_scales(model: ModelProto, graph: ModelProto) -> None:
    """Increase weight scales of `model` until every bias fits, in place; other weights do not change.

    Args:
        model: quantized graph, with DequantizeLinear before its convolutions.
        graph: its float graph, with the same names; weights may be stored as integers in it.
    """
    tensors, floats = _Tensors(model), _Tensors(graph)
    sources = {node.name: node for node in graph.graph.node if node.op_type == "Conv"}
    readers, weights = defaultdict[str, list[_Reader]](list), {}
    for node in model.graph.node:
        made_by = tensors.made_by(node.input[2]) if node.op_type == "Conv" and len(node.input) > 2 else None
        if made_by is None:
            continue
        bias, entry = floats.value(sources[node.name].input[2]), tensors.array(_made(tensors, node.input[0]).input[1])
        readers[node.input[1]].append(_Reader(bias, float(entry.reshape(-1)[0]), made_by))
        weights[node.input[1]] = sources[node.name].input[1]
    for name, users in readers.items():
        _fit(tensors, _made(tensors, name), floats.value(weights[name]), users)


def _fit(tensors: _Tensors, made_by: NodeProto, weights: Array, users: list[_Reader]) -> None:
    """Give float weights (O, ...) the scales that the biases of all their readers need."""
    stored, scale = tensors.array(made_by.input[0]), tensors.array(made_by.input[1])
    rows = weights.reshape(scale.size, -1)
    numbers = stored.astype(np.int8).reshape(rows.shape)
    fresh = raised(scale.reshape(-1), numbers, [(user.bias, user.entry) for user in users])
    changed = fresh != scale.reshape(-1)
    if not changed.any():
        return
    numbers[changed] = on_grid(rows[changed], fresh[changed], 8).astype(np.int8)
    tensors.replace(made_by.input[0], integers(numbers.reshape(stored.shape), tensors.bits(made_by.input[0]), ""))
    tensors.put(made_by.input[1], fresh.reshape(scale.shape))
    for user in users:
        whole, unit = user.made_by.input[:2]
        step = np.float32(user.entry) * fresh
        tensors.put(whole, (user.bias / step.astype(np.float64)).round().astype(np.int32))
        tensors.put(unit, step.reshape(tensors.array(unit).shape))


def _made(tensors: _Tensors, name: str) -> NodeProto:
    node = tensors.made_by(name)
    assert node is not None, f"{name} is not quantized, and a bias that is added to its products is"
    return node


class _Tensors:
    """The constants of a graph by name, including those with DequantizeLinear."""

    def __init__(self, model: ModelProto) -> None:
        self._held = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes = {
            name: node for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output
        }

    def made_by(self, name: str) -> NodeProto | None:
        """Return the DequantizeLinear that writes `name`."""
        return self._nodes.get(name)

    def array(self, name: str) -> Array:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._held[name])

    def value(self, name: str) -> Array:
        """Return float values; integers are dequantized with a scale per row."""
        node = self.made_by(name)
        if node is None:
            return self.array(name)
        numbers, scale = self.array(node.input[0]).astype(np.float32), self.array(node.input[1])
        return numbers * scale.reshape(-1, *[1] * (numbers.ndim - 1))

    def bits(self, name: str) -> int:
        from onnx import TensorProto

        return 4 if self._held[name].data_type == TensorProto.INT4 else 8

    def replace(self, name: str, tensor: TensorProto) -> None:
        tensor.name = name
        self._held[name].CopyFrom(tensor)

    def put(self, name: str, values: Array) -> None:
        from onnx import numpy_helper

        self.replace(name, numpy_helper.from_array(values, name))
