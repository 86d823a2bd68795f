"""Static quantization in the dialect of ONNX Runtime on x86: QDQ, uint8 activations, int8 weights, MinMax ranges.

Other dialects give the same accuracy at a fraction of the speed: int8 activations run 1.6 times slower, uint8 weights
3.3 times, and nothing warns. So the result is opened once, and the convolutions that run in integers are counted.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf import __version__, files
from lf.core import Array, Artifact, LfError
from lf.quantize import Scheme
from lf.quantize.calibration import Photos, pinned
from lf.runtimes import agreement
from lf.runtimes.extract import Extractor

if TYPE_CHECKING:
    from onnx import ModelProto

OPERATORS = ["Conv", "Relu", "MaxPool"]  # the rest is pointwise: no time to win, and 8 bits break it
CLOSE = 1.0  # px between a float keypoint and its int8 counterpart


def quantize(artifact: Artifact, name: str, scheme: Scheme, photos: Photos, out: Path) -> Artifact:
    """Quantize a float ONNX file; see `lf.quantize.quantize`."""
    import onnx

    reference = Extractor(pinned(artifact), "ort-cpu")
    keep = () if scheme.naive else reference.model.keep_float
    with tempfile.TemporaryDirectory(prefix="lf-quantize-") as folder, quiet():
        prepared, result = Path(folder, "prepared.onnx"), Path(folder, "result.onnx")
        _prepare(artifact.path, prepared)
        graph = onnx.load(prepared)
        kept = sorted({node for head in keep for node in last_convolutions(graph, head)})
        _run(prepared, result, scheme, kept, photos.tensors(reference))
        meant = [n.name for n in graph.graph.node if n.op_type == "Conv" and n.name not in kept]
        _check_integers(result, meant, artifact)
        data = _stamped(onnx.load(result), artifact.card.model)
        card = artifact.card.step(scheme=name)
        figures = difference(reference, Extractor(pinned(files.save(result, data, card)), "ort-cpu"))
    step = {
        "command": "quantize",
        "options": {"scheme": name, "engine": "ort"},
        "parent": artifact.sha256,
        "versions": _versions(),
        "calibration": photos.manifest("minmax"),
        "kept_float": kept,
        "integer_convolutions": len(meant),
        "parity": figures,
    }
    return files.save(out, data, card.step(made=step))


def last_convolutions(model: ModelProto, output: str) -> list[str]:
    """Names of the convolutions nearest to an output: walk back from it, and on no path further than the first."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    found, seen, queue = [], set(), deque([output])
    while queue:
        node = made_by.get(queue.popleft())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type == "Conv":
            found.append(node.name)
        else:
            queue.extend(node.input)
    return found


def difference(reference: Extractor, candidate: Extractor) -> dict[str, Any]:
    """How far the quantized maps and keypoints are from the float ones, on drawn pictures.

    Returns:
        Per head the signal-to-noise ratio in dB; counts of keypoints; of the float ones the share with an int8 one
        within CLOSE px. A hint, not a verdict: that is the benchmark's.

    Raises:
        LfError: a map is not finite.
    """
    signal, noise = dict[str, float](), dict[str, float]()
    before = after = close = 0
    size = reference.artifact.card.size
    assert size is not None
    for a, b in agreement.both(reference, candidate, agreement.drawn(size)):
        for head, expected in a.maps.items():
            signal[head] = signal.get(head, 0.0) + _energy(expected)
            noise[head] = noise.get(head, 0.0) + _energy(b.maps[head] - expected)
        before, after = before + len(a.features), after + len(b.features)
        close += int(agreement.near(a.features.keypoints, b.features.keypoints, CLOSE).sum())
    sqnr = {head: round(float(10 * np.log10(signal[head] / max(noise[head], 1e-30))), 2) for head in signal}
    found = round(close / before, 4) if before else None
    return {"sqnr_db": sqnr, "keypoints_float": before, "keypoints": after, "within_1_px": found}


def _energy(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _prepare(source: Path, target: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # ONNX's own shape inference does for convolutions; the symbolic one needs sympy and is slow.
    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)


def _run(source: Path, target: Path, scheme: Scheme, kept: list[str], tensors: Iterator[Array]) -> None:
    from onnxruntime import quantization as ort

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Array] | None:
            tensor = next(tensors, None)
            return None if tensor is None else {"image": tensor}

    ort.quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=ort.QuantFormat.QDQ,
        op_types_to_quantize=None if scheme.naive else OPERATORS,
        nodes_to_exclude=kept,
        per_channel=scheme.per_channel,
        reduce_range=False,  # only processors without VNNI need it; it costs a bit
        activation_type=ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
        calibrate_method=ort.CalibrationMethod.MinMax,
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )


def _check_integers(path: Path, meant: list[str], artifact: Artifact) -> None:
    """Raise LfError unless just the convolutions `meant` run in integers in the graph that ONNX Runtime makes.

    Both ways. A pattern that it does not fuse is emulated in float, slower than float itself. And a float convolution
    between quantized tensors gets 8-bit weights of its own accord, one scale for all channels: 4 dB lost by one layer.
    """
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # The highest level would add layouts of this processor; integers are settled one level below.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    integer = {node.name for node in nodes if node.op_type == "QLinearConv"}
    if wrong := sorted(integer ^ set(meant)):
        raise LfError(
            f"{artifact.path}: onnxruntime {ort.__version__} would run {len(integer)} convolutions in integers where "
            f"{len(meant)} are meant; {', '.join(wrong)} differ; nothing was written, try another version of it"
        )


def _stamped(model: ModelProto, name: str) -> bytes:
    """Ours by name, and without the operator sets that ONNX Runtime adds and the graph does not use."""
    model.producer_name, model.producer_version, model.graph.name = "lf", __version__, name
    used = {node.domain for node in model.graph.node}
    for index in reversed(range(len(model.opset_import))):
        if model.opset_import[index].domain not in used | {"", "ai.onnx"}:
            del model.opset_import[index]
    model.ClearField("metadata_props")
    data: bytes = model.SerializeToString()
    return data


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what ONNX Runtime's tools log and warn of their own doings."""
    import onnxruntime as ort

    ort.set_default_logger_severity(3)  # their sessions take no options from us
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

    return {"lf": __version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
