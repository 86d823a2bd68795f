"""SCHEMES: one row per number format."""

from __future__ import annotations

from dataclasses import dataclass

# Photos. SuperPoint in w8a8 loses this much repeatability with 8, 32 and 100: 0.005, 0.001, 0.001 by percentile, and
# by minmax, with 1, 8, 32, 100 and 300: 0.005, 0.004, 0.004, 0.006, 0.012, because each photo can only widen ranges.
LIMIT = 32

STATIC = "lf.quantize.write.qdq:static"
DYNAMIC = "lf.quantize.write.qdq:dynamic"
HALF = "lf.quantize.write.qdq:half"


@dataclass(frozen=True)
class Scheme:
    """A number format. Names follow a grammar: w, bits of weights, a, bits of activations, - and a variant.

    Attributes:
        weights: bits of a weight.
        activations: bits of an activation; 32 if they stay float.
        about: one line for the help, with the cost on ONNX Runtime if it is more than that of float.
        per_channel: True gives every output channel of a convolution its own scale.
        naive: quantize all operators, including fragile heads and pointwise tails.
        write: MODULE:FUNCTION that writes such an ONNX file, see `lf.quantize.write.qdq.static`.
        symmetric: zero is the middle of the range of an activation.
        calibration: default method to find ranges, a name of CALIBRATIONS.
        limit: default number of photos.
        rounding: default method to round weights, a name of ROUNDINGS; weights on a grid from training do not change.
        slow: reason why a file may be slower than its parent, if that is expected.
        writers: rows of WRITERS that write the scheme.
    """

    weights: int
    activations: int
    about: str
    per_channel: bool = True
    naive: bool = False
    write: str = STATIC
    symmetric: bool = False
    calibration: str = "percentile"
    limit: int = LIMIT
    rounding: str = "nearest"
    slow: str = ""
    writers: tuple[str, ...] = ("ort",)

    @property
    def calibrated(self) -> bool:
        """True if the scheme needs photos."""
        return self.activations in (8, 16) and self.static

    @property
    def static(self) -> bool:
        """True if weights lie on grids, with bits that may differ by layer, and ranges come from photos."""
        return self.write == STATIC

    @property
    def integer(self) -> bool:
        """True if convolutions run in integers."""
        return self.activations == 8


_BOTH = ("ort", "tflite")

SCHEMES: dict[str, Scheme] = {
    "w8a8": Scheme(8, 8, "8-bit convolutions, fragile heads in float", rounding="gptq", writers=_BOTH),
    "w8a8-tensor": Scheme(8, 8, "w8a8 with one scale per weight tensor", per_channel=False, writers=_BOTH),
    "w8a8-naive": Scheme(
        8,
        8,
        "all operators in 8 bits, for comparison only",
        per_channel=False,
        naive=True,
        calibration="minmax",
    ),
    "w8a8-liteml": Scheme(
        8,
        8,
        "LiteML's configuration: all operators, per tensor, symmetric, moving average, 100 images",
        per_channel=False,
        naive=True,
        symmetric=True,
        calibration="moving-average",
        limit=100,
    ),
    "w8a8-dynamic": Scheme(
        8,
        8,
        "activation ranges computed for each image, no calibration; not faster than float",
        per_channel=False,
        write=DYNAMIC,
        slow="it measures every activation anew, and ONNX Runtime's ConvInteger has no kernel for VNNI",
    ),
    "w8a16": Scheme(
        8,
        16,
        "16-bit activations, slower than float: to find out whether weights or activations lose accuracy",
        calibration="minmax",
        slow="ONNX Runtime has no 16-bit convolution and computes in float between conversions",
    ),
    "w4a8": Scheme(
        4,
        8,
        "4-bit weights, 8-bit computation: half the size of w8a8, the same speed",
        rounding="gptq",
    ),
    "w3a8": Scheme(3, 8, "w4a8 with 3-bit weights, the same size", rounding="gptq"),
    "w4": Scheme(4, 32, "4-bit weights only, no calibration: an eighth of the size, as fast as float"),
    "fp16": Scheme(
        16,
        16,
        "half precision, no calibration: half the size; for GPUs, not faster on a CPU",
        write=HALF,
        naive=True,
        slow="the CPU has no half-precision convolution in ONNX Runtime: it computes in float between casts",
    ),
}
