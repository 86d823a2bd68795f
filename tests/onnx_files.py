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


def brightest(weight: int = 127, layers: int = 1) -> bytes:
    """8-bit 1x1 convolutions of 3 channels, one after the other, that share weights: `weight` each, all 9 of them.

    A white image gives the largest products. Each layer gives `3 * weight` times what it is given.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "scale0": np.array(1 / 255, np.float32),
        "unit": np.ones(3, np.float32),
        "low": np.array(0, np.uint8),
        "lows": np.zeros(3, np.int8),
        "weight": np.full((3, 3, 1, 1), weight, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale0", "low"], ["q0"]),
        helper.make_node("DequantizeLinear", ["q0", "scale0", "low"], ["level0"]),
    ]
    for n in range(1, layers + 1):
        constants[f"scale{n}"] = np.array((3.0 * weight) ** n / 255, np.float32)
        nodes += [
            helper.make_node("DequantizeLinear", ["weight", "unit", "lows"], [f"w{n}"], axis=0),
            helper.make_node("Conv", [f"level{n - 1}", f"w{n}"], [f"sum{n}"], kernel_shape=[1, 1]),
            helper.make_node("QuantizeLinear", [f"sum{n}", f"scale{n}", "low"], [f"q{n}"]),
            helper.make_node("DequantizeLinear", [f"q{n}", f"scale{n}", "low"], [f"level{n}"]),
        ]
    nodes[-1].output[0] = "sum"
    graph = helper.make_graph(
        nodes,
        "brightest",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 3, 16, 16])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()
