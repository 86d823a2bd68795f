"""ONNX Runtime's QDQ format on x86: uint8 activations, int8 weights, QuantizeLinear and DequantizeLinear.

Other dialects give the same accuracy at a fraction of the speed: int8 activations run 1.6 times slower, uint8 weights
3.3 times, and nothing warns. If activations are scaled at run time, the opposite is true: ConvInteger takes 4.5 times
as long with int8 weights as with uint8.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.quantize import Scheme
from lf.quantize.calibrate.ranges import Range
from lf.quantize.round.weight_grids import Grid, store
from lf.quantize.write.biases import fit_scales
from lf.quantize.write.merge_pointwise import merge

if TYPE_CHECKING:
    from onnx import ModelProto

OPERATORS = ["Conv", "Relu", "MaxPool"]  # others are pointwise: quantizing them saves no time


def operators(scheme: Scheme) -> list[str]:
    """Return the operator types to quantize."""
    if not scheme.naive:
        return OPERATORS
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QLinearOpsRegistry, *QDQRegistry})


def stored(scheme: Scheme, bits: Mapping[str, int], rounding: str) -> dict[str, int]:
    """Return the convolutions whose weights are stored as integers before the writer runs, with their bits.

    ONNX Runtime's quantizer itself rounds to 8 bits by nearest number.
    """
    if not scheme.static:
        return {}
    usual = {8} if scheme.weights == 8 and rounding == "nearest" else set[int]()
    return {name: count for name, count in bits.items() if count not in usual | {32}}


def static(
    graph: ModelProto,
    scheme: Scheme,
    bits: Mapping[str, int],
    ranges: Mapping[str, Range],
    grids: Mapping[str, Grid],
) -> ModelProto:
    """Quantize a prepared float graph: weights on grids, activations in fixed ranges.

    Args:
        graph: the float graph; not changed.
        scheme: the number format.
        bits: bits of the weights of every convolution. With 32 it stays float. With 16 it also computes in float, but
            may be between integer convolutions: there, ONNX Runtime would quantize float weights to 8 bits, but not
            stored integers.
        ranges: ranges of the activations, if the scheme is calibrated.
        grids: the weights of the convolutions of `stored`.
    """
    wide = floats(scheme, bits)
    if grids:
        graph = store(graph, grids)
    return _static(graph, scheme, [*wide, *_between(graph, wide)], ranges) if ranges else graph


def floats(scheme: Scheme, bits: Mapping[str, int]) -> list[str]:
    """Return the convolutions that compute in float because of their bits, if the scheme has integer ones."""
    return sorted(name for name, count in bits.items() if count > max(8, scheme.weights))


def _between(graph: ModelProto, wide: Sequence[str]) -> list[str]:
    """Return the Relu and MaxPool nodes between float convolutions only: they need no 8 bits."""
    convolutions = {node.name for node in graph.graph.node if node.op_type == "Conv"}
    integer = convolutions - set(wide)
    touched = {name for node in graph.graph.node if node.name in integer for name in (*node.input[:1], *node.output)}
    passing = [node for node in graph.graph.node if node.op_type in ("Relu", "MaxPool")]
    for _ in passing:
        for node in passing:
            ends = {node.input[0], node.output[0]}
            if ends & touched:
                touched |= ends
    return [node.name for node in passing if node.input[0] not in touched]


def _static(graph: ModelProto, scheme: Scheme, kept: Sequence[str], ranges: Mapping[str, Range]) -> ModelProto:
    """Run the quantizer behind `quantize_static`, which itself only accepts ranges from its own observers."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    limits = {name: (np.array(r.low, np.float32), np.array(r.high, np.float32)) for name, r in ranges.items()}
    quantizer = QDQQuantizer(
        _copy(graph),
        per_channel=scheme.per_channel,
        reduce_range=False,  # needed only without VNNI; it costs a bit
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt16 if scheme.activations == 16 else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[],
        nodes_to_exclude=kept,
        op_types_to_quantize=operators(scheme),
        extra_options={"ActivationSymmetric": scheme.symmetric, "WeightSymmetric": True},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    made: ModelProto = quantizer.model.model
    fit_scales(made, graph)
    merge(made)
    _unround(made, kept)
    return made


def _unround(model: ModelProto, kept: Sequence[str]) -> None:
    """Let float layers read the image itself instead of its quantized values."""
    pictures = {each.name for each in model.graph.input}
    writer = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name in kept and (widened := writer.get(node.input[0])) and widened.op_type == "DequantizeLinear":
            rounded = writer.get(widened.input[0])
            if rounded and rounded.input[0] in pictures:
                node.input[0] = rounded.input[0]


def dynamic(graph: ModelProto, scheme: Scheme, bits: Mapping[str, int], *_: Any) -> ModelProto:
    """Quantize a prepared float graph with activation ranges computed for every image; see `static`."""
    import onnx
    from onnxruntime import quantization as ort

    with tempfile.TemporaryDirectory(prefix="lf-quantize-") as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "dynamic.onnx")
        onnx.save(graph, source)
        ort.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=floats(scheme, bits),
            per_channel=scheme.per_channel,
            weight_type=ort.QuantType.QUInt8,
        )
        return onnx.load(target)


def half(graph: ModelProto, scheme: Scheme, bits: Mapping[str, int], *_: Any) -> ModelProto:
    """Compute in half precision between the input and the outputs; see `static`."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = ONNXModel(convert_float_to_float16(_copy(graph), keep_io_types=True, node_block_list=floats(scheme, bits)))
    model.topological_sort()
    made: ModelProto = model.model
    return made


def _copy(graph: ModelProto) -> ModelProto:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy
