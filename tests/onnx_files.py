"""ONNX files with known parts. Not a test."""

from __future__ import annotations

import numpy as np

from lf.core import Card
from lf.models import MODELS


def heads(row: str, size: tuple[int, int] | None) -> tuple[bytes, Card]:
    """The heads of a row of MODELS, a random convolution each."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model, rng = MODELS[row], np.random.default_rng(0)
    sides = size or ("height", "width")
    nodes, weights, outputs = [], [], []
    for head, (channels, stride) in model.heads.items():
        kernel = rng.standard_normal((channels, model.channels, stride, stride)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{head}.weight"))
        nodes.append(helper.make_node("Conv", ["image", f"{head}.weight"], [head], strides=[stride, stride]))
        outputs.append(helper.make_tensor_value_info(head, TensorProto.FLOAT, [1, channels, None, None]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, model.channels, *sides])
    graph = helper.make_graph(nodes, row, [image], outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto)
    weights_card = {"origin": "random numbers", "sha256": "00", "licence": "none"}
    card = Card(row, weights_card, (model.channels, *(size or (None, None))), outputs=dict(model.heads))
    return proto.SerializeToString(), card


def brightest(weight: int = 127) -> bytes:
    """An 8-bit 3x3 convolution of a picture of 3 channels whose weights, `weight` each, give the largest products."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    top = 27.0 * weight  # of a white picture: 3 channels, 9 pixels
    constants = {
        "one": np.array(1 / 255, np.float32),
        "out": np.array(top / 255, np.float32),
        "unit": np.ones(8, np.float32),
        "low": np.array(0, np.uint8),
        "lows": np.zeros(8, np.int8),
        "weight": np.full((8, 3, 3, 3), weight, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "one", "low"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "one", "low"], ["b"]),
        helper.make_node("DequantizeLinear", ["weight", "unit", "lows"], ["w"], axis=0),
        helper.make_node("Conv", ["b", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["c", "out", "low"], ["d"]),
        helper.make_node("DequantizeLinear", ["d", "out", "low"], ["sum"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightest",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 8, 14, 14])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()
