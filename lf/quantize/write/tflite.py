"""Full-integer TFLite for microcontrollers and the Edge TPU: int8 from the input to the outputs.

TensorFlow would take its ranges from the extremes of every photo and its weights from the largest one of each channel.
It gets both from here instead: the ranges as `calibration` finds them, and the weights on the grids that `rounding`
made. SuperPoint at 240x320, descriptor and detector against float, 32 photos: see `lf.quantize.SCHEMES`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lf.core import Array, Artifact, BadModel, ConversionFailed, GateFailed, UsageError
from lf.extraction.agreement import refuse_broken
from lf.extraction.extractor import Extractor
from lf.formats import onnx_model, onnx_to_tflite, tflite, tflite_heads
from lf.formats.derive import Draft, derive
from lf.formats.int32_bias import raised
from lf.quantize import Scheme
from lf.quantize.calibrate.observers import Observer
from lf.quantize.calibrate.photos import Photos, pinned
from lf.quantize.calibrate.ranges import measure
from lf.quantize.round.rounding import PIXELS, ROUNDINGS, Pictures
from lf.quantize.round.weight_grids import Grid, grid, on_grid
from lf.quantize.write.checks import ties
from lf.quantize.write.float_heads import cut
from lf.quantize.write.ort import difference, quiet
from lf.quantize.write.qdq import OPERATORS
from lf.runtimes.ort import making

if TYPE_CHECKING:
    from onnx import ModelProto

T = TypeVar("T")
LOOKS = 8  # number of photos for comparing the result with float
COSINE = 0.9  # least mean cosine between a descriptor and its float counterpart; lower values mean a damaged file
NOISE = 3.0  # dB, least signal-to-noise ratio of any head
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def quantize(
    artifact: Artifact,
    name: str,
    scheme: Scheme,
    photos: Photos | None,
    out: Path,
    asked: Mapping[str, int],
    rounding: str,
) -> Artifact:
    """Quantize a float ONNX file; see `lf.quantize.quantize`.

    Raises:
        UsageError: layers with other bits were requested, or there are no photos.
        GateFailed: a head is damaged; nothing is written.
        Unavailable: onnx2tf or TensorFlow is not installed.
    """
    if asked:
        raise UsageError(f"`writer=tflite` puts every layer in 8 bits; leave out the settings of {', '.join(asked)}")
    if photos is None:
        raise UsageError("`writer=tflite` needs photos to find its ranges; type: `images=DIR`")
    reference = Extractor(pinned(artifact), "ort-cpu")
    return derive(artifact, out, "quantize", lambda _: _converted(artifact, reference, name, scheme, photos, rounding))


def _converted(
    artifact: Artifact, reference: Extractor, name: str, scheme: Scheme, photos: Photos, rounding: str
) -> Draft:
    import onnx

    card = reference.artifact.card
    assert card.size is not None
    with quiet():
        graph, host = cut(onnx_model.read(artifact.path), reference.model.keep_float)
        graph = onnx_to_tflite.static(graph, card.size)
    tensors = [*photos.tensors(reference)]
    grids = _grids(artifact.path, graph, rounding, photos, tensors)
    refuse_broken(reference)
    graph = rounded(graph, grids)
    parent = tflite_heads.named(onnx_to_tflite.convert(graph), tensors[0], _maps(graph, tensors[0]))
    data = onnx_to_tflite.quantize(ranged(parent, tensors, photos.observe), scheme.per_channel)

    def compare(made: Artifact) -> dict[str, Any]:
        figures = difference(reference, Extractor(made, "tflite"), photos.some(reference, LOOKS))
        _judge(artifact, reference, figures)
        return {"parity": figures, "warnings": [*photos.warnings(), *ties(figures, None)]}

    return Draft(
        data=regridded(data, parent, scheme.per_channel),
        card=card.step(scheme=name),
        options={"scheme": name, "engine": "tflite"},
        versions={"onnx": onnx.__version__, **onnx_to_tflite.versions()},
        compare=compare,
        notes={
            "opset": onnx_to_tflite.opset(graph),
            "calibration": photos.manifest(),
            "rounding": {"method": rounding, **ROUNDINGS[rounding].settings},
            "kept_float": [head["head"] for head in host],
            **({"host": host} if host else {}),
        },
    )


def _grids(path: Path, graph: ModelProto, rounding: str, photos: Photos, tensors: Sequence[Array]) -> dict[str, Grid]:
    """Return the weights of every convolution, rounded by `rounding`; empty for TensorFlow's own rounding."""
    method = ROUNDINGS[rounding]
    if not method.settings:
        return {}
    convolutions = dict.fromkeys(onnx_model.convolutions(graph, path), 8)
    ranges = measure(graph, OPERATORS, False, tensors, photos.observe)
    few = tensors[: max(1, PIXELS // tensors[0][0, 0].size)]
    return method.run(graph, convolutions, Pictures(few, ranges, 8, photos.progress))


def rounded(graph: ModelProto, grids: Mapping[str, Grid]) -> ModelProto:
    """Return a copy with float convolutions that have the weights and biases of `grids`."""
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    for node in copy.graph.node:
        if made := grids.get(node.name):
            fresh = {f"{node.name}.rounded": made.weights()}
            if made.bias is not None:
                fresh[f"{node.name}.corrected"] = made.bias
            copy.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in fresh.items())
            node.input[1:] = [*fresh, *node.input[1 + len(fresh) :]]
    used = {name for node in copy.graph.node for name in node.input}
    for tensor in [tensor for tensor in copy.graph.initializer if tensor.name not in used]:
        copy.graph.initializer.remove(tensor)
    return copy


def ranged(data: bytes, tensors: Iterable[Array], observe: Callable[[], Observer]) -> bytes:
    """Return the float model with min and max of every activation, observed over images (1, C, H, W).

    Raises:
        BadModel: an activation is not finite.
    """
    model = tflite.read(data, "the float model")
    graph, objects = model.subgraphs[0], tflite.schema()
    interpreter = tflite_heads.open_interpreter(data, every_tensor=True)
    entry = int(graph.inputs[0])
    written = [entry, *(int(index) for operator in graph.operators for index in operator.outputs)]
    observers = {index: observe() for index in written if graph.tensors[index].type == objects.TensorType.FLOAT32}
    for tensor in tensors:
        interpreter.set_tensor(entry, np.moveaxis(tensor, 1, 3))
        interpreter.invoke()
        for index, observer in observers.items():
            value = interpreter.get_tensor(index)
            if not np.isfinite(value).all():
                name = graph.tensors[index].name.decode(errors="replace")
                raise BadModel.not_finite(f"the activation {name}")
            observer.update(value)
    for index, observer in observers.items():
        graph.tensors[index].quantization = rule = objects.QuantizationParametersT()
        low, high = observer.range()
        rule.min, rule.max = np.array([low], np.float32), np.array([high], np.float32)
    return tflite.write(model)


def regridded(data: bytes, parent: bytes, per_channel: bool = True) -> bytes:
    """Return the int8 model with the float parent's weights on the grids of least squared error, as in ONNX.

    Weights that lie on a grid do not change. Steps of biases are those of input times weights, and scales of weights
    are large enough for their biases. With one scale per tensor, weights keep TensorFlow's grid.

    Raises:
        ConversionFailed: a convolution is in only one of the models.
    """
    model, before = tflite.read(data, "the quantized model"), tflite.read(parent, "the float model")
    floats = _by_output((output, constants) for output, _, constants in _convolutions(before) if constants is not None)
    made = _by_output((output, tensors) for output, tensors, _ in _convolutions(model))
    if other := sorted(made.keys() ^ floats.keys()):
        names = ", ".join(name.decode(errors="replace") for name in other)
        raise ConversionFailed(
            f"{len(other)} convolutions are in the float model or in the quantized one alone: {names}; "
            "nothing was written, try another version of tensorflow"
        )
    readers = defaultdict[int, list[tuple[Array, float]]](list)  # by weights, which convolutions may share
    for output, (entry, weight, _) in made.items():
        readers[id(weight)].append((floats[output][1], float(entry.quantization.scale[0])))
    fresh: dict[int, Array | None] = {}
    for output, (entry, weight, bias) in made.items():
        values, shift = floats[output]
        if id(weight) not in fresh:
            fresh[id(weight)] = _regrid(model, weight, values, readers[id(weight)], per_channel)
        scale = fresh[id(weight)]
        if scale is None:
            continue
        bias.quantization.scale = unit = entry.quantization.scale[0] * scale
        _put(model, bias, (shift / unit.astype(np.float64)).round().astype(np.int32))
    return tflite.write(model)


def _regrid(
    model: Any, weight: Any, values: Array, readers: Sequence[tuple[Array, float]], per_channel: bool
) -> Array | None:
    """Round float weights to the grid of `regridded`; return its scales, or None if the grid does not change."""
    rule = weight.quantization
    rows = np.moveaxis(values, rule.quantizedDimension, 0)
    if per_channel:
        numbers, found = grid(rows.reshape(len(rows), -1), 8)
        found = np.where(numbers.any(1), found, rule.scale)  # rows of zeros keep TensorFlow's scale
    else:
        numbers, found = np.frombuffer(model.buffers[weight.buffer].data, np.int8).reshape(1, -1), rule.scale
    scale = raised(found, numbers, readers)
    if not per_channel and (scale == found).all():
        return None
    numbers = on_grid(rows.reshape(len(scale), -1), scale, 8)
    rule.scale = scale
    _put(model, weight, np.moveaxis(numbers.reshape(rows.shape), 0, rule.quantizedDimension).astype(np.int8))
    return scale


def _put(model: Any, tensor: Any, whole: Array) -> None:
    model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(whole).tobytes(), np.uint8)


def _by_output(rows: Iterable[tuple[bytes, T]]) -> dict[bytes, T]:
    """Index rows of convolutions by the name of their output; names in a .tflite file need not be unique.

    Raises:
        ConversionFailed: two outputs have the same name.
    """
    found: dict[bytes, T] = {}
    for name, row in rows:
        if name in found:
            raise ConversionFailed(
                f"two convolutions of the converted model write a tensor {name.decode(errors='replace')}: "
                "expected names of their own; nothing was written, try another version of onnx2tf"
            )
        found[name] = row
    return found


def _convolutions(model: Any) -> Iterable[tuple[bytes, list[Any], tuple[Array, Array] | None]]:
    """Yield (name of the output; tensors of input, weights and bias; values of weights and bias if float)."""
    objects, graph = tflite.schema(), model.subgraphs[0]
    kinds = {getattr(objects.BuiltinOperator, name) for name in CONVOLUTIONS}
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) not in kinds or len(operator.inputs) < 3:
            continue
        tensors = [graph.tensors[index] for index in operator.inputs]
        constants = None
        if tensors[1].type == objects.TensorType.FLOAT32:
            weight, bias = (
                np.frombuffer(model.buffers[t.buffer].data, np.float32).reshape(t.shape) for t in tensors[1:]
            )
            constants = weight, bias
        yield graph.tensors[operator.outputs[0]].name, tensors, constants


def _maps(graph: ModelProto, tensor: Array) -> dict[str, Array]:
    """Return the maps of the graph for an image."""
    import onnxruntime as ort

    session = ort.InferenceSession(graph.SerializeToString(), making(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: tensor}), strict=True))


def _judge(artifact: Artifact, reference: Extractor, figures: Mapping[str, Any]) -> None:
    """Raise GateFailed for the first head that 8 bits or the converter damaged."""
    advice = "nothing was written; try `calibration=mse`, more photos, or another network"
    for head, cosine in figures["cosine"].items():
        if head not in reference.model.keep_float and not cosine >= COSINE:
            raise GateFailed(
                f"{artifact.path.name} in int8: head {head} has a mean cosine of {cosine:.3f} with float on photos; "
                f"expected at least {COSINE}; {advice}"
            )
    for head, ratio in figures["sqnr_db"].items():
        if not ratio >= NOISE:
            raise GateFailed(
                f"{artifact.path.name} in int8: head {head} has {ratio:.1f} dB of signal over noise on photos; "
                f"expected at least {NOISE:g}; {advice}"
            )
