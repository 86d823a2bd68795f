"""Share of the processor's peak that a network reaches: `python -m scripts.compare_peak FILE.onnx ...`.

The peak is measured, not looked up: chains of 3x3 convolutions, float and 8-bit, of the shapes that these networks have
and with nothing between them, take turns with the files in the same engine; the fastest one counts. An operation is a
multiplication or an addition of a convolution; everything else that a network does counts as time and not as work.
Times are the processor's with one thread, the clock's with more; shares are within a turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lf.benchmarks.report.tables import markdown
from lf.core import Array, Artifact, Card, UsageError
from lf.formats import model_file, onnx_model
from lf.runtimes import open_session
from scripts import turns
from scripts.compare_exports import SIZE

if TYPE_CHECKING:
    from onnx import ModelProto

CHAINS = ((64, (120, 160)), (128, (60, 80)), (128, (120, 160)), (256, (30, 40)), (256, (60, 80)))  # channels, (H, W)
LAYERS, KERNEL = 6, 3
REPEATS = 40
CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")


class Rate(NamedTuple):
    """A timed graph: name, whether its convolutions have 8 bits, number of operations of a run, ms per turn."""

    name: str
    integer: bool
    operations: int
    ms: Array

    @property
    def speed(self) -> float:
        """Operations per nanosecond, the median."""
        return float(np.median(self.operations / self.ms)) / 1e6


def operations(model: ModelProto, size: tuple[int, int]) -> int:
    """Multiplications and additions of the convolutions of a graph at (H, W); its input is changed to that size."""
    import onnx

    for side, value in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], size, strict=True):
        side.dim_value = value
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    shapes |= {tensor.name: [*tensor.dims] for tensor in graph.initializer}
    nodes = (node for node in graph.node if node.op_type in CONVOLUTIONS)
    weight = {"QLinearConv": 3}  # its place among the inputs, where it is not 1
    return sum(
        2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[weight.get(node.op_type, 1)]][1:]) for node in nodes
    )


def chain(channels: int, size: tuple[int, int], integer: bool) -> ModelProto:
    """Convolutions (1, C, H, W) -> (1, C, H, W) in a row, each with its ReLU; in 8 bits as `w8a8` writes them."""
    from onnx import TensorProto, helper, numpy_helper

    rng, shape = np.random.default_rng(0), (channels, channels, KERNEL, KERNEL)
    constants: dict[str, Array] = {"bias": np.zeros(channels, np.float32)}
    if integer:
        constants |= {
            "levels": rng.integers(-127, 128, shape, np.int8),
            "scales": np.full(channels, 1e-3, np.float32),
            "zeros": np.zeros(channels, np.int8),
            "scale": np.array(0.02, np.float32),
            "zero": np.array(0, np.uint8),
        }
    else:
        constants["weights"] = rng.normal(0, 0.02, shape).astype(np.float32)
    nodes, tensor = [], "image"

    def levels(of: str, index: int) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [of, "scale", "zero"], [f"q{index}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{index}", "scale", "zero"], [f"d{index}"]))
        return f"d{index}"

    tensor = levels(tensor, 0) if integer else tensor
    for index in range(1, LAYERS + 1):
        weights = "weights"
        if integer:
            weights = f"w{index}"
            own = [f"levels{index}", "scales", f"zeros{index}"]  # shared ones would be computed in float without VNNI
            constants |= {own[0]: constants["levels"], own[2]: constants["zeros"]}
            nodes.append(helper.make_node("DequantizeLinear", own, [weights], axis=0))
        pads = [KERNEL // 2] * 4
        nodes.append(helper.make_node("Conv", [tensor, weights, "bias"], [f"c{index}"], pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        tensor = levels(f"r{index}", index) if integer else f"r{index}"
    nodes[-1].output[0] = "map"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, channels, *size]) for n in ("image", "map")]
    weights_of = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights_of)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def chains(folder: Path) -> Iterator[tuple[Artifact, bool, int]]:
    """The files to measure the peak with: each, whether it is of 8 bits, its operations."""
    for integer in (False, True):
        for channels, size in CHAINS:
            model, kind = chain(channels, size, integer), "int8" if integer else "fp32"
            path = folder / f"{kind} {channels} channels {size[0]}x{size[1]}.onnx"
            card = Card("chain", {}, (channels, *size), outputs={"map": (channels, 1)})
            yield model_file.save(path, model.SerializeToString(), card), integer, operations(model, size)


def rates(paths: Sequence[Path], backend: str, threads: int, repeats: int = REPEATS) -> list[Rate]:
    """The files given, in turns with the chains, which come last.

    Raises:
        UsageError: a file of another type, or an engine that does not run it.
        BadInput: a damaged file.
    """
    ours = []
    for path in paths:
        artifact = model_file.load(path)
        if path.suffix != ".onnx":
            raise UsageError(f"{path}: expected an ONNX file; lf export CHECKPOINT --to onnx makes one")
        open_session(artifact, backend, threads)  # says what is wrong with a damaged file
        onnx_model.refuse_rewritten(path, "measure", quantized=True)
        model = onnx_model.read(path)
        integer = any(node.op_type in ("QuantizeLinear", "QLinearConv") for node in model.graph.node)
        ours.append((artifact, integer, operations(model, artifact.card.size or SIZE)))
    with tempfile.TemporaryDirectory(prefix="lf-peak-") as folder:
        rows = [*ours, *chains(Path(folder))]
        pictures = [picture(artifact.card) for artifact, *_ in rows]
        taken = turns.measure([artifact for artifact, *_ in rows], pictures, threads, repeats, backend)
    return [
        Rate(artifact.path.name, integer, count, column)
        for (artifact, integer, count), column in zip(rows, taken.T, strict=True)
    ]


def picture(card: Card) -> Array:
    """Noise (1, C, H, W) of the size of a file, or of `SIZE`."""
    return np.random.default_rng(0).random((1, card.input[0], *(card.size or SIZE)), np.float32)


def table(found: Sequence[Rate], files_given: int) -> str:
    """A row per file and, below, per chain: operations, speed, and the share of the fastest chain of its kind."""
    peaks = {kind: max((r for r in found[files_given:] if r.integer == kind), key=lambda r: r.speed) for kind in (0, 1)}
    rows = []
    for rate in found:
        peak = peaks[rate.integer]
        share = turns.times(peak.ms / peak.operations, rate.ms / rate.operations)
        rows.append(
            [
                rate.name,
                "int8" if rate.integer else "float",
                f"{rate.operations / 1e9:.2f}",
                f"{np.median(rate.ms):.1f}",
                f"{rate.speed:.0f}",
                "the peak" if rate is peak else share,
            ]
        )
    return markdown(["", "kind", "G operations", "ms", "G operations/s", "share of the peak"], rows)


def main(words: list[str], given: Mapping[str, str]) -> str:
    """The table."""
    paths = [Path(word) for word in words]
    return table(rates(paths, given.get("backend", "ort-cpu"), turns.number(given, "threads", 1)), len(paths))


if __name__ == "__main__":
    turns.command("compare_peak FILE.onnx ... [--backend=ort-cpu] [--threads=1]", 1, None, main)
