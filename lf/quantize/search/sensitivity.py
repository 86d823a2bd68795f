"""Cost of quantizing each convolution alone.

All variants compute in float, so that only the levels differ. For that reason, QuantizeLinear and DequantizeLinear are
written as arithmetic: between them, ONNX Runtime would quantize float weights to 8 bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import Array, Artifact, BadModel, ConversionFailed, UsageError, blaming, pick
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.quantize import SCHEMES, Progress, Scheme
from lf.quantize.calibrate.photos import SIZE, Photos, pinned
from lf.quantize.calibrate.ranges import Range, measure
from lf.quantize.round.weight_grids import grid, parameters
from lf.quantize.search.journal import Journal
from lf.quantize.write import ort, qdq
from lf.quantize.write.head_layers import last_convolutions
from lf.runtimes import open_session

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

WEIGHTS, ACTIVATIONS = PARTS = ("weights", "activations")
PICTURES = 3  # number of drawn images for measuring noise
UNTOUCHED = 150.0  # dB; above it, the noise is only the rounding of float32


@dataclass(frozen=True)
class Drop:
    """Drop of one metric from the float parent, over the pairs where both have a value.

    Attributes:
        drop: drop of the mean, in the unit of the metric, positive if worse; None if no pair has a value.
        low, high: 95 % interval of the paired bootstrap over pairs; None for too few pairs.
        parent: the mean of the float file.
        pairs: number of pairs.
    """

    drop: float | None
    low: float | None
    high: float | None
    parent: float | None
    pairs: int


Drops = Mapping[str, Drop]
Evaluate = Callable[[Artifact, Progress], Drops]  # metric -> drop from float; progress per pair


class Layers:
    """A float file, for making variants with single quantized layers.

    Attributes:
        names: names of the convolutions, in the order of the graph.
        kept: convolutions that the scheme leaves in float.
        parts: parts of a layer that the scheme quantizes.
    """

    def __init__(self, artifact: Artifact, name: str, photos: Photos | None) -> None:
        """Read the file and measure the ranges of its activations.

        Args:
            artifact: a float ONNX file.
            name: name of the scheme.
            photos: calibration photos; None if the scheme needs none.

        Raises:
            UsageError: the scheme has no fixed levels, or no bits.
            BadInput: see `Photos`; or the network gives non-finite values.
        """
        self.artifact, self.scheme = artifact, studied(name)
        self._reference = Extractor(pinned(artifact), "ort-cpu")
        with tempfile.TemporaryDirectory(prefix="lf-quantize-") as folder, ort.quiet():
            self._graph = ort.prepared(artifact.path, Path(folder, "prepared.onnx"))
        model = self._reference.model
        bits = ort.bits_of(self._graph, model, self.scheme, {}, artifact)
        agreement.refuse_broken(self._reference)
        self.names = [*bits]
        self.kept = {name for name, count in bits.items() if count == 32}
        self.parts = PARTS if self.scheme.calibrated else PARTS[:1]
        self._heads = {name for head in model.heads for name in last_convolutions(self._graph, head)}
        self._ranges: dict[str, Range] = {}
        self._manifest: dict[str, Any] = {}
        if photos:
            tensors = photos.tensors(self._reference)
            operators, symmetric = qdq.OPERATORS, self.scheme.symmetric
            with blaming(artifact.path):
                self._ranges = measure(self._graph, operators, symmetric, tensors, photos.observe)
            self._manifest = {"calibration": photos.manifest()}

    def graph(self, layer: str, parts: Collection[str], bits: int) -> ModelProto:
        """Return the float graph with only `layer` quantized: weights with `bits` bits, inputs as in the scheme.

        If the layer makes a head, its output counts as an input, because no other layer reads it.
        """
        import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(self._graph)
        nodes = copy.graph.node
        at, node = next((index, node) for index, node in enumerate(nodes) if node.name == layer)
        if WEIGHTS in parts:
            weights, _ = parameters(copy, [layer])[layer]
            rows = weights.reshape(len(weights) if self.scheme.per_channel else 1, -1)
            numbers, scale = grid(rows, bits)
            name = f"{layer}.on_levels"
            values = (numbers * scale[:, None]).astype(np.float32).reshape(weights.shape)
            copy.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
            node.input[1] = name
        if ACTIVATIONS in parts:
            after: list[NodeProto] = []
            if layer in self._heads:
                written = node.output[0]
                node.output[0] = f"{written}.exact"
                after = self._levels(copy, node.output[0], written, written)
            read = f"{layer}.read"
            before = self._levels(copy, node.input[0], read, node.input[0])
            node.input[0] = read
            ordered = [*nodes[:at], *before, nodes[at], *after, *nodes[at + 1 :]]
            del nodes[:]
            nodes.extend(ordered)
        return copy

    def _levels(self, model: ModelProto, source: str, target: str, tensor: str) -> list[NodeProto]:
        """Return nodes that round `source` to the levels of `tensor`, as QuantizeLinear and DequantizeLinear do."""
        from onnx import helper, numpy_helper

        seen = self._ranges[tensor]
        scale, low, high = seen.levels(self.scheme.activations, self.scheme.symmetric)
        names = [f"{target}.levels.{part}" for part in ("scale", "low", "high", "divided", "rounded", "clipped")]
        for name, value in zip(names, (scale, low, high), strict=False):
            model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        steps, bottom, top, divided, rounded, clipped = names
        return [
            helper.make_node("Div", [source, steps], [divided], name=divided),
            helper.make_node("Round", [divided], [rounded], name=rounded),
            helper.make_node("Clip", [rounded, bottom, top], [clipped], name=clipped),
            helper.make_node("Mul", [clipped, steps], [target], name=f"{target}.levels"),
        ]

    @contextmanager
    def opened(self, layer: str, parts: Collection[str], bits: int) -> Iterator[Artifact]:
        """Yield the variant as a temporary file.

        Raises:
            ConversionFailed: the variant gives non-finite values, or descriptors that are not of unit length.
        """
        made = {"command": "sensitivity", "parent": self.artifact.sha256, **self._manifest}
        with tempfile.TemporaryDirectory(prefix="lf-quantize-") as folder:
            data = ort.stamped(self.graph(layer, parts, bits), self.artifact.card.model)
            variant = model_file.save(Path(folder, "variant.onnx"), data, self.artifact.card.step(made=made))
            try:
                yield variant
            except BadModel as error:
                if error.path != variant.path:
                    raise
                raise ConversionFailed(
                    f"{self.artifact.path}: with {layer} alone quantized, {error.what}; choose another scheme"
                ) from error

    def sqnr(self, variant: Artifact) -> dict[str, float | None]:
        """Return the signal-to-noise ratio in dB of each head on drawn images; None for heads that do not change.

        Raises:
            BadModel: the variant gives non-finite values.
        """
        session = open_session(variant, "ort-cpu")
        signal, noise = dict[str, float](), dict[str, float]()
        for tensor, maps in self._shown:
            for head, value in session.run(tensor).items():
                signal[head] = signal.get(head, 0.0) + ort.energy(maps[head])
                noise[head] = noise.get(head, 0.0) + ort.energy(value - maps[head])
        if broken := [head for head, energy in noise.items() if not np.isfinite(energy)]:
            raise BadModel.not_finite(f"the {broken[0]} map", variant.path)
        return {head: _decibels(signal[head], noise[head]) for head in signal}

    @cached_property
    def _shown(self) -> list[tuple[Array, dict[str, Array]]]:
        """Return drawn images as inputs of the network, and the maps of the float file."""
        size = self._reference.artifact.card.size or SIZE
        tensors = [self._reference.tensor(self._reference.fit(p)) for p in agreement.drawn(size, PICTURES)]
        return [(tensor, self._reference.session.run(tensor)) for tensor in tensors]


def _decibels(signal: float, noise: float) -> float | None:
    """Return the ratio of two energies in dB; None for UNTOUCHED signals."""
    ratio = 10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))
    return None if ratio > UNTOUCHED else round(float(ratio), 2)


def studied(name: str) -> Scheme:
    """Return the scheme `name`, after checking that it can be studied.

    Raises:
        UsageError: the scheme is unknown, or its levels depend on the image.
    """
    known = {name: row for name, row in SCHEMES.items() if row.static}
    pick(SCHEMES, name, "scheme")
    if name not in known:
        raise UsageError(f"scheme {name} has no levels to study layer by layer; these have: {', '.join(known)}")
    return known[name]


def study(
    layers: Layers,
    evaluate: Evaluate,
    journal: Journal,
    progress: Progress = lambda done, total, text: None,
) -> list[dict[str, Any]]:
    """Evaluate every layer alone, with its weights and its activations separately.

    Args:
        layers: layers of a float file.
        evaluate: variant -> metric -> drop from the float file.
        journal: stores every row as soon as it is computed.
        progress: called with (done, total, text) per pair, over the remaining work.

    Returns:
        Rows of the layers in the order of the graph: {"layer", "part", "kept": the scheme leaves it in float, "bits",
        "sqnr_db": {head: dB}, "drops": {metric: fields of Drop}}.
    """
    every = [(name, part) for name in layers.names for part in layers.parts]
    left = [pair for pair in every if " ".join(pair) not in journal.rows]
    for index, (name, part) in enumerate(left):
        told = partial(_told, progress, index, len(left), f"{name} {part}")
        journal.once(f"{name} {part}", partial(_row, layers, name, part, evaluate, told))
    return [journal.rows[" ".join(pair)] for pair in every]


def _row(layers: Layers, name: str, part: str, evaluate: Evaluate, progress: Progress) -> dict[str, Any]:
    scheme = layers.scheme
    with layers.opened(name, [part], scheme.weights) as variant:
        sqnr = layers.sqnr(variant)
        drops = {metric: asdict(drop) for metric, drop in evaluate(variant, progress).items()}
    bits = scheme.weights if part == WEIGHTS else scheme.activations
    row = {"layer": name, "part": part, "kept": name in layers.kept, "bits": bits}
    return {**row, "sqnr_db": sqnr, "drops": drops}


def _told(progress: Progress, index: int, count: int, what: str, done: int, total: int, text: str) -> None:
    progress(index * total + done, count * total, f"{what}: {text}")
