"""WRITERS: quantization writers, one per target runtime."""

from __future__ import annotations

from dataclasses import dataclass

from lf.quantize.schemes import SCHEMES


@dataclass(frozen=True)
class Writer:
    """A writer of quantized files for one runtime.

    Attributes:
        name: name of its row.
        module: dotted name of a module with a function `quantize`: see `lf.quantize.write.ort.quantize`.
        suffix: suffix of the files it writes.
        about: one line for the help.
        one_size: True if its files have a fixed input size.
    """

    name: str
    module: str
    suffix: str
    about: str
    one_size: bool = False

    @property
    def schemes(self) -> tuple[str, ...]:
        """Rows of SCHEMES that it writes."""
        return tuple(name for name, row in SCHEMES.items() if self.name in row.writers)


WRITERS: dict[str, Writer] = {
    "ort": Writer(
        "ort",
        "lf.quantize.write.ort",
        ".onnx",
        "ONNX Runtime on x86: 8 bits where it is fast, the rest in float",
    ),
    "tflite": Writer(
        "tflite",
        "lf.quantize.write.tflite",
        ".tflite",
        "LiteRT and the Edge TPU: int8 from the input to the outputs",
        one_size=True,
    ),
}
