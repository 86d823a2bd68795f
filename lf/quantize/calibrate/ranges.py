"""Measure the ranges of activations of a float graph, one image in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lf.core import Array, BadModel, ConversionFailed
from lf.quantize.calibrate.observers import Observer
from lf.runtimes.ort import making

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Range:
    """Range of one tensor.

    Attributes:
        low, high: the range to quantize.
        channels: (C,) largest magnitude in each channel, without clipping.
    """

    low: float
    high: float
    channels: Array

    def levels(self, bits: int, symmetric: bool = False) -> tuple[float, float, float]:
        """Return ONNX Runtime's step for the range, and the numbers of its lowest and highest level; zero is a level.

        Args:
            bits: bits of an activation.
            symmetric: True makes zero the middle level.
        """
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if symmetric:
            high = max(-low, high)
            low = -high
        end = 2**bits - 1
        step = (high - low) / end
        if step < np.finfo(np.float32).tiny:
            return 1.0, 0.0, float(end)
        zero = float(np.rint(-low / step))
        return step, -zero, end - zero


def measure(
    model: ModelProto, operators: Sequence[str], symmetric: bool, photos: Iterable[Array], make: Callable[[], Observer]
) -> dict[str, Range]:
    """Run the graph on every photo and observe the inputs and outputs of its `operators`.

    A tensor that only a Relu reads gets the range of the Relu's output, which fuses the Relu, unless the ranges are
    `symmetric` and so extend below zero.

    Raises:
        BadModel: an activation is not finite.
    """
    absorbed = {} if symmetric else _absorbed(model, operators)
    names = [name for name in _tensors(model, operators) if name not in absorbed]
    observers = {name: make() for name in names}
    channels: dict[str, Array] = {}
    for name, values in _values(model, names, photos):
        values = np.atleast_1d(values)
        axes = (0, *range(2, values.ndim))
        seen = np.maximum(values.max(axes, initial=0), -values.min(axes, initial=0))
        if not np.isfinite(seen).all():
            raise BadModel.not_finite(f"the activation {name}")
        observers[name].update(values)
        channels[name] = np.maximum(seen, channels.get(name, 0))
    ranges = {name: Range(*observers[name].range(), channels[name]) for name in names}
    return ranges | {before: ranges[after] for before, after in absorbed.items()}


def learned(
    model: ModelProto, convolutions: Sequence[str], places: Mapping[str, tuple[float, float]]
) -> dict[str, Range]:
    """Return the ranges from training of the inputs and outputs of convolutions.

    Args:
        model: the float graph.
        convolutions: convolutions that will be integer.
        places: (low, high) of `<convolution>.input` and `<convolution>.output`; input and output of a ReLU or a max
            pooling share a range.

    Raises:
        ConversionFailed: a place is missing.
    """
    nodes, absorbed = model.graph.node, _absorbed(model, ["Relu"])
    same = [*absorbed.items(), *((n.input[0], n.output[0]) for n in nodes if n.op_type == "MaxPool")]
    found = {}
    for node in nodes:
        for end, tensor in (("input", node.input[0]), ("output", node.output[0])) if node.name in convolutions else ():
            if f"{node.name}.{end}" not in places:
                raise ConversionFailed(
                    f"{node.name} was trained in float: the card has no range of its {end}; calibrate: `images=DIR`"
                )
            low, high = places[f"{node.name}.{end}"]
            found[tensor] = Range(low, high, np.array([max(-low, high)]))
    for one, other in [*same, *reversed(same)]:
        for before, after in ((one, other), (other, one)):
            if before in found:
                found.setdefault(after, found[before])
    return found


def shapes(model: ModelProto, names: list[str], photo: Array) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors `names` for a photo (1, C, H, W)."""
    return {name: values.shape for name, values in _values(model, names, [photo])}


def _tensors(model: ModelProto, operators: Sequence[str]) -> list[str]:
    """Return the names of the float activations that the operators read and write."""
    from onnx import TensorProto

    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    infos = (*graph.input, *graph.value_info, *graph.output)
    floats = {i.name for i in infos if i.type.tensor_type.elem_type == TensorProto.FLOAT} - weights
    nodes = [node for node in graph.node if node.op_type in operators]
    return list(dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name in floats))


def _absorbed(model: ModelProto, operators: Sequence[str]) -> dict[str, str]:
    """Map the input to the output of each Relu that is the only reader of its input."""
    readers: dict[str, int] = {output.name: 1 for output in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    found = (node for node in model.graph.node if node.op_type == "Relu" and "Relu" in operators)
    written = {name for node in model.graph.node for name in node.output}
    return {n.input[0]: n.output[0] for n in found if readers[n.input[0]] == 1 and n.input[0] in written}


def _values(model: ModelProto, names: list[str], photos: Iterable[Array]) -> Iterable[tuple[str, Array]]:
    import onnx
    import onnxruntime as ort

    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    there = {output.name for output in opened.graph.output} | {opened.graph.input[0].name}
    opened.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in there)
    options = making("ORT_DISABLE_ALL")  # fusion would remove tensors
    session = ort.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name
    wanted = [name for name in names if name != entry]
    for photo in photos:
        if entry in names:
            yield entry, photo
        yield from zip(wanted, session.run(wanted, {entry: photo}), strict=True)
