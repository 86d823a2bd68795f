"""Write a part of an ONNX graph operator by operator, without torch, behind raw heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import Array

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

Operand = str | float | int | list[int] | list[float] | Array
Step = Callable[[list[str]], tuple[str, list[str]]]


class Graph:
    """A builder of nodes and constants.

    A call appends one operator and returns the name of its output. Operands are names of tensors, or numbers: int and
    list of int become int64 constants, float ones float32.

    Attributes:
        nodes: in order of execution.
        constants: initializers.
    """

    def __init__(self, prefix: str) -> None:
        """Start an empty graph. All names begin with `prefix`, so that they differ from the network's names."""
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix, self._number = prefix, count()
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def __call__(self, operator: str, *operands: Operand, **attributes: Any) -> str:
        """Append an operator of one output; return its name."""
        return self.several(operator, 1, *operands, **attributes)[0]

    def several(self, operator: str, outputs: int, *operands: Operand, **attributes: Any) -> list[str]:
        """Append an operator of several outputs; return their names."""
        from onnx import helper

        names = [self.name(operator) for _ in range(outputs)]
        inputs = [operand if isinstance(operand, str) else self.constant(operand) for operand in operands]
        self.nodes.append(helper.make_node(operator, inputs, names, names[0], **attributes))
        return names

    def rename(self, tensor: str, name: str) -> None:
        """Rename the output of the last operator, `tensor`."""
        assert list(self.nodes[-1].output) == [tensor]
        self.nodes[-1].output[0] = name

    def constant(self, value: Operand) -> str:
        """Return the name of an initializer; equal values share it."""
        from onnx import numpy_helper

        array = np.asarray(value)
        array = array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._known:
            self._known[key] = self.name("constant")
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def loop(self, going: str, states: Sequence[str], step: Step) -> list[str]:
        """Repeat `step` while a condition holds.

        Args:
            going: name of a bool scalar: whether to begin.
            states: names of float tensors (B, C, H, W), the states before the first round.
            step: appends a round to the graph: names of the states -> the condition, names of the new states.

        Returns:
            Names of the states after the last round.
        """
        from onnx import TensorProto, helper

        nodes, self.nodes = self.nodes, []
        inputs = [self.name(word) for word in ("round", "going", *["before"] * len(states))]
        condition, after = step(inputs[2:])
        types = [TensorProto.INT64, TensorProto.BOOL, *[TensorProto.FLOAT] * len(states)]
        shapes: list[list[None]] = [[], [], *[[None] * 4] * len(states)]
        said = [helper.make_tensor_value_info(*row) for row in zip(inputs, types, shapes, strict=True)]
        results = [helper.make_tensor_value_info(condition, TensorProto.BOOL, [])]
        results += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[-1]) for name in after]
        body = helper.make_graph(self.nodes, self.name("body"), said, results)
        self.nodes = nodes
        return self.several("Loop", len(states), "", going, *states, body=body)

    def name(self, word: str) -> str:
        """Return a new, unique name."""
        return f"{self._prefix}{word}.{next(self._number)}"
