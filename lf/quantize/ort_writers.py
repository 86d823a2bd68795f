"""The dialect of ONNX Runtime on x86: uint8 activations and int8 weights between QuantizeLinear and DequantizeLinear.

Other dialects give the same accuracy at a fraction of the speed: int8 activations run 1.6 times slower, uint8 weights
3.3 times, and nothing warns. Only where activations are scaled at run time is it the other way round: its ConvInteger
takes 4.5 times as long with int8 weights as with uint8.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lf.quantize import Scheme
from lf.quantize.ranges import Range
from lf.quantize.weights import store

if TYPE_CHECKING:
    from onnx import ModelProto

OPERATORS = ["Conv", "Relu", "MaxPool"]  # the rest is pointwise: no time to win, and 8 bits break it


def operators(scheme: Scheme) -> list[str]:
    """The operator types that are quantized."""
    if not scheme.naive:
        return OPERATORS
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QLinearOpsRegistry, *QDQRegistry})


def write(
    graph: ModelProto, scheme: Scheme, kept: Sequence[str], meant: Collection[str], ranges: Mapping[str, Range]
) -> ModelProto:
    """Quantize a prepared float graph.

    Args:
        graph: float; left as it is.
        scheme: the number format.
        kept: convolutions that stay float.
        meant: the other ones.
        ranges: of the activations, when the scheme is calibrated.
    """
    if scheme.weights == 16:
        return _half(graph, kept)
    if scheme.dynamic:
        return _dynamic(graph, scheme, kept)
    if scheme.weights < 8:
        graph = store(graph, meant, scheme.weights)
    return _static(graph, scheme, kept, ranges) if ranges else graph


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
    return made


def _dynamic(graph: ModelProto, scheme: Scheme, kept: Sequence[str]) -> ModelProto:
    import onnx
    from onnxruntime import quantization as ort

    with tempfile.TemporaryDirectory(prefix="lf-quantize-") as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "dynamic.onnx")
        onnx.save(graph, source)
        ort.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=list(kept),
            per_channel=scheme.per_channel,
            weight_type=ort.QuantType.QUInt8,
        )
        return onnx.load(target)


def _half(graph: ModelProto, kept: Sequence[str]) -> ModelProto:
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = ONNXModel(convert_float_to_float16(_copy(graph), keep_io_types=True, node_block_list=list(kept)))
    half.topological_sort()
    made: ModelProto = half.model
    return made


def _copy(graph: ModelProto) -> ModelProto:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy
