"""A .tflite model for the rules of an accelerator: operators and tensors with names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lf.core import Array
from lf.formats import tflite

INTEGERS = {"INT32": "<i4", "INT64": "<i8"}  # types of axes, sizes, paddings
CUSTOM = 32  # BuiltinOperator
LABEL = 40  # characters


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that an operator reads or writes.

    Attributes:
        shape: sizes, NHWC for images.
        kind: a name of the schema's TensorType.
        scale: one scale, one for each channel, or none if it is not quantized.
        zero: zero points, in the same number.
        axis: the channels' dimension.
        data: bytes of a constant; None if it is computed or an input.
        buffer: index of the buffer of the constant.
        outside: True if the constant is stored after the table of the file.
        dynamic: True if a size is only known at run time.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    scale: tuple[float, ...]
    zero: tuple[int, ...]
    axis: int
    data: Array | None
    buffer: int
    outside: bool
    dynamic: bool

    @property
    def bytes(self) -> int:
        """Size in memory, bytes; types of less than a byte count as one byte."""
        each = {**dict.fromkeys(("INT64", "FLOAT64", "UINT64"), 8), **dict.fromkeys(("INT32", "FLOAT32", "UINT32"), 4)}
        return math.prod(self.shape) * {**each, "INT16": 2, "FLOAT16": 2, "UINT16": 2}.get(self.kind, 1)

    @property
    def label(self) -> str:
        """Its name, shortened, as converters join the names of all fused operators."""
        first = self.name.partition(";")[0]
        return first if len(first) <= LABEL else f"...{first[3 - LABEL :]}"

    @property
    def quantized(self) -> bool:
        """True if it holds 8-bit values."""
        return self.kind in ("INT8", "UINT8")

    def integers(self) -> list[int] | None:
        """Return the values of a constant of INTEGERS; None for other tensors."""
        if self.data is None or self.kind not in INTEGERS:
            return None
        return [int(value) for value in np.frombuffer(self.data.tobytes(), INTEGERS[self.kind])]

    def eight_bit(self) -> Array:
        """The values of an 8-bit constant, flat."""
        kind: Any = np.int8 if self.kind == "INT8" else np.uint8
        return np.frombuffer(b"" if self.data is None else self.data.tobytes(), kind)


@dataclass(frozen=True, eq=False)
class Operator:
    """A step of a graph.

    Attributes:
        graph: index of its graph in the file.
        index: its place in the order of execution.
        name: name in the schema's BuiltinOperator; `CUSTOM` for custom operators.
        code: number in BuiltinOperator.
        custom: name of a custom operator.
        inputs: input tensors, None for omitted ones.
        options: options of the schema; None for defaults.
    """

    graph: int
    index: int
    name: str
    code: int
    version: int
    custom: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any

    def option(self, name: str, default: Any = 0) -> Any:
        """Return one of the options."""
        return getattr(self.options, name, default)

    def input(self, index: int) -> Tensor | None:
        """Return an input, None if it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def constants(self) -> list[Tensor]:
        """Inputs that are constants."""
        return [tensor for tensor in self.inputs if tensor is not None and tensor.data is not None]

    @property
    def computed(self) -> list[Tensor]:
        """Inputs that are not constants, and outputs."""
        return [*(tensor for tensor in self.inputs if tensor is not None and tensor.data is None), *self.outputs]


@dataclass(frozen=True)
class Graph:
    """The operators of a file, all graphs of it, and the inputs and outputs of the first."""

    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    graphs: int


def build(model: Any) -> Graph:
    """Build the graph from the result of `lf.formats.tflite.read`."""
    schema = tflite.schema()
    codes, kinds = _names(schema.BuiltinOperator), _names(schema.TensorType)
    operators, ends = [], []
    for number, graph in enumerate(model.subgraphs):
        tensors = [_tensor(tensor, model.buffers, kinds) for tensor in graph.tensors]
        ends.append((tuple(tensors[i] for i in graph.inputs), tuple(tensors[i] for i in graph.outputs)))
        for index, each in enumerate(graph.operators):
            entry = model.operatorCodes[each.opcodeIndex]
            code = max(entry.builtinCode, entry.deprecatedBuiltinCode)  # the old field has 7 bits
            operators.append(
                Operator(
                    graph=number,
                    index=index,
                    name=codes.get(code, f"OPERATOR_{code}"),
                    code=code,
                    version=entry.version,
                    custom=text(entry.customCode) if code == CUSTOM else "",
                    inputs=tuple(tensors[i] if i >= 0 else None for i in each.inputs),
                    outputs=tuple(tensors[i] for i in each.outputs),
                    options=each.builtinOptions,
                )
            )
    return Graph(tuple(operators), *ends[0], graphs=len(ends))


def text(found: bytes | str | None) -> str:
    """Return a name of the file with printable characters only."""
    plain = found.decode(errors="replace") if isinstance(found, bytes) else found or ""
    return "".join(c if c.isprintable() else "?" for c in plain)


def _names(numbers: Any) -> dict[int, str]:
    return {value: name for name, value in vars(numbers).items() if not name.startswith("_")}


def _tensor(tensor: Any, buffers: list[Any], kinds: dict[int, str]) -> Tensor:
    rule, buffer = tensor.quantization, buffers[tensor.buffer] if buffers else None
    data = None if buffer is None or buffer.data is None or not len(buffer.data) else buffer.data
    signature = () if tensor.shapeSignature is None else tensor.shapeSignature
    return Tensor(
        name=text(tensor.name),
        shape=tuple(int(size) for size in tensor.shape),
        kind=kinds.get(tensor.type, f"TYPE_{tensor.type}"),
        scale=() if rule is None or rule.scale is None else tuple(float(value) for value in rule.scale),
        zero=() if rule is None or rule.zeroPoint is None else tuple(int(value) for value in rule.zeroPoint),
        axis=0 if rule is None else int(rule.quantizedDimension),
        data=data,
        buffer=int(tensor.buffer),
        outside=buffer is not None and buffer.offset > 1,
        dynamic=any(int(size) < 0 for size in signature) or 0 in tensor.shape,
    )
