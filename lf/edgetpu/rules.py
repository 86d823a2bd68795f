"""Rules of the Edge TPU for all operators. Limits of single operators: `lf.edgetpu.limits`.

Nothing here was measured on a device: the rules come from Coral's documentation, from output of its compiler in public
reports, and from the sources of TFLite. Only such a rule sends an operator to the CPU. A rule of general knowledge, or
from another processor, makes it uncertain; see `refused`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lf.edgetpu.graph import Operator, Tensor

COMPILER = "16.0.384591198"  # the last release, of 2021
MAPS, UNCERTAIN, CPU = STATES = ("maps", "uncertain", "cpu")

SOURCES = {
    "D": "Coral's documentation",
    "I": "output of the compiler in public reports",
    "S": "source of TFLite",
    "M": "measured on a CPU",
    "K": "general knowledge, not confirmed",
}
SURE = "DIS"

RULES = {
    "operator": "the operator is in the list of supported ones",
    "custom": "no custom operators",
    "version": "the version of the operator is known to TensorFlow 2.6",
    "data-type": "activations are INT8 or UINT8, weights 8-bit, biases INT32",
    "dynamic-shape": "all sizes are fixed",
    "constant": "weights, biases, axes, sizes and paddings are constants of the file",
    "rank": "only the last three dimensions are larger than 1, so the batch is 1",
    "quantization": "every 8-bit tensor has a scale, activations one each",
    "weights": "INT8 weights have zero point 0; one scale per channel in CONV_2D and DEPTHWISE_CONV_2D only",
    "scales": "operators that only move values, or choose among them, keep scale and zero point",
    "option": "limits of the operator in docs/how-to/coral.md",
    "resize": "half_pixel_centers is false (version 2); large ones may stay on the CPU",
    "broadcast": "both operands have the same shape",
    "outside": "constants are inside the table of the file, where a reader of 2021 looks",
    "size": "no activation is larger than 4 MiB",
    "graphs": "the file has one graph",
    "region": "the operator is before the first one on the CPU",
    "file": "the compiler can read the file",
    "compiled": "the compiler made it",
}

MIB = 1 << 20
ON_CHIP = 8 * MIB  # of memory for program and parameters
FITS = 6 * MIB  # parameters that a large model kept on the chip in addition to its program
LARGE, TOO_LARGE = 4 * MIB, 8 * MIB  # of one activation
NEWEST = 145  # BROADCAST_ARGS, the last builtin operator of TensorFlow 2.6
SAME_SCALES = {
    *("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION", "EXPAND_DIMS", "SQUEEZE", "RESHAPE", "MAXIMUM", "MINIMUM"),
    *("REDUCE_MAX", "REDUCE_MIN", "PACK", "PAD", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE"),
    *("STRIDED_SLICE", "SPACE_TO_DEPTH", "SPLIT", "TRANSPOSE"),
}


@dataclass(frozen=True)
class Finding:
    """Reason why an operator may stay on the CPU: a state (not `maps`), a key of RULES, a key of SOURCES, the text."""

    state: str
    rule: str
    source: str
    reason: str


def refused(rule: str, source: str, reason: str) -> Finding:
    """Make a finding for a broken rule: `cpu` for rules in SURE, otherwise uncertain."""
    return Finding(CPU if source in SURE else UNCERTAIN, rule, source, reason)


def doubt(rule: str, source: str, reason: str) -> Finding:
    """Make an uncertain finding for a rule that guarantees nothing."""
    return Finding(UNCERTAIN, rule, source, reason)


def general(operator: Operator) -> Iterator[Finding]:
    """Yield findings on rules of every operator."""
    for tensor in operator.computed:
        if not tensor.quantized:
            yield refused("data-type", "D", f"an activation is {tensor.kind}, expected INT8 or UINT8")
        else:
            yield from _scale(tensor)
        if tensor.dynamic:
            yield refused("dynamic-shape", "D", f"{tensor.label} has a size that is not fixed")
        if any(size > 1 for size in tensor.shape[:-3]):
            what = (
                f"batch {tensor.shape[0]}" if len(tensor.shape) == 4 else "dimensions larger than 1 before its last 3"
            )
            yield refused("rank", "D", f"{tensor.label} {shown(tensor)} has {what}")
        yield from _size(tensor)
    for tensor in operator.constants:
        if tensor.kind not in ("INT8", "UINT8", "INT32", "INT64"):
            yield refused("data-type", "D", f"a constant is {tensor.kind}, expected 8-bit, or INT32")
        if tensor.outside:
            yield refused("outside", "S", "a constant lies outside of the table; the option fix moves it inside")
    if operator.name in SAME_SCALES:
        yield from _same(operator)


def _scale(tensor: Tensor) -> Iterator[Finding]:
    if not tensor.scale:
        yield refused("quantization", "D", f"{tensor.label} has no scale")
    elif len(tensor.scale) > 1:
        yield refused("quantization", "D", f"{tensor.label} has {len(tensor.scale)} scales, expected one")


def _size(tensor: Tensor) -> Iterator[Finding]:
    if tensor.bytes > TOO_LARGE:
        yield doubt("size", "K", f"unlikely: an activation {shown(tensor)} is {mib(tensor.bytes)}, the chip has 8")
    elif tensor.bytes > LARGE:
        yield doubt("size", "K", f"an activation {shown(tensor)} is {mib(tensor.bytes)}")


def _same(operator: Operator) -> Iterator[Finding]:
    values = [tensor for tensor in (*operator.inputs, *operator.outputs) if tensor is not None and tensor.quantized]
    for tensor in values[1:]:
        if (tensor.scale, tensor.zero) != (values[0].scale, values[0].zero):
            yield refused("scales", "M", f"{values[0].label} and {tensor.label} have not the same scale and zero point")
            return


def shown(tensor: Tensor) -> str:
    """Format the shape of a tensor: `1x240x320x64`."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def mib(count: int) -> str:
    """Format bytes: `4.69 MiB`."""
    return f"{count / MIB:.2f} MiB" if count >= MIB // 100 else f"{count} bytes"
