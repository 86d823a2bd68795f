"""Post-training quantization: make a file with fewer bits from a float ONNX file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lf.core import Artifact, BadInput, BadModel, ConversionFailed, UsageError, blaming, files, pick
from lf.formats import onnx_model
from lf.models import check_size, check_tflite, row_of
from lf.quantize.calibrate.observers import CALIBRATIONS as CALIBRATIONS
from lf.quantize.calibrate.observers import observer
from lf.quantize.round.rounding import ROUNDINGS as ROUNDINGS
from lf.quantize.schemes import LIMIT as LIMIT
from lf.quantize.schemes import SCHEMES as SCHEMES
from lf.quantize.schemes import Scheme as Scheme
from lf.quantize.writers import WRITERS as WRITERS
from lf.quantize.writers import Writer as Writer

if TYPE_CHECKING:
    from lf.quantize.calibrate.photos import Photos

Progress = Callable[[int, int, str], None]

BITS = (3, 4, 8, 16, 32)  # allowed bits of the weights of a layer; with 16 and 32 it is computed in float


def quantize(
    artifact: Artifact,
    scheme: str,
    images: Path | None = None,
    out: Path | None = None,
    *,
    writer: str = "ort",
    size: tuple[int, int] | None = None,
    calibration: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    exclude: Path | None = None,
    bits: Mapping[str, int] | None = None,
    rounding: str | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Artifact:
    """Quantize a float ONNX file.

    Args:
        artifact: a float ONNX file.
        scheme: a row of SCHEMES.
        images: folder of calibration photos; schemes without calibration ignore it. Without it, ranges from
            quantization-aware training for this scheme are used, if the card of the file has them.
        out: the file to write; `<name of the parent>.<scheme><suffix>` in the current folder by default.
        writer: a row of WRITERS, for the target runtime.
        size: (H, W) of the input, for a writer of files with a fixed size from a file of free size; 240x320 by
            default.
        calibration: method to find ranges, a name of CALIBRATIONS; the scheme's by default.
        limit: largest number of photos; the scheme's by default.
        seed: seed of the choice of photos.
        exclude: root of a benchmark; none of its images may be used.
        bits: head or convolution -> bits of its weights, one of BITS, if they differ from the scheme. Fragile heads of
            the network's row have 32 by default. 32 is float; 16 also computes in float, and may be between layers that
            compute in integers.
        rounding: method to round weights, a name of ROUNDINGS; the scheme's by default.
        progress: (done, total, text), called per photo and per layer.

    Raises:
        UsageError: unknown scheme, writer, calibration, rounding or layer; a rounding that the scheme does not allow;
            a size that does not fit; no folder of photos; options of photos without calibration; or a file that is not
            float ONNX.
        BadInput: no usable photo, photos of a benchmark, or the float network itself gives non-finite values.
        ConversionFailed: the result gives non-finite values, or would not run in integers; nothing is written.
    """
    float_onnx(artifact)
    if out:
        files.refuse_own(out, artifact.path)
    rounding, photos = prepare(
        artifact,
        scheme,
        images,
        out,
        writer=writer,
        size=size,
        calibration=calibration,
        limit=limit,
        seed=seed,
        exclude=exclude,
        bits=bits,
        rounding=rounding,
        progress=progress,
    )
    if size is not None:
        artifact = _sized(artifact, size, WRITERS[writer])
    out = out or usual_name(artifact, scheme, writer)
    files.refuse_own(out, artifact.path)
    write = importlib.import_module(WRITERS[writer].module).quantize
    try:
        with blaming(artifact.path):
            made: Artifact = write(artifact, scheme, SCHEMES[scheme], photos, out, bits or {}, rounding)
    except BadModel as error:
        if error.path == artifact.path:
            raise
        raise ConversionFailed(
            f"{artifact.path}: quantized, {error.what}; nothing was written, choose another scheme"
        ) from error
    return made


def prepare(
    artifact: Artifact,
    scheme: str,
    images: Path | None = None,
    out: Path | None = None,
    *,
    writer: str = "ort",
    size: tuple[int, int] | None = None,
    calibration: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    exclude: Path | None = None,
    bits: Mapping[str, int] | None = None,
    rounding: str | None = None,
    progress: Progress = lambda done, total, text: None,
) -> tuple[str, Photos | None]:
    """Check the options of `quantize` as far as possible without the ONNX file.

    Args:
        artifact: the ONNX file, or the checkpoint from which it will be exported.
        scheme: see `quantize`, also for the other arguments.

    Returns:
        The rounding, and the photos or None without calibration.

    Raises:
        UsageError, BadInput: see `quantize`.
    """
    row, dialect = pick(SCHEMES, scheme, "scheme"), pick(WRITERS, writer, "writer")
    if scheme not in dialect.schemes:
        raise UsageError(f"`writer={writer}` knows no scheme {scheme}; known: {', '.join(dialect.schemes)}")
    if dialect.suffix == ".tflite":
        check_tflite(artifact)
    observer(calibration or row.calibration, row.activations)
    for name, count in (bits or {}).items():
        known = BITS if row.static else (32,)
        if count not in known:
            expected = ", ".join(map(str, known))
            raise UsageError(f"{name}={count}: scheme {scheme} knows layers with {expected} bits")
    if size is not None:
        _sized(artifact, size, dialect)
    if out and out.suffix != dialect.suffix:
        raise UsageError(f"{out}: writer {writer} makes {dialect.suffix} files; type: -o {out.stem}{dialect.suffix}")
    trained = bool(learned_ranges(artifact, scheme))
    rounding = _rounding(scheme, rounding or ("nearest" if trained else row.rounding))
    if images is not None or not trained or ROUNDINGS[rounding].settings:
        return rounding, open_photos(
            scheme,
            images,
            calibration=calibration,
            limit=limit,
            seed=seed,
            exclude=exclude,
            rounding=rounding,
            progress=progress,
        )
    given = {"calibration": calibration, "limit": limit, "seed": seed or None, "exclude": exclude}
    if unused := [f"`{name}`" for name, value in given.items() if value is not None]:
        raise UsageError(
            f"{', '.join(unused)}: {artifact.path} has ranges that were learned for {scheme}; "
            "leave that out, or calibrate on photos: `images=DIR`"
        )
    return rounding, None


def usual_name(artifact: Artifact, scheme: str, writer: str = "ort") -> Path:
    """Return the default file for a quantized artifact, in the current folder."""
    return Path(f"{artifact.path.stem}.{scheme}{WRITERS[writer].suffix}")


def _sized(artifact: Artifact, size: tuple[int, int], writer: Writer) -> Artifact:
    """Return the same file with a fixed input size, for a writer that needs one."""
    asked, own = f"`size={size[0]}x{size[1]}`", artifact.card.size
    if not writer.one_size:
        raise UsageError(f"{asked}: `writer={writer.name}` keeps the size of {artifact.path}; leave `size` out")
    if own not in (None, size):
        raise UsageError(f"{asked}: {artifact.path} takes {own[0]}x{own[1]} only; leave `size` out")
    check_size(size, row_of(artifact.card), artifact.card.model)
    return replace(artifact, card=replace(artifact.card, input=(artifact.card.input[0], *size)))


def _rounding(scheme: str, rounding: str) -> str:
    """Return the rounding after checking that the scheme allows it."""
    row = SCHEMES[scheme]
    apart = row.per_channel and row.static and not row.naive
    if pick(ROUNDINGS, rounding, "rounding").settings and not apart:
        known = ", ".join(
            name for name, other in SCHEMES.items() if other.per_channel and other.static and not other.naive
        )
        raise UsageError(f"rounding {rounding}: not for scheme {scheme}; it needs a scale per channel: {known}")
    return rounding


def learned_ranges(artifact: Artifact, scheme: str) -> Mapping[str, tuple[float, float]]:
    """Return the ranges for `scheme` that training recorded in the card; empty if there are none.

    Returns:
        (low, high) of `<convolution>.input` and `<convolution>.output`.

    Raises:
        BadInput: the card lacks the ranges, or they are invalid.
    """
    steps = [step for step in artifact.card.made if step.command == "train" and step.scheme == scheme]
    try:
        return {place: (float(low), float(high)) for place, (low, high) in steps[-1].ranges.items()} if steps else {}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{artifact.path}: the learned ranges in its card are damaged ({error}); make it again"
        ) from error


def float_onnx(artifact: Artifact) -> Artifact:
    """Return the artifact after checking that it is a float ONNX file that can be quantized.

    Raises:
        UsageError: it is not float, or not an ONNX file.
        BadInput: another tool has optimised or quantized it.
    """
    if artifact.card.features:
        raise UsageError(
            f"{artifact.path}: contains its decoder, and quantize starts from raw heads; quantize the file it is made "
            "from, then type: `export(QUANTIZED.onnx, cut=features)`"
        )
    if artifact.path.suffix != ".onnx" or artifact.card.scheme != "fp32":
        raise UsageError(
            f"{artifact.path}: quantize starts from a float .onnx file, this one is {artifact.card.scheme} "
            f"{artifact.path.suffix}; make one with: `export(CHECKPOINT, to=onnx)`"
        )
    onnx_model.refuse_rewritten(artifact.path, "quantize")
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
    """Open the calibration photos of a scheme, None if it needs none; see `quantize`.

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
        raise UsageError(f"rounding {rounding} needs calibration images; type: `images=DIR`")
    if images is None:
        raise UsageError(
            f"scheme {scheme} needs calibration images; type: `images=DIR` (only weights that lf train "
            "made for this very scheme bring their ranges along, see: lf train distil)"
        )
    from lf.quantize.calibrate.photos import Photos

    return Photos(images, limit or row.limit, seed, exclude, progress, method, observe)
