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
TIED = 0.1  # largest increase of the share of keypoints with tied scores
MIXED = 2**6  # a channel with 1/64 of the largest range keeps 2 of 8 bits
LOST = 0.02  # share of such channels; the input of SuperPoint's detector has 0.005, the input of R2D2's heads 0.03
OUTPUT = "_QuantizeLinear_Input"  # suffix that ONNX Runtime appends to the name of an output
SECONDS = 0.5  # of timing
SLOWER = 1.1  # times the parent's time


def integers(path: Path, data: bytes, meant: Collection[str], rest: Collection[str]) -> None:
    """Raise ConversionFailed unless exactly the convolutions `meant` run in integers in ONNX Runtime's optimised graph.

    Both directions are checked. Patterns that are not fused are emulated in float, which is slower than float. And
    float convolutions between quantized tensors get 8-bit weights with one scale for all channels: that can cost 4 dB.

    Args:
        path: the float file, for the message.
        data: the quantized file.
        meant: names of the convolutions that must run in integers.
        rest: names of all other convolutions that the file may have.
    """
    import onnx
    import onnxruntime as ort

    # The highest level would add layouts of this processor; one level below decides on integers.
    options = making("ORT_ENABLE_EXTENDED")
    options.add_session_config_entry("session.x64quantprecision", "0")  # the same result on every processor
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
    """Return the convolution of a node; the dynamic quantizer appends to its name."""
    return name if name in known else name.removesuffix("_quant")


def _layers(name: str, known: Collection[str]) -> list[str]:
    """Return the convolutions of a node, several if they were merged."""
    layer = _layer(name, known)
    return [layer] if layer in known else layer.split(JOINT)


def finite(path: Path, data: bytes, pictures: Iterable[Array], extractor: Extractor) -> None:
    """Raise ConversionFailed with the first layer that gives a non-finite value on the images."""
    for picture in pictures:
        if layer := first_non_finite(data, extractor.tensor(extractor.fit(picture))):
            raise ConversionFailed(
                f"{path}: quantized, its layer {layer} gives a non-finite value; nothing was written, "
                f"type: {_keep([layer])}, or choose another scheme"
            )


def first_non_finite(data: bytes, tensor: Array) -> str | None:
    """Return the first node, in the order of the file, with a non-finite output for the input `tensor` (1, C, H, W)."""
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
    """Return the number of keypoints of an image with the same score as another, so that their order is arbitrary."""
    _, counts = np.unique(scores, return_counts=True)
    return int(counts[counts > 1].sum())


def ties(figures: Mapping[str, Any], heads: Sequence[str] | None) -> list[str]:
    """Return a warning if many more keypoints tie than in float; `heads` are not float, None if all must be so."""
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
    """Return a warning for each quantized tensor at a head with channels that 8 bits lose, as all share one scale.

    Args:
        graph: the float graph.
        model: the quantized graph.
        heads: names of its outputs.
        ranges: ranges of the tensors of `graph`. Checked are the inputs of a head's last convolutions, and all later
            tensors.
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
    """Return the share of channels (C,) that are not always zero and have less than 1/MIXED of the largest range."""
    used = channels[channels > 0]
    return float((used < used.max() / MIXED).mean()) if used.size else 0.0


def slower(parent: Artifact, made: Artifact) -> str | None:
    """Return a sentence with the reason if `made` takes longer than `parent` here with one thread; takes about 1 s."""
    ratio = time_ratio(parent, made)
    if ratio < SLOWER:
        return None
    reason = SCHEMES[made.card.scheme].slow
    if not reason and not machine.INT8 & set(machine.cpu()[1]):
        reason = "this processor has no instruction that multiplies int8; see lf doctor"
    return f"{made.path} takes {ratio:.1f} times as long as {parent.path.name} here" + (f": {reason}" if reason else "")


def time_ratio(parent: Artifact, made: Artifact) -> float:
    """Return the median over turns of the ratio of CPU times of `made` and `parent`."""
    size = made.card.size or pinned(parent).card.size or SIZE
    picture = np.random.default_rng(0).random((1, parent.card.input[0], *size), np.float32)
    # chosen by the suffix alone, because nothing is compiled yet
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
