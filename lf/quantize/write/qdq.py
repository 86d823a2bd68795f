"""ONNX Runtime's QDQ format on x86: uint8 activations, int8 weights, QuantizeLinear and DequantizeLinear.

Other dialects give the same accuracy at a fraction of the speed: int8 activations run 1.6 times slower, uint8 weights
3.3 times, and nothing warns. Only where activations are scaled at run time is it the other way round: its ConvInteger
takes 4.5 times as long with int8 weights as with uint8.
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

OPERATORS = ["Conv", "Relu", "MaxPool"]  # the rest is pointwise: no time to win, and 8 bits break it


def operators(scheme: Scheme) -> list[str]:
    """The operator types that are quantized."""
    if not scheme.naive:
        return OPERATORS
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QLinearOpsRegistry, *QDQRegistry})


def stored(scheme: Scheme, bits: Mapping[str, int], rounding: str) -> dict[str, int]:
    """The convolutions whose weights are integers before a writer sees them, by their bits.

    Eight bits to the nearest number are what the quantizer of ONNX Runtime makes itself.
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
    """Quantize a prepared float graph: weights on grids, activations in ranges that are the same for every picture.

    Args:
        graph: float; left as it is.
        scheme: the number format.
        bits: of the weights of every convolution. With 32 it stays float; with 16 it is float too, but may lie between
            integer ones: ONNX Runtime gives float weights there 8 bits of its own accord, and stored integers not.
        ranges: of the activations, when the scheme is calibrated.
        grids: the weights of the convolutions that `stored` names.
    """
    wide = floats(scheme, bits)
    if grids:
        graph = store(graph, grids)
    return _static(graph, scheme, [*wide, *_between(graph, wide)], ranges) if ranges else graph


def floats(scheme: Scheme, bits: Mapping[str, int]) -> list[str]:
    """The convolutions that compute in float, by their bits, where the scheme has others."""
    return sorted(name for name, count in bits.items() if count > max(8, scheme.weights))


def _between(graph: ModelProto, wide: Sequence[str]) -> list[str]:
    """The Relu and MaxPool that only float convolutions write to and read from: nothing there needs 8 bits."""
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
    """Through the quantizer that `quantize_static` uses; that itself takes ranges from no observers but its own."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    limits = {name: (np.array(r.low, np.float32), np.array(r.high, np.float32)) for name, r in ranges.items()}
    quantizer = QDQQuantizer(
        _copy(graph),
        per_channel=scheme.per_channel,
        reduce_range=False,  # only processors without VNNI need it; it costs a bit
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
    """Let float layers read the picture itself, not the 8-bit steps of it that integer layers beside them read."""
    pictures = {each.name for each in model.graph.input}
    writer = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name in kept and (widened := writer.get(node.input[0])) and widened.op_type == "DequantizeLinear":
            rounded = writer.get(widened.input[0])
            if rounded and rounded.input[0] in pictures:
                node.input[0] = rounded.input[0]


def dynamic(graph: ModelProto, scheme: Scheme, bits: Mapping[str, int], *_: Any) -> ModelProto:
    """Quantize a prepared float graph: the range of an activation is found anew in every picture; see `static`."""
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
