"""SCHEMES: one row per number format; ENGINES: who writes it in which dialect. Other numbers, same network."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lf.core import Artifact, UsageError, pick

Progress = Callable[[int, int, str], None]

LIMIT = 32  # photos; SuperPoint's detector reads 28.1 dB with 8, 28.0 with 32, 27.3 with 100: more only widens ranges


@dataclass(frozen=True)
class Scheme:
    """A number format.

    Attributes:
        weights: bits of a weight.
        activations: bits of an activation.
        per_channel: every output channel of a convolution has a scale of its own.
        naive: quantize every operator there is, the fragile heads and the pointwise tails included.
        about: one line for the help.
    """

    weights: int
    activations: int
    per_channel: bool
    naive: bool
    about: str


SCHEMES: dict[str, Scheme] = {
    "w8a8": Scheme(8, 8, per_channel=True, naive=False, about="8-bit convolutions, fragile heads in float"),
    "w8a8-tensor": Scheme(8, 8, per_channel=False, naive=False, about="the same with one scale per weight tensor"),
    "w8a8-naive": Scheme(8, 8, per_channel=False, naive=True, about="every operator, by default: for comparison only"),
}

ENGINES: dict[str, str] = {  # engine -> file in `lf.quantize` that writes its dialect
    "ort": "ort_static",
}


def quantize(
    artifact: Artifact,
    scheme: str,
    images: Path,
    out: Path | None = None,
    *,
    engine: str = "ort",
    limit: int = LIMIT,
    seed: int = 0,
    exclude: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Artifact:
    """Make a file with fewer bits from a float one.

    Args:
        artifact: a float ONNX file.
        scheme: a row of SCHEMES.
        images: folder of photos to calibrate on.
        out: the file to write; `<name of the parent>.<scheme>.onnx` in the current folder by default.
        engine: a row of ENGINES, whose dialect is written.
        limit: use at most so many photos.
        seed: chooses the photos when there are more.
        exclude: root of a benchmark none of whose images may be used.
        progress: (done, total, text), called per photo.

    Raises:
        UsageError: unknown scheme or engine, or a file that is not float ONNX.
        BadInput: no usable photo, or photos of a benchmark.
        LfError: the result gives non-finite values, or would not run in integers; nothing is written.
    """
    row, module = pick(SCHEMES, scheme, "scheme"), pick(ENGINES, engine, "engine")
    if artifact.path.suffix != ".onnx" or artifact.card.scheme != "fp32":
        raise UsageError(
            f"{artifact.path}: quantize starts from a float .onnx file, this one is {artifact.card.scheme} "
            f"{artifact.path.suffix}; make one with: lf export CHECKPOINT --to onnx"
        )
    out = out or Path(f"{artifact.path.stem}.{scheme}.onnx")
    if out.suffix != ".onnx":
        raise UsageError(f"{out}: engine {engine} reads .onnx files; type: -o {out.stem}.onnx")
    from lf.quantize.calibration import Photos

    photos = Photos(images, limit, seed, exclude, progress)
    made: Artifact = importlib.import_module(f"lf.quantize.{module}").quantize(artifact, scheme, row, photos, out)
    return made
