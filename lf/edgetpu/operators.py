"""OPERATORS: operators of the Edge TPU with the versions and limits that Coral documents.

Versions: an int8 network converted by TensorFlow up to 2.5 has at most `safe`. The compiler reads versions up to
`reads`, those of TensorFlow 2.6 [1]; it refuses QUANTIZE 3, which came with 2.7, CONV_2D 6 with 2.9, TRANSPOSE_CONV 4
with 2.13 [2].

[1] tensorflow/lite/tools/versioning/runtime_version.cc. [2] Issues 631, 845, 879 of google-coral/edgetpu, all of 16.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lf.edgetpu import limits
from lf.edgetpu.graph import Operator
from lf.edgetpu.groups import raised
from lf.edgetpu.rules import NEWEST, Finding, doubt, refused


@dataclass(frozen=True)
class Row:
    """A supported operator.

    Attributes:
        safe: the highest version that an int8 network needs.
        reads: the highest version that the compiler can read.
        checks: its limits.
        known: False if support is not documented in a source here.
    """

    safe: int
    reads: int
    checks: tuple[limits.Check, ...] = ()
    known: bool = True


OPERATORS: dict[str, Row] = {
    "ADD": Row(3, 4, (limits.elementwise,)),
    "SUB": Row(3, 5, (limits.elementwise,)),
    "MUL": Row(3, 5, (limits.elementwise,)),
    "MAXIMUM": Row(3, 4, (limits.elementwise,)),
    "MINIMUM": Row(3, 4, (limits.elementwise,)),
    "SQUARED_DIFFERENCE": Row(2, 2, (limits.elementwise,)),
    "AVERAGE_POOL_2D": Row(2, 3, (limits.not_fused,)),
    "MAX_POOL_2D": Row(2, 3, (limits.not_fused,)),
    "CONCATENATION": Row(2, 3, (limits.not_fused, limits.padding_only)),
    "CONV_2D": Row(5, 5, (limits.weights(1, 2, 0), limits.dilation)),
    "DEPTHWISE_CONV_2D": Row(6, 6, (limits.weights(1, 2, 3), limits.dilation)),
    "TRANSPOSE_CONV": Row(3, 3, (limits.weights(1, 3, None), limits.constant(0, "output sizes"))),
    "FULLY_CONNECTED": Row(9, 9, (limits.weights(1, 2, None), limits.fully_connected)),
    "EXPAND_DIMS": Row(1, 1, (limits.constant(1, "axes"),)),
    "SQUEEZE": Row(1, 2, (limits.squeezed,)),
    "RESHAPE": Row(1, 1, (limits.constant(1, "sizes"), limits.reshaped)),
    "L2_NORMALIZATION": Row(2, 2),
    "LOGISTIC": Row(2, 3, (limits.output_scale(1 / 256, {"INT8": -128, "UINT8": 0}),)),
    "TANH": Row(2, 3, (limits.output_scale(1 / 128, {"INT8": 0, "UINT8": 128}),)),
    "LSTM": Row(3, 4, (), known=False),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Row(2, 3, (), known=False),
    "MEAN": Row(2, 3, (limits.reduced,)),
    "SUM": Row(2, 2, (limits.reduced,)),
    "REDUCE_MAX": Row(2, 3, (limits.reduced,)),
    "REDUCE_MIN": Row(2, 3, (limits.reduced,)),
    "PACK": Row(2, 3, (limits.packed,)),
    "PAD": Row(2, 4, (limits.constant(1, "paddings"),)),
    "PRELU": Row(1, 1, (limits.constant(1, "slopes"), limits.prelu)),
    "QUANTIZE": Row(2, 2),
    "RELU": Row(2, 3),
    "RELU6": Row(2, 3),
    "RELU_N1_TO_1": Row(1, 1),
    "RESIZE_BILINEAR": Row(2, 4, (limits.constant(1, "sizes"), limits.resized)),
    "RESIZE_NEAREST_NEIGHBOR": Row(2, 4, (limits.constant(1, "sizes"), limits.resized)),
    "RSQRT": Row(2, 2, (), known=False),
    "SLICE": Row(2, 5, (limits.constant(1, "starts"), limits.constant(2, "sizes")), known=False),
    "STRIDED_SLICE": Row(2, 6, (limits.strided,), known=False),
    "SOFTMAX": Row(2, 3, (limits.softmax,), known=False),
    "SPACE_TO_DEPTH": Row(2, 2, (), known=False),
    "SPLIT": Row(2, 4, (limits.constant(0, "axes"), limits.split), known=False),
    "TRANSPOSE": Row(2, 5, (limits.transposed,), known=False),
}

# Not supported: the highest version that the compiler reads, and what to do instead.
OTHERS: dict[str, tuple[int, str]] = {
    "DEPTH_TO_SPACE": (2, "upsample to the nearest and convolve, or rearrange on the host"),
    "LEAKY_RELU": (2, "train with RELU or PRELU"),
    "GATHER": (5, "leave it to the host"),
    "GATHER_ND": (3, "leave it to the host"),
    "DIV": (2, "multiply by a constant, or leave it to the host"),
    "SQRT": (1, "leave it to the host"),
    "POW": (1, "leave it to the host"),
    "EXP": (1, "leave it to the host"),
    "LOG": (1, "leave it to the host"),
    "ABS": (4, "leave it to the host"),
    "ARG_MAX": (2, "leave it to the host"),
    "TOPK_V2": (2, "leave it to the host"),
    "CAST": (1, "leave it to the host"),
    "SELECT": (2, "leave it to the host"),
    "SELECT_V2": (1, "leave it to the host"),
    "WHERE": (1, "leave it to the host"),
    "HARD_SWISH": (1, "train with RELU or RELU6"),
    "ELU": (1, "train with RELU"),
    "BATCH_MATMUL": (4, "leave it to the host"),
    "DEQUANTIZE": (4, "let the file end in 8 bits"),
    "SPACE_TO_BATCH_ND": (3, "let the converter fold it into a dilated convolution"),
    "BATCH_TO_SPACE_ND": (3, "let the converter fold it into a dilated convolution"),
}


def unreadable(operator: Operator) -> str | None:
    """Return the reason why the compiler cannot read a file with this operator, or None."""
    row = OPERATORS.get(operator.name)
    reads = row.reads if row else OTHERS.get(operator.name, (None,))[0]
    if operator.code > NEWEST:
        return f"{operator.name} came after TensorFlow 2.6"
    if reads is not None and operator.version > reads:
        hint = "; the option fix repairs it" if raised(operator) else ""
        return f"{operator.name} version {operator.version}, the compiler knows up to {reads}{hint}"
    return None


def particular(operator: Operator) -> Iterator[Finding]:
    """Yield findings on rules of this kind of operator."""
    row = OPERATORS.get(operator.name)
    if row is None:
        hint = f"; {OTHERS[operator.name][1]}" if operator.name in OTHERS else ""
        yield refused("operator", "D", f"not supported{hint}")
        return
    if row.safe < operator.version <= row.reads:
        seen = operator.name.startswith("RESIZE")
        text = f"version {operator.version}, an int8 network needs {row.safe} at most"
        yield refused("version", "I" if seen else "K", text)
    if not row.known:
        yield doubt("operator", "K", "that it is supported is general knowledge, not confirmed")
    for check in row.checks:
        yield from check(operator)
