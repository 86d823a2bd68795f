"""Step: a command that made or changed a model file, as recorded in its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lf.core.records import Record


@dataclass(frozen=True, kw_only=True)
class Photo(Record):
    """A calibration image: its name and the sha256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Calibration(Record):
    """Calibration of a quantized file.

    Attributes:
        method: calibration method, or `learned`.
        files: the images.
        folder: folder of the images; None for ranges from training.
        count: number of images.
        seed: seed of their choice.
        size: (H, W) px to which they were cropped.
        skipped: number of unreadable images.
    """

    method: str | None = None
    files: list[Photo] = field(default_factory=list)
    folder: str | None = None
    count: int | None = None
    seed: int | None = None
    size: list[int] | None = None
    skipped: int | None = None


@dataclass(frozen=True, kw_only=True)
class Step(Record):
    """One command that made or changed a model file.

    Attributes:
        command: `train`, `export`, `quantize`.
        options: its options.
        parent: sha256 of its input file.
        versions: package -> version.
        teacher: row, origin, sha256 and licence of the teacher network.
        scheme: scheme of quantization-aware training.
        ranges: learned ranges, see `lf.quantize.learned_ranges`.
        calibration: calibration of a quantized file.
        rounding: method and settings of rounding.
        kept_float: layers that are computed in float.
        bits: layer -> bits, if they differ from the scheme.
        integer_convolutions: number of convolutions that compute in integers.
        opset: ONNX operator set of an exported file.
        host: heads that the host computes, see `lf.runtimes.float_heads`.
        parity: differences between the file and its parent.
        warnings: warnings of the command.
        search: budget, drops and cost of a search for bits.
    """

    command: str
    options: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, str] = field(default_factory=dict)
    scheme: str | None = None
    ranges: Any = None
    calibration: Calibration | None = None
    rounding: Mapping[str, Any] = field(default_factory=dict)
    kept_float: list[str] = field(default_factory=list)
    bits: Mapping[str, int] = field(default_factory=dict)
    integer_convolutions: int | None = None
    opset: int | None = None
    host: list[Mapping[str, Any]] = field(default_factory=list)
    parity: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    search: Mapping[str, Any] = field(default_factory=dict)

    @property
    def photos(self) -> dict[str, str]:
        """Return the names of the calibration images by sha256."""
        return {photo.sha256: photo.name for photo in self.calibration.files} if self.calibration else {}
