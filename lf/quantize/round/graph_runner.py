"""Run a graph node by node over several images, so that layers can be changed on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import Array
from lf.quantize.calibrate.ranges import Range
from lf.runtimes.ort import making

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


class Walk:
    """Tensors of all images in a graph that is run node by node.

    Attributes:
        values: name of an activation -> its value in every image; deleted after its last reader.
        constants: the initializers by name; replacements affect the following nodes.
    """

    def __init__(self, model: ModelProto, nodes: Sequence[NodeProto], pictures: Sequence[Array]) -> None:
        """Start at the input of the graph, with images (1, C, H, W) float32; `nodes` are all nodes to run."""
        from onnx import numpy_helper

        self._opsets, self._ir = model.opset_import, model.ir_version
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.values: dict[str, list[Array]] = {model.graph.input[0].name: list(pictures)}
        self._readers = Counter(name for node in nodes for name in {*node.input})
        self._count = len(pictures)

    def run(self, node: NodeProto) -> None:
        """Run one node on every image."""
        entries = [name for name in dict.fromkeys(node.input) if name in self.values]
        inputs = [self.values[name] for name in entries]
        self._readers.subtract({*node.input})
        last = [not self._readers[name] for name in entries]
        for name in (name for name, done in zip(entries, last, strict=True) if done):
            del self.values[name]
        session = self._session(node, {n: values[0].dtype for n, values in zip(entries, inputs, strict=True)})
        names = [output.name for output in session.get_outputs()]
        made: dict[str, list[Array]] = {name: [] for name in names if self._readers[name]}
        for index in range(self._count):
            feed = {name: values[index] for name, values in zip(entries, inputs, strict=True)}
            for values, done in zip(inputs, last, strict=True):
                if done:
                    values[index] = np.empty(0, np.float32)  # so that only one image is in memory twice
            results = dict(zip(names, session.run(names, feed), strict=True))
            for name, values in made.items():
                values.append(results[name])
        self.values |= made

    def _session(self, node: NodeProto, kinds: dict[str, np.dtype[Any]]) -> Any:
        import onnxruntime as ort
        from onnx import helper, numpy_helper

        types = {name: helper.np_dtype_to_tensor_dtype(kind) for name, kind in kinds.items()}
        graph = helper.make_graph(
            [node],
            "node",
            [helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
            [numpy_helper.from_array(self.constants[name], name) for name in {*node.input} & {*self.constants}],
        )
        model = helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir)
        return ort.InferenceSession(model.SerializeToString(), making(), providers=["CPUExecutionProvider"])


def upstream(model: ModelProto, layers: Collection[str]) -> list[NodeProto]:
    """Return the nodes `layers` and all nodes they depend on, in the order of the graph."""
    wanted: set[str] = set()
    found = []
    for node in reversed(model.graph.node):
        if node.name in layers or wanted & {*node.output}:
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def windows(picture: Array, node: NodeProto, kernel: tuple[int, int], where: Array) -> Array:
    """Return the input windows of a convolution at some positions.

    Args:
        picture: (1, C, H, W).
        node: the convolution: its strides, dilations, padding and groups.
        kernel: height and width.
        where: (P,) places in its output in row-major order, from 0 for the first to 1 after the last.

    Returns:
        (G, P, C / G * kH * kW): for each group a row per place, in the order of the weights.
    """
    from onnx import helper

    options = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    strides, dilations = options.get("strides", (1, 1)), options.get("dilations", (1, 1))
    reach = [dilation * (side - 1) + 1 for dilation, side in zip(dilations, kernel, strict=True)]
    top, left, bottom, right = _padding(options, picture.shape[2:], strides, reach)
    padded = np.pad(picture[0], ((0, 0), (top, bottom), (left, right)))
    height, width = ((padded.shape[axis + 1] - reach[axis]) // strides[axis] + 1 for axis in (0, 1))
    y, x = np.divmod((where * height * width).astype(np.intp), width)
    rows = (y * strides[0])[:, None] + np.arange(kernel[0]) * dilations[0]
    columns = (x * strides[1])[:, None] + np.arange(kernel[1]) * dilations[1]
    found = padded[:, rows[:, :, None], columns[:, None, :]]  # (C, P, kH, kW)
    grouped = found.reshape(options.get("group", 1), -1, *found.shape[1:])
    return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(len(grouped), len(where), -1)


def _padding(
    options: dict[str, Any], sides: Sequence[int], strides: Sequence[int], reach: Sequence[int]
) -> tuple[int, ...]:
    """Return the padding above, left, below, right."""
    auto = options.get("auto_pad", b"NOTSET")
    if not auto.startswith(b"SAME"):
        return tuple(options.get("pads", (0, 0, 0, 0))) if auto == b"NOTSET" else (0, 0, 0, 0)
    both = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(sides, strides, reach, strict=True)]
    less, more = [n // 2 for n in both], [n - n // 2 for n in both]
    return (*less, *more) if auto == b"SAME_UPPER" else (*more, *less)


def quantized(values: Array, seen: Range, bits: int) -> Array:
    """Round activations to ONNX Runtime's levels of a range; float32."""
    step, lowest, highest = (np.float32(part) for part in seen.levels(bits))
    return np.asarray(np.clip(np.rint(values / step), lowest, highest) * step, np.float32)
