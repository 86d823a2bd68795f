"""Limits of single operators on the Edge TPU: functions that yield what an operator breaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from lf.edgetpu.graph import Operator, Tensor
from lf.edgetpu.rules import Finding, doubt, mib, refused, shown

Check = Callable[[Operator], Iterator[Finding]]

LARGE_RESHAPE = 1 << 16  # bytes; no limit is documented; one of this size was refused, five smaller ones were not
SOFTMAX = 16_000  # elements
BATCHED = 4  # with so many dimensions the first is the batch


def weights(weights: int, bias: int, channels: int | None) -> Check:
    """Check the inputs number `weights` and `bias`; `channels` is the dimension that may have its own scales."""

    def check(operator: Operator) -> Iterator[Finding]:
        tensor = operator.input(weights)
        if tensor is None or tensor.data is None:
            yield refused("constant", "D", "its weights are no constant")
            return
        if not tensor.quantized:
            yield refused("data-type", "D", f"its weights are {tensor.kind}, expected INT8")
        elif not tensor.scale:
            yield refused("quantization", "D", "its weights have no scale")
        if tensor.kind == "INT8" and any(tensor.zero):
            yield refused("weights", "D", f"its weights have zero point {next(filter(None, tensor.zero))}")
        if len(tensor.scale) > 1 and channels is None:
            yield doubt(
                "weights", "D", "its weights have a scale per channel, which is documented for convolutions only"
            )
        elif len(tensor.scale) > 1 and tensor.axis != channels:
            yield refused("weights", "D", f"the scales of its weights are along dimension {tensor.axis}")
        added = operator.input(bias)
        if added is not None and added.data is None:
            yield refused("constant", "D", "its bias is no constant")
        elif added is not None and added.kind != "INT32":
            yield refused("data-type", "D", f"its bias is {added.kind}, expected INT32")

    return check


def dilation(operator: Operator) -> Iterator[Finding]:
    y, x = operator.option("dilationHFactor", 1), operator.option("dilationWFactor", 1)
    if x != y:
        yield refused("option", "D", f"dilation {y} in y and {x} in x, expected the same")


def not_fused(operator: Operator) -> Iterator[Finding]:
    if operator.option("fusedActivationFunction"):
        yield refused("option", "D", "an activation function is fused into it")


def padding_only(operator: Operator) -> Iterator[Finding]:
    for tensor in operator.constants:
        zero = tensor.zero[0] if tensor.zero else 0
        if len(operator.inputs) != 2 or not tensor.quantized or (tensor.eight_bit() != zero).any():
            yield refused("option", "D", "a constant is more than zeros beside one other input")


def fully_connected(operator: Operator) -> Iterator[Finding]:
    if operator.option("weightsFormat"):
        yield refused("option", "D", "its weights are shuffled")
    yield from _flat(operator.outputs, "its output", "D")


def _flat(tensors: tuple[Tensor | None, ...], what: str, source: str) -> Iterator[Finding]:
    for tensor in tensors:
        if tensor is not None and any(size > 1 for size in tensor.shape[:-1]):
            yield refused("option", source, f"{what} {shown(tensor)} has more than one dimension")


def output_scale(wanted: float, zeros: dict[str, int]) -> Check:
    def check(operator: Operator) -> Iterator[Finding]:
        for tensor in operator.outputs:
            if tensor.scale and tensor.quantized:
                found = tensor.scale[0], tensor.zero[0] if tensor.zero else 0
                if not math.isclose(found[0], wanted, rel_tol=1e-6) or found[1] != zeros[tensor.kind]:
                    expected = f"1/{1 / wanted:g} and {zeros[tensor.kind]}"
                    yield refused("option", "D", f"scale {found[0]:g} and zero point {found[1]}, expected {expected}")

    return check


def constant(index: int, what: str) -> Check:
    def check(operator: Operator) -> Iterator[Finding]:
        tensor = operator.input(index)
        if tensor is not None and tensor.data is None:
            yield refused("constant", "D", f"its {what} are no constant")

    return check


def reduced(operator: Operator) -> Iterator[Finding]:
    values, axes = operator.input(0), operator.input(1)
    found = None if axes is None else axes.integers()
    if values is None or found is None:
        yield refused("constant", "D", "its axes are no constant")
        return
    rank = len(values.shape)
    over = {axis % rank for axis in found} if rank else set()
    if rank >= BATCHED and 0 in over:
        yield refused("option", "D", "it reduces the batch")
    if operator.name == "MEAN" and rank and rank - 1 in over and values.shape[-1] % 4:
        yield refused("option", "D", f"the mean over {values.shape[-1]} channels, expected a multiple of 4")


def packed(operator: Operator) -> Iterator[Finding]:
    for tensor in operator.outputs:
        if len(tensor.shape) >= BATCHED and operator.option("axis") % len(tensor.shape) == 0:
            yield refused("option", "D", "it packs along the batch")


def split(operator: Operator) -> Iterator[Finding]:
    axis, values = operator.input(0), operator.input(1)
    found = None if axis is None else axis.integers()
    if found and values is not None and len(values.shape) >= BATCHED and found[0] % len(values.shape) == 0:
        yield refused("option", "K", "it splits the batch")


def prelu(operator: Operator) -> Iterator[Finding]:
    yield from _flat((operator.input(1),), "alpha", "D")


def resized(operator: Operator) -> Iterator[Finding]:
    if operator.option("halfPixelCenters", False):
        mended = operator.name == "RESIZE_NEAREST_NEIGHBOR"
        hint = "; the option fix repairs whole factors" if mended else ""
        yield refused("resize", "I", f"half_pixel_centers is true: the version is not supported{hint}")
    for tensor in operator.outputs:
        yield doubt("resize", "D", f"to {shown(tensor)}: large ones may stay on the CPU, no limit is documented")


def reshaped(operator: Operator) -> Iterator[Finding]:
    for tensor in operator.outputs:
        if tensor.bytes > LARGE_RESHAPE:
            yield doubt(
                "option", "D", f"of {mib(tensor.bytes)}: large ones may stay on the CPU, no limit is documented"
            )


def squeezed(operator: Operator) -> Iterator[Finding]:
    values = operator.input(0)
    for tensor in operator.outputs if values is not None else ():
        if values is not None and values.shape[len(values.shape) - len(tensor.shape) :] != tensor.shape:
            yield refused("option", "K", f"{shown(values)} to {shown(tensor)} drops more than leading dimensions")


def elementwise(operator: Operator) -> Iterator[Finding]:
    shapes = [shown(tensor) for tensor in operator.inputs if tensor is not None]
    if len(set(shapes)) > 1:
        yield refused("broadcast", "K", f"its operands are {' and '.join(shapes)}")


def strided(operator: Operator) -> Iterator[Finding]:
    strides = operator.input(3)
    found = None if strides is None else strides.integers()
    if found is None:
        yield refused("constant", "D", "its strides are no constant")
    elif any(step != 1 for step in found) or operator.option("ellipsisMask") or operator.option("newAxisMask"):
        yield refused("option", "K", f"strides {found}, expected ones, without ellipsis or new axis")


def softmax(operator: Operator) -> Iterator[Finding]:
    values = operator.input(0)
    yield from _flat((values,), "its input", "K")
    if values is not None and math.prod(values.shape) > SOFTMAX:
        yield refused("option", "K", f"{math.prod(values.shape)} elements, at most {SOFTMAX} are known to map")


def transposed(operator: Operator) -> Iterator[Finding]:
    values, order = operator.input(0), operator.input(1)
    found = None if order is None else order.integers()
    if values is None or found is None:
        yield refused("constant", "D", "its order of dimensions is no constant")
    elif len(values.shape) > BATCHED or (len(values.shape) == BATCHED and found[:1] != [0]):
        yield refused("option", "I", f"{shown(values)} in the order {found} has more than 3 dimensions to move")
    else:
        yield doubt("option", "I", f"in the order {found}: few are supported, it is not known which")
