"""SCHEMES: one row per number format; ENGINES: who writes it in which dialect. Other numbers, same network."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lf.core import Artifact, UsageError, pick
from lf.quantize.observers import CALIBRATIONS as CALIBRATIONS
from lf.quantize.observers import observer
from lf.quantize.rounding import ROUNDINGS as ROUNDINGS

if TYPE_CHECKING:
    from lf.quantize.calibration import Photos

Progress = Callable[[int, int, str], None]

BITS = (3, 4, 8, 16, 32)  # what the weights of a single layer may have; with 16 and 32 it is computed in float

# Photos. SuperPoint in w8a8 loses this much repeatability with 8, 32 and 100: 0.005, 0.001, 0.001 by percentile, and
# by minmax, with 1, 8, 32, 100 and 300: 0.005, 0.004, 0.004, 0.006, 0.012, for every photo only widens its ranges.
LIMIT = 32


@dataclass(frozen=True)
class Scheme:
    """A number format. The names are a grammar: w, bits of a weight, a, bits of an activation, -what is different.

    Attributes:
        weights: bits of a weight.
        activations: bits of an activation; 32 where they stay float.
        about: one line for the help, with what it costs on ONNX Runtime where that is more than float.
        per_channel: every output channel of a convolution has a scale of its own.
        naive: quantize every operator there is, the fragile heads and the pointwise tails included.
        dynamic: the range of an activation is found anew in every picture.
        symmetric: the zero of an activation is the middle of its range.
        calibration: the usual way to find the ranges, a name of CALIBRATIONS.
        limit: the usual number of photos.
        rounding: the usual way to round weights, a name of ROUNDINGS; those that training left on a grid stay there.
        slow: why a file may be slower than its parent, where that is expected.
    """

    weights: int
    activations: int
    about: str
    per_channel: bool = True
    naive: bool = False
    dynamic: bool = False
    symmetric: bool = False
    calibration: str = "percentile"
    limit: int = LIMIT
    rounding: str = "nearest"
    slow: str = ""

    @property
    def calibrated(self) -> bool:
        """Whether it needs photos."""
        return self.activations in (8, 16) and not (self.dynamic or self.weights == 16)

    @property
    def integer(self) -> bool:
        """Whether its convolutions run in integers."""
        return self.activations == 8


SCHEMES: dict[str, Scheme] = {
    "w8a8": Scheme(8, 8, "8-bit convolutions, fragile heads in float", rounding="gptq"),
    "w8a8-tensor": Scheme(8, 8, "the same with one scale per weight tensor", per_channel=False),
    "w8a8-naive": Scheme(
        8,
        8,
        "every operator, by default: for comparison only",
        per_channel=False,
        naive=True,
        calibration="minmax",
    ),
    "w8a8-liteml": Scheme(
        8,
        8,
        "every operator, per tensor, symmetric, 100 photos, moving average: the PTQ configuration of LiteML",
        per_channel=False,
        naive=True,
        symmetric=True,
        calibration="moving-average",
        limit=100,
    ),
    "w8a8-dynamic": Scheme(
        8,
        8,
        "no photos: activations are scaled anew in every picture; no faster than float",
        per_channel=False,
        dynamic=True,
        slow="it measures every activation anew, and ONNX Runtime's ConvInteger has no kernel for VNNI",
    ),
    "w8a16": Scheme(
        8,
        16,
        "16-bit activations, in the size of w8a8: to tell weights from activations; slower than float",
        calibration="minmax",
        slow="ONNX Runtime has no 16-bit convolution and computes in float between conversions",
    ),
    "w4a8": Scheme(
        4,
        8,
        "4-bit weights, stored as int4 and widened when loaded: the speed of w8a8 in half its size",
        rounding="gptq",
    ),
    "w3a8": Scheme(3, 8, "the same with the 7 weights of 3 bits", rounding="gptq"),
    "w4": Scheme(4, 32, "4-bit weights only, no photos: a file of an eighth at the speed of float"),
    "fp16": Scheme(
        16,
        16,
        "half precision inside, no photos: half the file; for GPUs, no faster than float on a CPU",
        naive=True,
        slow="the CPU has no half-precision convolution in ONNX Runtime: it computes in float between casts",
    ),
}


@dataclass(frozen=True)
class Engine:
    """Who writes schemes in the dialect of what runs them.

    Attributes:
        module: file in `lf.quantize` with `quantize(artifact, name, scheme, photos, out, bits, rounding) -> Artifact`.
        suffix: of the files it writes.
        schemes: those that it knows.
        about: one line for the help.
    """

    module: str
    suffix: str
    schemes: tuple[str, ...]
    about: str


ENGINES: dict[str, Engine] = {
    "ort": Engine("ort", ".onnx", tuple(SCHEMES), "ONNX Runtime on x86: 8 bits where it is fast, the rest in float"),
    "tflite": Engine(
        "tflite", ".tflite", ("w8a8", "w8a8-tensor"), "LiteRT and the Edge TPU: int8 from the input to the outputs"
    ),
}


def quantize(
    artifact: Artifact,
    scheme: str,
    images: Path | None = None,
    out: Path | None = None,
    *,
    engine: str = "ort",
    calibration: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    exclude: Path | None = None,
    bits: Mapping[str, int] | None = None,
    rounding: str | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Artifact:
    """Make a file with fewer bits from a float one.

    Args:
        artifact: a float ONNX file.
        scheme: a row of SCHEMES.
        images: folder of photos to calibrate on; schemes that need none leave it alone. Without it, the ranges count
            that training for this very scheme learned, where the card of the file has them.
        out: the file to write; `<name of the parent>.<scheme><suffix>` in the current folder by default.
        engine: a row of ENGINES, whose dialect is written.
        calibration: how ranges are found, a name of CALIBRATIONS; the scheme's usual one by default.
        limit: use at most so many photos; the scheme's usual number by default.
        seed: chooses the photos when there are more.
        exclude: root of a benchmark none of whose images may be used.
        bits: head or convolution -> bits of its weights, one of BITS, where it is to differ from the scheme; the heads
            that the network's row calls fragile have 32 otherwise. 32 is float; 16 computes in float as well, and may
            lie between layers that compute in integers.
        rounding: how weights are rounded, a name of ROUNDINGS; the scheme's usual one by default.
        progress: (done, total, text), called per photo and per layer.

    Raises:
        UsageError: unknown scheme, engine, calibration, rounding or layer, a rounding that the scheme does not
            allow, no folder of photos, or a file that is not float ONNX.
        BadInput: no usable photo, or photos of a benchmark.
        LfError: the result gives non-finite values, or would not run in integers; nothing is written.
    """
    row, dialect = pick(SCHEMES, scheme, "scheme"), pick(ENGINES, engine, "engine")
    if scheme not in dialect.schemes:
        raise UsageError(f"--for {engine} knows no scheme {scheme}; known: {', '.join(dialect.schemes)}")
    observer(calibration or row.calibration, row.activations)
    for name, count in (bits or {}).items():
        if count not in BITS or ((row.dynamic or row.weights == 16) and count != 32):
            expected = "32" if row.dynamic or row.weights == 16 else ", ".join(map(str, BITS))
            raise UsageError(f"{name}={count}: scheme {scheme} knows layers with {expected} bits")
    float_onnx(artifact)
    out = out or Path(f"{artifact.path.stem}.{scheme}{dialect.suffix}")
    if out.suffix != dialect.suffix:
        raise UsageError(f"{out}: engine {engine} reads {dialect.suffix} files; type: -o {out.stem}{dialect.suffix}")
    trained = bool(learned_ranges(artifact, scheme))
    rounding = _rounding(scheme, rounding or ("nearest" if trained else row.rounding))
    photos = None
    if images is not None or not trained or ROUNDINGS[rounding].settings:
        photos = open_photos(
            scheme,
            images,
            calibration=calibration,
            limit=limit,
            seed=seed,
            exclude=exclude,
            rounding=rounding,
            progress=progress,
        )
    writer = importlib.import_module(f"lf.quantize.{dialect.module}")
    made: Artifact = writer.quantize(artifact, scheme, row, photos, out, bits or {}, rounding)
    return made


def _rounding(scheme: str, rounding: str) -> str:
    """The same name, if the scheme can be rounded so."""
    row = SCHEMES[scheme]
    apart = row.per_channel and not (row.naive or row.dynamic)
    if pick(ROUNDINGS, rounding, "rounding").settings and not apart:
        known = ", ".join(
            name for name, other in SCHEMES.items() if other.per_channel and not other.dynamic | other.naive
        )
        raise UsageError(f"rounding {rounding}: not for scheme {scheme}; it needs a scale per channel: {known}")
    return rounding


def learned_ranges(artifact: Artifact, scheme: str) -> Mapping[str, tuple[float, float]]:
    """What quantization-aware training noted in the card for `scheme`; empty where that was not done.

    Returns:
        (low, high) of `<convolution>.input` and `<convolution>.output`.
    """
    steps = [step for step in artifact.card.made if step.get("command") == "train" and step.get("scheme") == scheme]
    return {place: (float(low), float(high)) for place, (low, high) in steps[-1]["ranges"].items()} if steps else {}


def float_onnx(artifact: Artifact) -> Artifact:
    """The same artifact, if it is what quantization starts from.

    Raises:
        UsageError: it is not float, or no ONNX file.
    """
    if artifact.card.features:
        raise UsageError(
            f"{artifact.path}: has its decode inside, and quantize starts from raw heads; quantize the file it is made "
            "from, then type: lf export QUANTIZED.onnx --cut features"
        )
    if artifact.path.suffix != ".onnx" or artifact.card.scheme != "fp32":
        raise UsageError(
            f"{artifact.path}: quantize starts from a float .onnx file, this one is {artifact.card.scheme} "
            f"{artifact.path.suffix}; make one with: lf export CHECKPOINT --to onnx"
        )
    return artifact


def open_photos(
    scheme: str,
    images: Path | None,
    *,
    calibration: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    exclude: Path | None = None,
    rounding: str = "nearest",
    progress: Progress = lambda done, total, text: None,
) -> Photos | None:
    """The photos that a scheme is calibrated on, None if it needs none; see `quantize`.

    Raises:
        UsageError: unknown scheme or calibration, or no folder of photos.
        BadInput: no usable photo, or photos of a benchmark.
    """
    row = pick(SCHEMES, scheme, "scheme")
    method = calibration or row.calibration
    observe = observer(method, row.activations)
    looks = bool(ROUNDINGS[rounding].settings)
    if not (row.calibrated or looks):
        return None
    if images is None and looks and not row.calibrated:
        raise UsageError(f"rounding {rounding} needs photos to look at; type: --images DIR")
    if images is None:
        raise UsageError(
            f"scheme {scheme} needs photos to calibrate on; type: --images DIR (only weights that lf train "
            "made for this very scheme bring their ranges along, see: lf train distil)"
        )
    from lf.quantize.calibration import Photos

    return Photos(images, limit or row.limit, seed, exclude, progress, method, observe)
