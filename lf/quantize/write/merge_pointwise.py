"""Merge float pointwise convolutions that read the same tensor, such as R2D2's score heads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lf.core import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

JOINT = "+"  # separator of the names of merged convolutions


def merge(model: ModelProto) -> None:
    """Merge float 1x1 convolutions with a common input into one convolution and a Split, in place.

    The published heads of R2D2 each read 128 channels at full size to write one or two. Every output is the same sum as
    before. It is for finished files: until then, heads are separate layers with names and bits.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = defaultdict[str, list["NodeProto"]](list)
    for node in graph.node:
        if node.op_type == "Conv" and _pointwise(node, constants):
            readers[node.input[0]].append(node)
    for source, siblings in readers.items():
        if len(siblings) == 1:
            continue
        name = JOINT.join(node.name for node in siblings)
        weight, bias = (np.concatenate([constants[node.input[i]] for node in siblings]) for i in (1, 2))
        sizes = np.array([len(constants[node.input[2]]) for node in siblings])
        fresh = {f"{name}.weight": weight, f"{name}.bias": bias, f"{name}.sizes": sizes}
        graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in fresh.items())
        conv = helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [name], name, kernel_shape=[1, 1])
        outputs = [node.output[0] for node in siblings]
        split = helper.make_node("Split", [name, f"{name}.sizes"], outputs, f"{name}.split", axis=1)
        at = [*graph.node].index(siblings[0])
        for node in siblings:
            graph.node.remove(node)
        graph.node.insert(at, split)
        graph.node.insert(at, conv)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _pointwise(node: NodeProto, constants: Mapping[str, Array]) -> bool:
    """Return whether a node is a 1x1 convolution of all channels at every pixel, with constant weights and bias."""
    if len(node.input) < 3 or not set(node.input[1:]) <= set(constants):
        return False
    given = {attribute.name: attribute for attribute in node.attribute}
    plain = {"strides": 1, "pads": 0}
    every = all(name not in given or set(given[name].ints) == {value} for name, value in plain.items())
    return every and constants[node.input[1]].shape[2:] == (1, 1) and ("group" not in given or given["group"].i == 1)
