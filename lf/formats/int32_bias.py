"""Check int32 biases of quantized ONNX and TFLite files for overflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput, GateFailed
from lf.formats import tflite

LIMIT = 2**30  # half of int32; the other half is for the products
MARGIN = 1 + 2.0**-20  # larger than float32 rounding of a scale and of a product of scales
SCALES = ("DequantizeLinear", "QLinearConv")


def raised(scale: Array, numbers: Array, readers: Sequence[tuple[Array, float]]) -> Array:
    """Return the scales float32 of weights that leave every bias within LIMIT.

    A bias has the scale of the input times that of the weights, so the latter must be at least |bias| / (scale of the
    input * LIMIT). Rows of zeros get exactly that: at any other scale their bias would move by whole steps.

    Args:
        scale: (O,) one per channel, or (1,) one for all.
        numbers: (O, K) or (1, K) weights as integers.
        readers: (bias (O,), scale of the input) of every convolution that has these weights.
    """
    least = np.zeros(len(scale))
    for bias, entry in readers:
        wanted = np.abs(bias).astype(np.float64) / (entry * LIMIT) * MARGIN
        least = np.maximum(least, wanted if len(scale) > 1 else wanted.max())
    # neither a scale nor its product with that of the input may be subnormal
    normal = np.finfo(np.float32).tiny / min(1.0, *(entry for _, entry in readers)) * MARGIN
    free = ~numbers.any(1) & (least > 0)
    return np.maximum(np.where(free, 0, scale), np.maximum(least, normal)).astype(np.float32)


def refuse_large(path: Path, suffix: str, data: bytes) -> None:
    """Raise GateFailed if a bias of an .onnx or .tflite file lies beyond LIMIT.

    Args:
        path: path for the error.
        suffix: suffix of the format; other formats have no such biases.
        data: the file. A damaged .tflite passes: opening it raises an error.
    """
    readers: dict[str, Callable[[bytes], Iterator[tuple[str, Array]]]] = {".onnx": _onnx, ".tflite": _tflite}
    for name, values in readers[suffix](data) if suffix in readers else ():
        largest = int(np.abs(values.astype(np.int64)).max(initial=0))
        if largest > LIMIT:
            raise GateFailed(
                f"{path}: the int32 bias {name} reaches {largest}, expected at most {LIMIT}: its convolution would "
                "overflow; nothing was written, quantize the float file again"
            )


def _onnx(data: bytes) -> Iterator[tuple[str, Array]]:
    """Yield (name, values) of every int32 constant with a scale."""
    import onnx

    graph = onnx.load_from_string(data).graph
    biases = {name for node in graph.node if node.op_type in SCALES for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in biases and tensor.data_type == onnx.TensorProto.INT32:
            yield tensor.name, onnx.numpy_helper.to_array(tensor)


def _tflite(data: bytes) -> Iterator[tuple[str, Array]]:
    objects = tflite.schema()
    try:
        model = tflite.read(data, "the quantized model")
    except BadInput:
        return
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        held, rule = model.buffers[tensor.buffer].data, tensor.quantization
        scaled = rule is not None and rule.scale is not None and len(rule.scale)
        if scaled and held is not None and tensor.type == objects.TensorType.INT32:
            yield tensor.name.decode(errors="replace"), np.frombuffer(np.asarray(held, np.uint8).tobytes(), np.int32)
