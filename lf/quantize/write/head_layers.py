"""Find the layers of each head in a graph."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def tail(model: ModelProto, output: str) -> list[NodeProto]:
    """Return the nodes from an output back to the nearest convolution on every path, including these convolutions."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    found: dict[int, NodeProto] = {}
    queue = deque([output])
    while queue:
        node = made_by.get(queue.popleft())
        if node is None or id(node) in found:
            continue
        found[id(node)] = node
        if node.op_type != "Conv":
            queue.extend(node.input)
    return [*found.values()]


def last_convolutions(model: ModelProto, output: str) -> list[str]:
    """Return the names of the convolutions nearest to an output on every path."""
    return [node.name for node in tail(model, output) if node.op_type == "Conv"]
