"""Quantize for ONNX Runtime: choose float layers and the writer, and run the checks."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf import __version__
from lf.core import Array, Artifact, BadModel, UsageError
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.formats import onnx_model
from lf.formats.derive import Draft, derive
from lf.models import Model
from lf.quantize import Scheme, learned_ranges
from lf.quantize.calibrate.photos import SIZE, Photos, pinned
from lf.quantize.calibrate.ranges import Range, learned, measure
from lf.quantize.round.rounding import PIXELS, ROUNDINGS, Pictures
from lf.quantize.round.weight_grids import OPSET, PER_CHANNEL, lifted, untie
from lf.quantize.write import checks, qdq
from lf.quantize.write.head_layers import last_convolutions

if TYPE_CHECKING:
    from onnx import ModelProto

CLOSE = 1.0  # px between a float keypoint and its quantized counterpart


def quantize(
    artifact: Artifact,
    name: str,
    scheme: Scheme,
    photos: Photos | None,
    out: Path,
    asked: Mapping[str, int],
    rounding: str,
) -> Artifact:
    """Quantize a float ONNX file; see `lf.quantize.quantize`."""
    reference = Extractor(pinned(artifact), "ort-cpu")
    with quiet():
        return derive(
            artifact,
            out,
            "quantize",
            lambda folder: _converted(artifact, reference, name, scheme, photos, asked, rounding, folder),
        )


def _converted(
    artifact: Artifact,
    reference: Extractor,
    name: str,
    scheme: Scheme,
    photos: Photos | None,
    asked: Mapping[str, int],
    rounding: str,
    folder: Path,
) -> Draft:
    import onnx

    graph, bits = _prepared(artifact, reference, scheme, asked, folder)
    kept = qdq.floats(scheme, bits)
    meant = [layer for layer in bits if layer not in kept]
    integer = meant if scheme.integer else []
    ranges = _ranges(artifact, graph, name, scheme, photos, reference, meant)
    grid_bits = qdq.stored(scheme, bits, rounding)
    method, pictures = ROUNDINGS[rounding], _pictures(photos, rounding, reference, scheme, ranges)
    model = _write(scheme)(graph, scheme, bits, ranges, method.run(graph, grid_bits, pictures))
    data = stamped(model, artifact.card.model)
    onnx.checker.check_model(data)

    def compare(made: Artifact) -> dict[str, Any]:
        checks.integers(artifact.path, data, integer, {*bits} - {*integer})
        figures = _compared(artifact.path, data, reference, made, scheme)
        warnings = [
            *(photos.warnings() if photos else []),
            *checks.ties(figures, _loose(graph, reference.model, kept)),
            *(checks.mixed(graph, model, reference.model.heads, ranges) if scheme.integer else []),
        ]
        return {"parity": figures, "warnings": warnings}

    notes: dict[str, Any] = {}
    if photos or ranges:
        notes["calibration"] = photos.manifest() if photos else {"method": "learned", "files": []}
    if grid_bits:
        notes["rounding"] = {"method": rounding, **method.settings, "photos": len(pictures.tensors)}
    notes["kept_float"] = kept
    notes["bits"] = {layer: count for layer, count in bits.items() if count not in (scheme.weights, 32)}
    notes["integer_convolutions"] = len(integer)
    card = artifact.card.step(scheme=name)
    return Draft(data, card, {"scheme": name, "engine": "ort"}, _versions(), compare, notes)


def _write(scheme: Scheme) -> Callable[..., ModelProto]:
    """Return the function that the row of a scheme names."""
    module, _, name = scheme.write.partition(":")
    write: Callable[..., ModelProto] = getattr(importlib.import_module(module), name)
    return write


def _prepared(
    artifact: Artifact, reference: Extractor, scheme: Scheme, asked: Mapping[str, int], folder: Path
) -> tuple[ModelProto, dict[str, int]]:
    """Return the float graph, in an operator set with the types it needs, and the bits of its convolutions."""
    graph = prepared(artifact.path, folder / "prepared.onnx")
    bits = bits_of(graph, reference.model, scheme, asked, artifact)
    agreement.refuse_broken(reference)
    untie(graph, bits)
    if not {*bits.values()} <= {8, 32} or (scheme.static and scheme.activations == 16):
        graph = lifted(graph, OPSET, artifact.path)
    elif scheme.calibrated:
        graph = lifted(graph, PER_CHANNEL, artifact.path)
    return graph, bits


def _ranges(
    artifact: Artifact,
    graph: ModelProto,
    name: str,
    scheme: Scheme,
    photos: Photos | None,
    reference: Extractor,
    meant: Sequence[str],
) -> dict[str, Range]:
    """Return the ranges of activations: measured on photos, or learned in training; empty without calibration."""
    if not scheme.calibrated:
        return {}
    if photos is None:
        return learned(graph, meant, learned_ranges(artifact, name))
    return measure(graph, qdq.operators(scheme), scheme.symmetric, photos.tensors(reference), photos.observe)


def _pictures(
    photos: Photos | None, rounding: str, reference: Extractor, scheme: Scheme, ranges: Mapping[str, Range]
) -> Pictures:
    """Return the calibration images of the rounding; None if it needs none."""
    if photos is None or not ROUNDINGS[rounding].settings:
        return Pictures()
    height, width = reference.artifact.card.size or SIZE
    tensors = photos.some(reference, max(1, PIXELS // (height * width)))
    return Pictures(tensors, ranges, scheme.activations, photos.progress)


def _compared(path: Path, data: bytes, reference: Extractor, made: Artifact, scheme: Scheme) -> dict[str, Any]:
    """Return the figures of `difference`.

    Raises:
        ConversionFailed: a value is not finite; the error names the first layer with such a value.
    """
    try:
        figures = difference(reference, Extractor(pinned(made), "ort-cpu"))
    except BadModel:
        checks.finite(path, data, agreement.drawn(SIZE), reference)
        raise
    if scheme.weights == 16:  # the CPU omits casts, so it overflows later than a device that computes in half precision
        checks.finite(path, data, agreement.drawn(SIZE, 2), reference)
    return figures


def bits_of(
    graph: ModelProto, model: Model, scheme: Scheme, asked: Mapping[str, int], artifact: Artifact
) -> dict[str, int]:
    """Return the weight bits of every convolution: as requested, 32 in fragile heads, otherwise the scheme's."""
    bits = dict.fromkeys(onnx_model.convolutions(graph, artifact.path), scheme.weights)
    layers = (name for name in bits if name.startswith(model.float_layers))
    fragile = dict.fromkeys(() if scheme.naive else (*layers, *model.keep_float), 32)
    for name, count in (fragile | dict(asked)).items():
        if name not in model.heads and name not in bits:
            known = ", ".join((*model.heads, *bits))
            raise UsageError(f"{artifact.path}: has no head or convolution '{name}'; known: {known}")
        bits.update(dict.fromkeys(last_convolutions(graph, name) if name in model.heads else [name], count))
    return bits


def _loose(graph: ModelProto, model: Model, kept: Collection[str]) -> list[str]:
    """Return the heads that are not completely float; only fragile heads if the network names some."""
    return [head for head in model.keep_float or model.heads if not set(last_convolutions(graph, head)) <= set(kept)]


def difference(reference: Extractor, candidate: Extractor, tensors: Iterable[Array] | None = None) -> dict[str, Any]:
    """Compare quantized and float maps and keypoints on prepared images, by default drawn ones.

    Returns:
        For each head the signal-to-noise ratio in dB and, with several channels, the mean cosine of pixels; numbers of
        keypoints; the share of float keypoints with a quantized one within CLOSE px; for both files the share of tied
        keypoints (`checks.tied`). These figures are a hint; the benchmark decides.

    Raises:
        BadModel: a map is not finite.
    """
    signal, noise, cosines = dict[str, float](), dict[str, float](), dict[str, list[float]]()
    before = after = close = tied_before = tied = 0
    size = reference.artifact.card.size
    assert size is not None
    if tensors is None:
        tensors = (candidate.tensor(candidate.fit(picture)) for picture in agreement.drawn(size))
    for a, b in (agreement.pair(reference, candidate, tensor) for tensor in tensors):
        for head, expected in a.maps.items():
            signal[head] = signal.get(head, 0.0) + energy(expected)
            noise[head] = noise.get(head, 0.0) + energy(b.maps[head] - expected)
            if len(expected) > 1:
                cosines.setdefault(head, []).append(cosine(expected, b.maps[head]))
        before, after = before + len(a.features), after + len(b.features)
        tied_before, tied = tied_before + checks.tied(a.features.scores), tied + checks.tied(b.features.scores)
        close += int(agreement.near(a.features.keypoints, b.features.keypoints, CLOSE).sum())
    return {
        "sqnr_db": {head: round(float(10 * np.log10(signal[head] / max(noise[head], 1e-30))), 2) for head in signal},
        "cosine": {head: round(float(np.mean(values)), 4) for head, values in cosines.items()},
        "keypoints_float": before,
        "keypoints": after,
        "within_1_px": round(close / before, 4) if before else None,
        "tied_float": round(tied_before / before, 4) if before else None,
        "tied": round(tied / after, 4) if after else None,
    }


def energy(values: Array) -> float:
    """Sum of squares."""
    return float(np.square(values, dtype=np.float64).sum())


def cosine(a: Array, b: Array) -> float:
    """Return the mean over pixels of the cosine between two maps (C, h, w)."""
    length = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return float(((a * b).sum(0) / np.maximum(length, 1e-30)).mean())


def prepared(source: Path, target: Path) -> ModelProto:
    """Return the model of an ONNX file, see `onnx_model.prepare`, with constants folded; all passes start from it."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain = target.with_name(f"plain-{target.name}")
    onnx.save(onnx_model.read(source), plain)
    # ONNX's own shape inference does for convolutions; the symbolic one needs sympy and is slow.
    quant_pre_process(str(plain), str(target), skip_symbolic_shape=True)
    return onnx_model.prepare(onnx.load(target))


def stamped(model: ModelProto, name: str) -> bytes:
    """Serialise a model with our producer name, without unused operator sets that ONNX Runtime adds."""
    model.producer_name, model.producer_version, model.graph.name = "lf", __version__, name
    used = {node.domain for node in model.graph.node}
    for index in reversed(range(len(model.opset_import))):
        if model.opset_import[index].domain not in {*used, *onnx_model.STANDARD}:
            del model.opset_import[index]
    model.ClearField("metadata_props")
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")  # that of a temporary file
    data: bytes = onnx_model.named(model).SerializeToString()
    return data


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the log and warnings of ONNX Runtime's tools."""
    import onnxruntime as ort

    ort.set_default_logger_severity(3)  # their sessions take no options
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _versions() -> dict[str, str]:
    import onnx
    import onnxruntime

    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
