"""Rewrite grouped convolutions as dense ones with zero weights between groups.

A grouped convolution in TFLite needs version 6 of CONV_2D, which the compiler refuses, and converters give that version
to all convolutions of the file. The dense form adds the same integers, so its result is bit-identical; the number of
multiplications grows by the number of groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lf.core import Array
from lf.edgetpu.graph import Operator
from lf.formats import tflite

NAME, DENSE = "CONV_2D", 3  # and the version of one of int8 without groups
INPUT, WEIGHTS = 0, 1  # of the tensors that a convolution reads


def groups(operator: Operator) -> int:
    """Return the number of groups of a convolution; 1 for dense convolutions and other operators."""
    image, weights = operator.input(INPUT), operator.input(WEIGHTS)
    if operator.name != NAME or image is None or weights is None:
        return 1
    if len(image.shape) != 4 or len(weights.shape) != 4:
        return 1
    return max(1, image.shape[3] // max(1, weights.shape[3]))


def mendable(operator: Operator) -> bool:
    """Return whether it is a grouped convolution with symmetric int8 weights that can be made dense."""
    image, weights, parts = operator.input(INPUT), operator.input(WEIGHTS), groups(operator)
    if parts == 1 or image is None or weights is None or weights.data is None:
        return False
    divided = weights.shape[3] * parts == image.shape[3] and not weights.shape[0] % parts
    return divided and weights.kind == "INT8" and image.quantized and not any(weights.zero)


def raised(operator: Operator) -> bool:
    """Return whether it is an int8 convolution, dense or `mendable`, with a higher version than it needs."""
    weights = operator.input(WEIGHTS)
    if operator.name != NAME or operator.version <= DENSE or weights is None or weights.kind != "INT8":
        return False
    eight = all(tensor.kind == "INT8" for tensor in (operator.input(INPUT), *operator.outputs) if tensor is not None)
    return eight and (groups(operator) == 1 or mendable(operator))


def make_dense(model: Any, operator: Any, view: Operator) -> None:
    """Convert a grouped convolution to a dense one, with weights for all channels of its input.

    Args:
        model: result of `lf.formats.tflite.read`; its `operator` is changed.
        operator: operator of the model.
        view: the same as an `Operator`; it is `mendable`.
    """
    weights = view.input(WEIGHTS)
    assert weights is not None
    assert weights.data is not None
    kernel = np.frombuffer(weights.data.tobytes(), np.int8).reshape(weights.shape)
    dense = _spread(kernel, groups(view))
    schema, tensors = tflite.schema(), model.subgraphs[view.graph].tensors
    was = tensors[operator.inputs[WEIGHTS]]
    model.buffers.append(schema.BufferT(data=dense.view(np.uint8).ravel()))
    tensors.append(schema.TensorT(**{**vars(was), "shape": [*dense.shape], "buffer": len(model.buffers) - 1}))
    operator.inputs = [*operator.inputs]
    operator.inputs[WEIGHTS] = len(tensors) - 1


def _spread(kernel: Array, parts: int) -> Array:
    """Spread weights (out, h, w, in / parts) to (out, h, w, in), with zeros between different groups."""
    out, height, width, each = kernel.shape
    dense = np.zeros((parts, out // parts, height, width, parts, each), np.int8)
    for part, own in enumerate(kernel.reshape(parts, out // parts, height, width, each)):
        dense[part, ..., part, :] = own
    return dense.reshape(out, height, width, parts * each)
