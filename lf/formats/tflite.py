"""Read and write TFLite flatbuffers by their public schema (schema.fbs, version 3).

Input files are untrusted, so everything that other parts of lf or an interpreter use without a check is checked here:
positions of tables, how often they are shared, indices of tensors, buffers and operators.
"""

from __future__ import annotations

import copy
import io
import math
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from lf.core import Array, BadInput, ConversionFailed, Unavailable
from lf.core.packages import pip

IDENTIFIER = b"TFL3"
VERSION = 3  # of the schema
ALIGNMENT = 16  # bytes of constants: `force_align` in the schema
MAX_VALUES = 1 << 29  # of one tensor
ELEMENT_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 9: 1, 10: 8, 12: 8, 15: 4, 16: 2}  # by TensorType
# fields of each table that `ModelT` unpacks, other than numbers
TEXTS = {
    "Model": ("Description",),
    "OperatorCode": ("CustomCode",),
    "SubGraph": ("Name",),
    "Tensor": ("Name",),
    "Metadata": ("Name",),
    "SignatureDef": ("SignatureKey",),
    "TensorMap": ("Name",),
    "ExternalBufferGroup": ("Name",),
    "ExternalBuffer": ("Packing",),
}
LISTS = {
    "Model": (
        *("OperatorCodes", "Subgraphs", "Buffers", "Metadata", "SignatureDefs"),
        *("ExternalBufferGroups", "ExternalBuffers"),
    ),
    "SubGraph": ("Tensors", "Operators"),
    "SignatureDef": ("Inputs", "Outputs"),
}
WORDY = {111}  # options of operators with texts in them: VarHandleOptions
WORDY_2 = {5, 21}  # StablehloCustomCallOptions, StableHLOCompositeOptions
STRAY = (AssertionError, AttributeError, IndexError, OverflowError, TypeError, ValueError, struct.error)


def schema() -> Any:
    """Return the generated classes `ModelT`, `TensorT`, `BuiltinOperator` ...

    Raises:
        Unavailable: not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise Unavailable(f"reading .tflite files needs {error.name}; type: {pip('edge')}") from error
    return schema_py_generated


def read(data: bytes, where: str) -> Any:
    """Parse a TFLite file, without an archive at its end.

    Returns:
        `ModelT`. Vectors of numbers are read-only numpy arrays, missing ones None. Constants outside the table
        (`Buffer.offset` and `size`) are also put into `data`; `offset` marks them.

    Raises:
        BadInput: not a TFLite model, damaged, or with unsupported content: sparse tensors, variables, StableHLO.
        Unavailable: the schema is not installed.
    """
    objects = schema()
    if data[4:8] != IDENTIFIER:
        raise BadInput(f"{where}: not a TFLite model (no TFL3 identifier)")
    data = without_archive(data)
    try:
        _affordable(objects.Model.GetRootAs(data), len(data))
        model = objects.ModelT.InitFromPackedBuf(data)
        for buffer in model.buffers or ():
            if buffer.offset > 1 or buffer.size > 1:  # 0 and 1 mean: nothing outside
                buffer.data = _outside(data, buffer.offset, buffer.size)
        for operator in (operator for graph in model.subgraphs or () for operator in graph.operators or ()):
            if operator.largeCustomOptionsSize:
                outside = operator.largeCustomOptionsOffset, operator.largeCustomOptionsSize
                operator.customOptions = _outside(data, *outside)
                operator.largeCustomOptionsOffset = operator.largeCustomOptionsSize = 0
        _sound(model)
    except STRAY as error:
        raise BadInput(f"{where}: a damaged TFLite model ({error or type(error).__name__}); make it again") from error
    return model


def write(model: Any) -> bytes:
    """Serialise a `ModelT`, with all constants inside the table, aligned as in the schema; `model` does not change.

    Raises:
        ConversionFailed: the file would be larger than 2 GB, the limit of a table.
    """
    schema()
    from flatbuffers import Builder
    from flatbuffers.builder import BuilderSizeError

    packed = copy.copy(model)
    packed.buffers = [_Aligned(buffer.data) for buffer in model.buffers or ()]
    builder = Builder(1 << 16)
    try:
        builder.Finish(packed.Pack(builder), IDENTIFIER)
    except BuilderSizeError as error:
        raise ConversionFailed("a TFLite model can have 2 GB at most; this one has more") from error
    return bytes(builder.Output())


def without_archive(data: bytes) -> bytes:
    """Remove a zip archive at the end of the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return data[: min((info.header_offset for info in archive.infolist()), default=len(data))]
    except Exception:  # no archive, or a damaged one, which raises many kinds of errors; `lf.formats.cards` reads it
        return data


class _Aligned:
    """A buffer for `ModelT.Pack`; the generated class omits the alignment."""

    def __init__(self, data: Any) -> None:
        self._data = b"" if data is None else np.asarray(data, np.uint8).tobytes()

    def Pack(self, builder: Any) -> int:
        """Append the buffer; return its offset."""
        objects, vector = schema(), None
        if self._data:
            builder.StartVector(1, len(self._data), ALIGNMENT)
            builder.head -= len(self._data)
            builder.Bytes[builder.head : builder.head + len(self._data)] = self._data
            builder.vectorNumElems = len(self._data)
            vector = builder.EndVector()
        objects.BufferStart(builder)
        if vector is not None:
            objects.BufferAddData(builder, vector)
        end: int = objects.BufferEnd(builder)
        return end


def _outside(data: bytes, offset: int, size: int) -> Array:
    if offset + size > len(data):
        raise ValueError(f"{size} bytes at {offset} in a file of {len(data)}")
    return np.frombuffer(data, np.uint8, size, offset)


def _affordable(model: Any, size: int) -> None:
    """Raise ValueError if unpacking would give more bytes than the file has: tables can be shared many times."""
    left = size
    for cost in _costs(model):
        left -= cost
        if left < 0:
            raise ValueError("its tables overlap")


def _costs(table: Any) -> Iterator[int]:
    """Yield the bytes of texts and lists of tables, each as often as it would be unpacked."""
    kind = type(table).__name__
    for name in TEXTS.get(kind, ()):
        yield len(getattr(table, name)() or b"")
    for name in LISTS.get(kind, ()):
        if count := getattr(table, f"{name}Length", int)():  # older schemas lack the last fields
            yield 4 * count
            for index in range(count):
                yield from _costs(getattr(table, name)(index))
    if kind == "Tensor" and (table.Sparsity() is not None or table.VariantTensorsLength()):
        raise ValueError("sparse and variant tensors are not known here")
    if kind == "Operator" and (table.BuiltinOptionsType() in WORDY or table.BuiltinOptions2Type() in WORDY_2):
        raise ValueError("variables and composite operators are not known here")


def _sound(model: Any) -> None:
    """Raise ValueError if an index points nowhere, or a constant does not fill its tensor; fill in absent lists."""
    model.operatorCodes, model.buffers = model.operatorCodes or [], model.buffers or []
    model.subgraphs = model.subgraphs or []
    _demand(model.version == VERSION, f"version {model.version} of the schema, expected {VERSION}")
    _demand(len(model.subgraphs) > 0, "no graph in it")
    for graph in model.subgraphs:
        graph.tensors, graph.operators = graph.tensors or [], graph.operators or []
        for tensor in graph.tensors:
            _sound_tensor(tensor, model.buffers)
        graph.inputs, graph.outputs = (_indices(each, 0, graph.tensors) for each in (graph.inputs, graph.outputs))
        for operator in graph.operators:
            _demand(operator.opcodeIndex < len(model.operatorCodes), "an operator of an unknown kind")
            operator.inputs = _indices(operator.inputs, -1, graph.tensors)
            rest = operator.inputs[: max(2, len(operator.inputs) - 1)]  # -1 leaves out a bias, which comes last
            _demand(not (rest < 0).any(), "an operator without one of its inputs")
            operator.outputs = _indices(operator.outputs, 0, graph.tensors)
    for signature in model.signatureDefs or ():
        _demand(signature.subgraphIndex < len(model.subgraphs), "a signature of an unknown graph")
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
            _demand(entry.tensorIndex < len(tensors), "a signature of an unknown tensor")


def _sound_tensor(tensor: Any, buffers: list[Any]) -> None:
    tensor.shape = np.zeros(0, np.int32) if tensor.shape is None else tensor.shape
    tensor.name = tensor.name or b""
    tensor.name.decode()  # a UnicodeDecodeError is a ValueError
    _demand(0 <= tensor.buffer < max(1, len(buffers)), "a tensor of an unknown buffer")
    _demand(tensor.shape.size == 0 or int(tensor.shape.min()) >= 0, "a tensor of negative size")
    values = math.prod(tensor.shape.tolist())
    _demand(values <= MAX_VALUES, f"a tensor of {values} values")
    data = buffers[tensor.buffer].data if buffers else None
    if data is not None and len(data) and (each := ELEMENT_BYTES.get(tensor.type)):
        _demand(len(data) == values * each, f"a constant of {len(data)} bytes for {values} values of {each}")
    if (rule := tensor.quantization) is not None and rule.scale is not None and len(rule.scale):
        zeros = 0 if rule.zeroPoint is None else len(rule.zeroPoint)
        axis = rule.quantizedDimension
        wanted = tensor.shape[axis] if len(rule.scale) > 1 and 0 <= axis < len(tensor.shape) else 1
        _demand(len(rule.scale) == wanted, f"{len(rule.scale)} scales for {wanted} channels")
        _demand(zeros in (0, 1, len(rule.scale)), f"{zeros} zero points for {len(rule.scale)} scales")
        _demand(bool(np.isfinite(rule.scale).all() and (rule.scale >= 0).all()), "a scale that is no positive number")


def _indices(found: Array | None, least: int, tensors: list[Any]) -> Array:
    found = np.zeros(0, np.int32) if found is None else found
    inside = not found.size or (int(found.min()) >= least and int(found.max()) < len(tensors))
    _demand(inside, f"a tensor of {len(tensors)} that is not there")
    return found


def _demand(true: bool, text: str) -> None:
    if not true:
        raise ValueError(text)
