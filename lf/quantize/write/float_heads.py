"""Cut heads off the graph that the host computes in float: matrix products at every pixel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import Array
from lf.runtimes.ort import making

if TYPE_CHECKING:
    from onnx import ModelProto

EXACT = 1e-5  # of the largest value: float32 error of a sum in another order


def cut(model: ModelProto, heads: Iterable[str]) -> tuple[ModelProto, list[dict[str, Any]]]:
    """Remove those `heads` from a graph that are y = W z + b at every pixel; z is another output x or its square.

    The reason is the square: 8 bits keep only the large values of x * x, and R2D2's heads would have 7 to 16 dB.

    Args:
        model: the float ONNX graph.
        heads: outputs that 8 bits are known to damage.

    Returns:
        The graph without these heads, and the computation for the host: {"head", "input", "square", "weight", "bias"},
        for `lf.runtimes.float_heads`. The same model if there are no such heads.
    """
    from onnx.utils import Extractor

    names, left = [output.name for output in model.graph.output], [*heads]
    kept = [name for name in names if name not in left]
    found = []
    for head in (name for name in names if name in left):
        for source, tensor, square in _sources(model, kept):
            if product := _product(model, tensor, head):
                weight, bias = product
                found.append(
                    {"head": head, "input": source, "square": square, "weight": weight.tolist(), "bias": bias.tolist()}
                )
                break
        else:
            kept.append(head)
    if not found:
        return model, []
    outputs = [name for name in names if name in kept]
    return Extractor(model).extract_model([model.graph.input[0].name], outputs), found


def _sources(model: ModelProto, outputs: Iterable[str]) -> list[tuple[str, str, bool]]:
    """Return (output, tensor, whether the tensor is its square); squares first, because they come after the outputs."""
    squares = [(n.input[0], n.output[0], True) for n in model.graph.node if n.op_type == "Mul" and len({*n.input}) == 1]
    names = [*outputs]
    return [*(row for row in squares if row[0] in names), *((name, name, False) for name in names)]


def _product(model: ModelProto, source: str, head: str) -> tuple[Array, Array] | None:
    """Return W (Cout, Cin) and b (Cout,) of head = W source + b at every pixel; None for other functions.

    They are found from the outputs for zero and for each channel alone, and tested on random numbers of another shape.
    """
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    made = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, queue = {}, [head]
    while queue:
        name = queue.pop()
        if name == source or name in constants or not name:
            continue
        if name not in made:
            return None  # the image itself
        nodes[id(made[name])] = made[name]
        queue.extend(made[name].input)
    if not nodes:
        return None
    first = next((node for node in nodes.values() if node.op_type == "Conv" and node.input[0] == source), None)
    if first is None or first.input[1] not in constants:
        return None
    channels = numpy_helper.to_array(constants[first.input[1]]).shape[1]
    entry = helper.make_tensor_value_info(source, TensorProto.FLOAT, [1, channels, None, None])
    ordered = [node for node in model.graph.node if id(node) in nodes]
    used = [tensor for name, tensor in constants.items() if any(name in node.input for node in ordered)]
    graph = helper.make_graph(ordered, "head", [entry], [helper.make_empty_tensor_value_info(head)], used)
    small = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = ort.InferenceSession(small.SerializeToString(), making(), providers=["CPUExecutionProvider"])
    pixels = np.eye(channels, channels + 1, 1, dtype=np.float32)[None, :, None]  # the first pixel is zero
    answer = session.run([head], {source: pixels})[0]
    probe = np.random.default_rng(0).standard_normal((1, channels, 5, 7), np.float32)
    seen = session.run([head], {source: probe})[0]
    if answer.shape[2:] != (1, channels + 1) or seen.shape[2:] != (5, 7):
        return None
    bias = answer[0, :, 0, 0]
    weight = answer[0, :, 0, 1:] - bias[:, None]
    expected = np.einsum("oc,bchw->bohw", weight, probe) + bias[:, None, None]
    return (weight, bias) if np.abs(seen - expected).max() <= EXACT * np.abs(seen).max() else None
