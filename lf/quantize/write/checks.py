"""Checks and warnings for quantized files. Each names the layer and the remedy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import Array, Artifact, ConversionFailed, machine
from lf.extraction.extractor import Extractor
from lf.formats import onnx_model
from lf.formats.int4 import widened
from lf.quantize import SCHEMES
from lf.quantize.calibrate.photos import SIZE, pinned
from lf.quantize.calibrate.ranges import Range
from lf.quantize.write.head_layers import last_convolutions, tail
from lf.quantize.write.merge_pointwise import JOINT
from lf.runtimes import backends_for, open_session
from lf.runtimes.ort import making

if TYPE_CHECKING:
    from onnx import ModelProto

INTEGER = ("QLinearConv", "ConvInteger")
TIED = 0.1  # more of the keypoints than in float may stand on plateaus
MIXED = 2**6  # of a channel with 1/64 of the largest range, 8 bits keep 2
LOST = 0.02  # share of such channels; what SuperPoint's detector reads has 0.005, what the heads of R2D2 read has 0.03
OUTPUT = "_QuantizeLinear_Input"  # what ONNX Runtime appends to the name of an output
SECONDS = 0.5  # of timing
SLOWER = 1.1  # times the parent's time


def integers(path: Path, data: bytes, meant: Collection[str], rest: Collection[str]) -> None:
    """Raise ConversionFailed unless just the convolutions `meant` run in integers in the graph that ONNX Runtime makes.

    Both ways. A pattern that it does not fuse is emulated in float, slower than float itself. And a float convolution
    between quantized tensors gets 8-bit weights of its own accord, one scale for all channels: 4 dB lost by one layer.

    Args:
        path: the float file, for the message.
        data: the quantized file.
        meant: names of the convolutions that are to run in integers.
        rest: names of all others that the file may hold.
    """
    import onnx
    import onnxruntime as ort

    # The highest level would add layouts of this processor; integers are settled one level below.
    options = making("ORT_ENABLE_EXTENDED")
    options.add_session_config_entry("session.x64quantprecision", "0")  # the same answer on every processor
    with tempfile.TemporaryDirectory(prefix="lf-quantize-") as folder:
        options.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
        ort.InferenceSession(widened(data), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
    known = {*meant, *rest}
    found = {_layer(node.name, known) for node in nodes if node.op_type in INTEGER}
    says = (
        f"{path}: onnxruntime {ort.__version__} would run {len(found)} convolutions in integers where {len(meant)} are"
    )
    if unasked := sorted(found - set(meant)):
        raise ConversionFailed(
            f"{says} meant; {', '.join(unasked)} cannot stay float between integer layers; nothing was written, type: "
            + " ".join(f"`bits={layer}=16`" for layer in unasked)
        )
    if left := sorted(set(meant) - found):
        raise ConversionFailed(
            f"{says} meant; {', '.join(left)} would be emulated in float; nothing was written, "
            f"try another version of it, or type: {_keep(left)}"
        )
    written = [node for node in onnx_model.nodes(onnx.load_from_string(data)) if onnx_model.CONVOLUTION in node.op_type]
    names = {name for node in written for name in _layers(node.name, known)}
    if names != known:
        raise ConversionFailed(
            f"{path}: quantized, it has {len(written)} convolutions where {len(known)} are known; "
            f"{', '.join(sorted(names ^ known))} would be neither quantized nor kept in float on purpose; "
            "nothing was written, type: `export(CHECKPOINT, to=onnx)`, and start from that"
        )


def _layer(name: str, known: Collection[str]) -> str:
    """The convolution that a node stands for; the dynamic quantizer appends to its name."""
    return name if name in known else name.removesuffix("_quant")


def _layers(name: str, known: Collection[str]) -> list[str]:
    """The convolutions that a node stands for, several where they were merged."""
    layer = _layer(name, known)
    return [layer] if layer in known else layer.split(JOINT)


def finite(path: Path, data: bytes, pictures: Iterable[Array], extractor: Extractor) -> None:
    """Raise ConversionFailed naming the first layer that gives a non-finite value, if one does on the pictures."""
    for picture in pictures:
        if layer := first_non_finite(data, extractor.tensor(extractor.fit(picture))):
            raise ConversionFailed(
                f"{path}: quantized, its layer {layer} gives a non-finite value; nothing was written, "
                f"type: {_keep([layer])}, or choose another scheme"
            )


def first_non_finite(data: bytes, tensor: Array) -> str | None:
    """Name of the first node, in the order of the file, that makes a non-finite value of `tensor` (1, C, H, W)."""
    import onnx
    import onnxruntime as ort

    model = onnx.load_from_string(data)
    there = {output.name for output in model.graph.output}
    made = [(node.name, name) for node in model.graph.node for name in node.output if name]
    missing = [name for _, name in made if name not in there]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in missing)
    options = making("ORT_DISABLE_ALL")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run([name for _, name in made], {session.get_inputs()[0].name: tensor})
    return next((node for (node, _), v in zip(made, values, strict=True) if not np.isfinite(v).all()), None)


def tied(scores: Array) -> int:
    """How many of the keypoints of one picture have the very score of another of them: what bits cost the order."""
    _, counts = np.unique(scores, return_counts=True)
    return int(counts[counts > 1].sum())


def ties(figures: Mapping[str, Any], heads: Sequence[str] | None) -> list[str]:
    """A warning if many more keypoints tie than in float; `heads` are those that are not float, None if all must be."""
    before, after = figures["tied_float"] or 0.0, figures["tied"] or 0.0
    if after <= before + TIED:
        return []
    if heads is None:
        why = "int8 is their limit"
    elif heads:
        why = f"the heads {', '.join(heads)} have too few levels; type: {_keep(heads)}, or `scheme=w8a16`"
    else:
        why = "the trunk has too few levels; type: `scheme=w8a16`"
    return [f"{after:.0%} of the keypoints share their score with another, {before:.0%} in float: {why}"]


def mixed(graph: ModelProto, model: ModelProto, heads: Iterable[str], ranges: Mapping[str, Range]) -> list[str]:
    """A warning per quantized tensor at a head of which 8 bits lose channels: one scale serves them all.

    Args:
        graph: float.
        model: quantized.
        heads: names of its outputs.
        ranges: of the tensors of `graph`; looked at is what a head's last convolutions read, and all from there on.
    """
    quantized = {n.input[0].removesuffix(OUTPUT) for n in model.graph.node if n.op_type == "QuantizeLinear"}
    writers = {name: node.op_type for node in graph.graph.node for name in node.output}
    found = {}
    for head in heads:
        for node in tail(graph, head):
            for name in (*node.input, *node.output):
                if name in quantized and name in ranges and (share := lost(ranges[name].channels)) > LOST:
                    trunk = name in node.input and writers.get(name) in ("Conv", "Relu", "MaxPool")
                    layers = [head, *(last_convolutions(graph, name) if trunk else [])]
                    found[name] = (
                        f"head {head}: {share:.0%} of the channels of {name} have less than 1/{MIXED} of the range of "
                        f"the largest, and 8 bits have one scale for all; type: {_keep(layers)}, or `scheme=w8a16`"
                    )
    return [*found.values()]


def lost(channels: Array) -> float:
    """Share of the channels (C,) that are not always zero and have less than 1/MIXED of the largest range."""
    used = channels[channels > 0]
    return float((used < used.max() / MIXED).mean()) if used.size else 0.0


def slower(parent: Artifact, made: Artifact) -> str | None:
    """A sentence if `made` takes longer than `parent` here, one thread, with the reason; about a second of work."""
    ratio = time_ratio(parent, made)
    if ratio < SLOWER:
        return None
    reason = SCHEMES[made.card.scheme].slow
    if not reason and not machine.INT8 & set(machine.cpu()[1]):
        reason = "this processor has no instruction that multiplies int8; see lf doctor"
    return f"{made.path} takes {ratio:.1f} times as long as {parent.path.name} here" + (f": {reason}" if reason else "")


def time_ratio(parent: Artifact, made: Artifact) -> float:
    """CPU time of `made` over that of `parent` in the same turn, the median over turns."""
    size = made.card.size or pinned(parent).card.size or SIZE
    picture = np.random.default_rng(0).random((1, parent.card.input[0], *size), np.float32)
    # by the suffix alone: nothing is compiled yet, whatever its name
    sessions = [open_session(each, backends_for(Path(each.path.suffix))[0]) for each in (parent, made)]
    taken: list[list[float]] = []
    start = time.process_time()
    while len(taken) < 4 or (len(taken) < 100 and time.process_time() - start < SECONDS):
        taken.append([])
        for session in sessions:
            before = time.process_time()
            session.run(picture)
            taken[-1].append(time.process_time() - before)
    first, second = np.array(taken[1:]).T  # the first turn warms up
    return float(np.median(machine.ratios_of_turns(second, first)))


def _keep(layers: Sequence[str]) -> str:
    return " ".join(f"`keep_float={layer}`" for layer in layers)
