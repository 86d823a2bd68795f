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
