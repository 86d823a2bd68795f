"""ONNX -> TFLite: float and full int8, heads identified by value, and refused files."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tflite_files import Graph, heads

from lf.cli import main
from lf.core import GateFailed, LfError, Unavailable, UsageError
from lf.export import TARGETS, export
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.formats import model_file, onnx_to_tflite, tflite, tflite_heads
from lf.formats.int32_bias import LIMIT
from lf.models import MODELS
from lf.quantize import SCHEMES, WRITERS, quantize
from lf.quantize.write import float_heads
from lf.quantize.write import tflite as writer

ROW, SIZE = "kp2dtiny-s-coral", (64, 96)
INT8, FLOAT32 = 9, 0  # of TensorType
CONV_2D = 3
missing = [name for name in onnx_to_tflite.FLOAT if not importlib.util.find_spec(name)]
converts = pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")

pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.fixture(scope="module")
def parent(network):
    return network(ROW, SIZE, loud=True)


@pytest.fixture(scope="module")
def floats(converted):
    return converted(ROW)


@pytest.fixture(scope="module")
def kept():
    """Inputs and outputs of the quantizer, replayed in tests that do not test the converter."""
    return {}


@pytest.fixture(scope="module")
def small(parent, drawn_photos, tmp_path_factory, kept, few_pictures):
    def remember(name, inner):
        def call(*args):
            kept[f"{name} of"], kept[name] = args[0], inner(*args)
            return kept[name]

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("convert", "quantize"):
            patch.setattr(onnx_to_tflite, name, remember(name, getattr(onnx_to_tflite, name)))
        return quantize(parent, "w8a8", drawn_photos, tmp_path_factory.mktemp("int8") / "net.tflite", writer="tflite")


def graph_of(artifact):
    model = tflite.read(artifact.path.read_bytes(), "test")
    return model, model.subgraphs[0]


def named_outputs(graph):
    return [graph.tensors[index].name.decode() for index in graph.outputs]


# --- the files ---


@converts
def test_a_float_file_gives_the_maps_of_its_parent(parent, floats):
    picture = next(agreement.drawn(SIZE, 1))
    old, new = Extractor(parent, "ort-cpu"), Extractor(floats, "tflite")
    tensor = new.tensor(new.fit(picture))
    expected, found = old.session.run(tensor), new.session.run(tensor)
    assert list(found) == list(MODELS[ROW].heads)
    for head, value in expected.items():
        assert np.abs(found[head] - value).max() < 1e-4 * np.abs(value).max()


@converts
def test_a_float_file_says_how_it_was_made(parent, floats):
    step = model_file.load(floats.path).card.made[-1]
    assert step.options == {"to": "tflite", "size": [*SIZE]}
    assert (step.parent, step.opset) == (parent.sha256, 17)
    assert {"onnx2tf", "tensorflow"} <= step.versions.keys()
    assert step.parity["identical"] == 1


@converts
@pytest.mark.parametrize("kind", ["floats", "small"])
def test_tensors_are_named_after_heads_and_nothing_else_names_them(kind, request):
    model, graph = graph_of(request.getfixturevalue(kind))
    assert named_outputs(graph) == list(MODELS[ROW].heads)
    assert [graph.tensors[index].name for index in graph.inputs] == [b"image"]
    assert not model.signatureDefs
    assert len({tensor.name for tensor in graph.tensors}) == len(graph.tensors)


@converts
def test_nearest_upsampling_is_the_version_that_devices_know(floats):
    model, graph = graph_of(floats)
    codes = tflite.schema().BuiltinOperator
    resizes = [
        (model.operatorCodes[operator.opcodeIndex], operator.builtinOptions)
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode == codes.RESIZE_NEAREST_NEIGHBOR
    ]
    assert [(code.version, options.halfPixelCenters) for code, options in resizes] == [(1, False)]


@converts
def test_an_int8_file_is_int8_from_end_to_end(small):
    _, graph = graph_of(small)
    ends = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
    assert {tensor.type for tensor in ends} == {INT8}
    assert FLOAT32 not in {tensor.type for tensor in graph.tensors}
    assert len({float(tensor.quantization.scale[0]) for tensor in ends}) == len(ends)


@converts
def test_an_int8_file_is_near_its_parent_and_says_how_near(parent, small):
    step = model_file.load(small.path).card.made[-1]
    assert step.options == {"scheme": "w8a8", "engine": "tflite"}
    assert step.calibration.count == 4
    assert step.parity["sqnr_db"].keys() == MODELS[ROW].heads.keys()
    assert min(step.parity["sqnr_db"].values()) > 12  # random weights; trained ones read 30 to 35
    assert noise(parent, small) < 10**-1.5


def noise(parent, artifact):
    """Noise of the descriptors of drawn images, relative to the signal."""
    old, new = Extractor(parent, "ort-cpu"), Extractor(artifact, "tflite")
    tensors = [new.tensor(new.fit(picture)) for picture in agreement.drawn(SIZE, 4)]
    pairs = [(old.session.run(tensor)["feat"], new.session.run(tensor)["feat"]) for tensor in tensors]
    return sum(np.square(b - a).sum() for a, b in pairs) / sum(np.square(a).sum() for a, _ in pairs)


def kernels(data):
    """Name -> the weights of every convolution, as float32, and how many scales they have."""
    model, found = tflite.read(data, "test"), {}
    for tensor in model.subgraphs[0].tensors:
        if len(tensor.shape) == 4 and (raw := model.buffers[tensor.buffer].data) is not None and len(raw):
            values, scale = np.frombuffer(raw, np.float32 if tensor.type == FLOAT32 else np.int8), np.ones(1)
            if tensor.type != FLOAT32:
                scale = tensor.quantization.scale
            found[tensor.name] = values.reshape(tensor.shape) * scale.reshape(-1, 1, 1, 1), len(scale)
    return found


@converts
def test_weights_stay_on_the_grids_that_rounding_made(small, kept):
    """The float weights lie on grids already; TensorFlow would stretch each to the largest weight of its channel."""
    ours, theirs = kernels(small.path.read_bytes()), kernels(kept["quantize"])
    lost = []
    for name, (values, _) in kernels(kept["convert"]).items():
        if values.size > values.shape[0] * 3:  # not the mean of the picture
            assert ours[name][1] == len(values)
            np.testing.assert_allclose(ours[name][0], values, atol=1e-6 * np.abs(values).max())
            lost.append(np.abs(theirs[name][0] - values).max() / np.abs(values).max())
    assert len(lost) == 17
    assert np.median(lost) > 1e-3


def biases(data, parent):
    """Yield for every convolution: int32 bias and its scale, scales of weights and input, float bias."""
    model, before = (tflite.read(each, "test") for each in (data, parent))
    floats = {name: constants[1] for name, _, constants in writer._convolutions(before)}
    for name, (entry, weight, bias), _ in writer._convolutions(model):
        held = np.frombuffer(np.asarray(model.buffers[bias.buffer].data, np.uint8).tobytes(), np.int32)
        yield held, bias.quantization.scale, weight.quantization.scale, entry.quantization.scale[0], floats[name]


def dimmed(data, factors, dtype):
    """The same model with the weights of convolutions multiplied by factors that alternate by channel."""
    model = tflite.read(data, "test")
    for _, (_, weight, _), _ in writer._convolutions(model):
        held = np.frombuffer(np.asarray(model.buffers[weight.buffer].data, np.uint8).tobytes(), dtype)
        rows = np.moveaxis(held.reshape(weight.shape), weight.quantization.quantizedDimension, 0).copy()
        rows *= np.resize(np.array(factors, dtype), len(rows))[:, None, None, None]
        ordered = np.ascontiguousarray(np.moveaxis(rows, 0, weight.quantization.quantizedDimension))
        model.buffers[weight.buffer].data = np.frombuffer(ordered.tobytes(), np.uint8)
    return tflite.write(model)


def tensorwise(data, parent):
    """The same int8 model with one scale per tensor of weights, by a quantizer that does not look at the bias."""
    model, before = (tflite.read(each, "test") for each in (data, parent))
    floats = {name: constants for name, _, constants in writer._convolutions(before)}
    for name, (entry, weight, bias), _ in writer._convolutions(model):
        values, shift = floats[name]
        scale = np.array([np.abs(values).max() / 127 or 1], np.float32)
        unit = entry.quantization.scale[0] * scale
        weight.quantization.scale, bias.quantization.scale = scale, unit
        steps = np.clip((shift / unit.astype(np.float64)).round(), -(2**31), 2**31 - 1)
        for tensor, numbers in ((weight, (values / scale).round().astype(np.int8)), (bias, steps.astype(np.int32))):
            model.buffers[tensor.buffer].data = np.frombuffer(numbers.tobytes(), np.uint8)
            tensor.quantization.zeroPoint = np.zeros(1, np.int64)
    return tflite.write(model)


@converts
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("factors", [[1, 0], [1, 1e-9, 1e-30, 1e-42], [0], [1e-6, 1]])
def test_biases_fit_whatever_the_weights_of_their_channel_are(small, kept, per_channel, factors):
    """The least scale that int32 has room for, for zeros just that: no bias moves by whole steps."""
    parent, made = dimmed(kept["quantize of"], factors, np.float32), kept["quantize"]
    if not per_channel:
        made = tensorwise(made, parent)
    for bias, unit, scale, entry, wanted in biases(writer.regridded(made, parent, per_channel), parent):
        assert np.abs(bias.astype(np.int64)).max() <= LIMIT
        np.testing.assert_allclose(np.broadcast_to(unit, scale.shape), scale * entry, rtol=1e-6)
        off = np.abs(bias * unit.astype(np.float64) - wanted)
        assert (off <= 0.501 * unit).all()
        dim = np.resize(np.array(factors) < 1, len(off))
        assert (off[dim] <= 1e-6 * np.abs(wanted[dim])).all() or not (per_channel or dim.all())


# --- convolutions that share weights or names


def pair_of(floats, names=("one", "two"), biases=((0.5, 0.25), (3.0, 0.0))):
    """Two convolutions 1x1, one after the other, with the same weights, tiny beside their biases."""
    graph, kernel = Graph(), np.full((2, 1, 1, 2), 1e-12)
    dtype = np.float32 if floats else np.int8
    entry = graph.tensor("image", (1, 4, 4, 2), dtype, None if floats else (1 / 255, -128))
    for name, bias in zip(names, biases, strict=True):
        rules = (1 / 255, -128), np.full(2, 1e-12 / 127), (0.01, 0)
        values = (kernel.astype(np.float32), bias) if floats else (np.full(kernel.shape, 127), (0, 0))
        entry = graph.convolution(entry, name, *values, 1, rules, floats)
    first, second = graph.graph.operators
    second.inputs[1] = first.inputs[1]
    graph.graph.inputs, graph.graph.outputs = [0], [entry]
    return tflite.write(graph.model)


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_that_two_layers_share_have_a_scale_for_both(per_channel):
    """Each bias has the scale of its own input times that of the weights, and fits."""
    data, parent = pair_of(False), pair_of(True)
    if not per_channel:
        data = tensorwise(data, parent)
    found = [*biases(writer.regridded(data, parent, per_channel), parent)]
    assert len(found) == 2
    for bias, unit, scale, entry, wanted in found:
        np.testing.assert_allclose(np.broadcast_to(unit, scale.shape), scale * entry, rtol=1e-6)
        np.testing.assert_allclose(bias * unit.astype(np.float64), wanted, rtol=1e-6)
    assert max(np.abs(row[0]).max() for row in found) == pytest.approx(LIMIT, rel=2e-6)


def test_convolutions_whose_tensors_have_one_name_are_refused():
    with pytest.raises(LfError, match="two convolutions of the converted model write a tensor same: expected names"):
        writer.regridded(pair_of(False, ("same", "same")), pair_of(True, ("same", "same")))


def test_convolutions_of_one_model_alone_are_refused():
    said = "2 convolutions are in the float model or in the quantized one alone: three, two; nothing was written"
    with pytest.raises(LfError, match=said):
        writer.regridded(pair_of(False, ("one", "three")), pair_of(True))


# --- what must not be written ---


@converts
def test_a_file_with_a_bias_that_saturates_is_refused(parent, drawn_photos, kept, small, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_to_tflite, "convert", lambda graph: kept["convert"])
    monkeypatch.setattr(onnx_to_tflite, "quantize", lambda *_: kept["quantize"])

    def small_scales(scale, numbers, readers):
        ((bias, entry),) = readers
        return np.full_like(scale, np.abs(bias).max() / (entry * 1.5 * LIMIT) + 1e-30)

    monkeypatch.setattr(writer, "raised", small_scales)
    with pytest.raises(GateFailed, match=r"\.onnx: the int32 bias .* reaches \d+, expected at most 1073741824"):
        quantize(parent, "w8a8", drawn_photos, tmp_path / "net.tflite", writer="tflite")
    assert not (tmp_path / "net.tflite").exists()


@converts
def test_outputs_that_are_no_heads_are_refused(parent, kept, small, tmp_path, monkeypatch):
    """The converter's own file with other first weights: right shapes, wrong numbers."""
    model = tflite.read(kept["convert"], "test")
    first = next(op for op in model.subgraphs[0].operators if op.outputs.size and len(op.inputs) == 3)
    buffer = model.buffers[model.subgraphs[0].tensors[first.inputs[1]].buffer]
    buffer.data = (np.frombuffer(buffer.data, np.float32) * np.float32(1.5)).view(np.uint8)
    monkeypatch.setattr(onnx_to_tflite, "convert", lambda graph, half: tflite.write(model))
    with pytest.raises(GateFailed, match=r"no output that gives the head score \(1x16x24\): the nearest differs by"):
        export(parent, "tflite", tmp_path / "wrong.tflite")
    assert not [*tmp_path.iterdir()]


@converts
@pytest.mark.parametrize("head", ["shift", "feat"])
def test_a_head_that_int8_destroyed_is_refused(parent, drawn_photos, kept, small, tmp_path, monkeypatch, head):
    model = tflite.read(kept["quantize"], "test")
    tensor = next(t for t in model.subgraphs[0].tensors if t.name == head.encode())
    zero = tensor.quantization.zeroPoint
    tensor.quantization.zeroPoint = np.where(zero > 0, -128, 127)  # as if dequantized with the numbers of another
    monkeypatch.setattr(onnx_to_tflite, "convert", lambda graph: kept["convert"])
    monkeypatch.setattr(onnx_to_tflite, "quantize", lambda data, per_channel: tflite.write(model))
    with pytest.raises(GateFailed, match=f"in int8: head {head} has .* on photos; expected at least"):
        quantize(parent, "w8a8", drawn_photos, tmp_path / "wrong.tflite", writer="tflite")
    assert not [*tmp_path.iterdir()]


# --- telling heads apart ---


@pytest.mark.parametrize("order", [1, -1])
def test_heads_of_one_shape_are_told_apart_by_value(order):
    model, answer = heads("r2d2", floats=True, order=order)  # reliability and repeatability are (1, h, w)
    image = np.random.default_rng(1).random((1, 3, 16, 24), np.float32)
    graph = model.subgraphs[0]
    for index, number in enumerate(graph.outputs):
        graph.tensors[number].name = f"StatefulPartitionedCall:{index}"
    graph.tensors[0].name = "serving_default_image:0"
    made = tflite_heads.named(tflite.write(model), image, answer(image))
    found = tflite.read(made, "test").subgraphs[0]
    assert named_outputs(found) == list(MODELS["r2d2"].heads)
    values = tflite_heads.run(made, image)
    for index, expected in zip(found.outputs, answer(image).values(), strict=True):
        np.testing.assert_allclose(values[int(index)], expected, atol=1e-3)


def test_a_tensor_that_has_the_name_of_a_head_already_gives_it_up():
    model, answer = heads("wren", floats=True)
    image = np.random.default_rng(1).random((1, 1, 16, 24), np.float32)
    graph = model.subgraphs[0]
    first, second = (graph.tensors[index] for index in graph.outputs)
    first.name, second.name = second.name, first.name
    found = tflite.read(tflite_heads.named(tflite.write(model), image, answer(image)), "test").subgraphs[0]
    assert named_outputs(found) == ["detector", "descriptor"]
    values = {65: "detector", 64: "descriptor"}
    assert [values[int(found.tensors[index].shape[3])] for index in found.outputs] == named_outputs(found)


def test_one_output_is_not_two_heads():
    model, answer = heads("wren", floats=True)
    image = np.random.default_rng(1).random((1, 1, 16, 24), np.float32)
    maps = answer(image)
    with pytest.raises(GateFailed, match=r"the head descriptor \(65x2x3\): none has its shape"):
        tflite_heads.named(tflite.write(model), image, {"detector": maps["detector"], "descriptor": maps["detector"]})


# --- heads on the host ---


def pointwise(kernel, square=True):
    """ONNX: a convolution to `descriptor` of 4 channels, and `head`, another of (the square of) it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["image", "w"], ["descriptor"], pads=[1, 1, 1, 1])]
    nodes += [helper.make_node("Mul", ["descriptor", "descriptor"], ["squared"])] if square else []
    middle, pad = "squared" if square else "descriptor", kernel // 2
    nodes += [helper.make_node("Conv", [middle, "v", "b"], ["two"], pads=[pad] * 4)]
    nodes += [helper.make_node("Split", ["two"], ["one", "other"], axis=1, num_outputs=2)]
    nodes += [helper.make_node("Sub", ["other", "one"], ["head"])]
    weights = {"w": (4, 3, 3, 3), "v": (2, 4, kernel, kernel), "b": (2,)}
    tensors = [numpy_helper.from_array(rng.random(shape, np.float32), name) for name, shape in weights.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, "h", "w"]) for n, c in (("image", 3),)]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, "h", "w"]) for n, c in OUTS.items()]
    proto = helper.make_model(
        helper.make_graph(nodes, "net", ends, outs, tensors),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(proto)
    return proto, {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


OUTS = {"descriptor": 4, "head": 1}


@pytest.mark.parametrize("square", [True, False])
def test_a_head_that_is_a_matrix_product_goes_to_the_host(square):
    proto, weights = pointwise(1, square)
    graph, (head,) = float_heads.cut(proto, ["head"])
    assert [output.name for output in graph.graph.output] == ["descriptor"]
    assert [node.op_type for node in graph.graph.node] == ["Conv"]
    assert (head["head"], head["input"], head["square"]) == ("head", "descriptor", square)
    expected = weights["v"][1] - weights["v"][0]
    np.testing.assert_allclose(head["weight"], expected.reshape(1, 4), atol=1e-6)
    np.testing.assert_allclose(head["bias"], [weights["b"][1] - weights["b"][0]], atol=1e-6)


@pytest.mark.parametrize(("kernel", "heads"), [(3, ["head"]), (1, [])])
def test_what_is_none_or_is_not_fragile_stays(kernel, heads):
    proto, _ = pointwise(kernel)
    assert float_heads.cut(proto, heads) == (proto, [])


def test_the_fragile_heads_of_r2d2_go_to_the_host_and_those_of_superpoint_stay(network):
    import onnx

    for row, count in (("r2d2", 2), ("fast-r2d2", 2), ("superpoint-small", 0)):
        proto = onnx.load(network(row).path)
        graph, found = float_heads.cut(proto, MODELS[row].keep_float)
        assert len(found) == count
        assert len(graph.graph.output) == len(MODELS[row].heads) - count


# --- static size and operator set ---


@pytest.mark.parametrize("opset", [18, 20])
def test_a_free_size_is_settled_and_the_operator_set_lowered(network, opset):
    import onnx
    from onnx import version_converter

    proto = onnx.load(network("wren", None).path)
    if opset > 18:
        proto = version_converter.convert_version(proto, opset)
    made = onnx_to_tflite.static(proto, (40, 56))
    shapes = [[d.dim_value for d in out.type.tensor_type.shape.dim] for out in (*made.graph.input, *made.graph.output)]
    assert shapes == [[1, 1, 40, 56], [1, 65, 5, 7], [1, 64, 5, 7]]
    assert (onnx_to_tflite.opset(proto), onnx_to_tflite.opset(made)) == (opset, onnx_to_tflite.OPSET)


def test_an_operator_without_a_rule_keeps_its_set(network):
    import onnx

    made = onnx_to_tflite.static(onnx.load(network("r2d2").path), (64, 96))  # Split of set 18 cannot be said in 17
    assert onnx_to_tflite.opset(made) == 18


# --- the other process ---


def stand_in(tmp_path, monkeypatch, script):
    """Have a shell script take the place of the interpreter."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setattr(onnx_to_tflite, "_demand", lambda modules: None)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo a >&2; echo 'ERROR: no such operator' >&2; echo '====' >&2; exit 1", "ERROR: no such operator;"),
        ("printf '\\033[31mERROR:\\033[0m red\\n'; exit 3", "ERROR: red; nothing was written"),
        ("exit 0", "exit code 0; nothing was written"),  # an end without a file is no success
        ("exit 139", "exit code 139"),
    ],
)
def test_a_converter_that_fails_is_quoted(tmp_path, monkeypatch, script, text):
    stand_in(tmp_path, monkeypatch, script)
    with pytest.raises(LfError, match="the conversion to TFLite failed: ") as caught:
        onnx_to_tflite.quantize(b"")
    assert text in str(caught.value)


def test_a_converter_that_hangs_is_ended(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(onnx_to_tflite, "SECONDS", 0.2)
    with pytest.raises(LfError, match=r"took more than 0\.2 s and was ended"):
        onnx_to_tflite.quantize(b"")


def test_the_process_gets_its_job_and_its_file_comes_back(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, 'cp "$3/model.tflite" "$3/out.tflite"; cp "$3/job.json" "$(dirname "$0")"')
    assert onnx_to_tflite.quantize(b"a model", per_channel=False) == b"a model"
    assert json.loads((tmp_path / "job.json").read_text()) == {"job": "integer", "per_channel": False}


@pytest.mark.parametrize("absent", ["onnx2tf", "tensorflow", "tf_keras"])
def test_a_missing_package_is_named(parent, tmp_path, monkeypatch, absent):
    found = SimpleNamespace(find_spec=lambda name: None if name == absent else True)
    monkeypatch.setattr(onnx_to_tflite, "importlib", SimpleNamespace(util=found, metadata=importlib.metadata))
    with pytest.raises(
        Unavailable, match=rf'making \.tflite files needs {absent}; type: pip install "lf-keypoints\[tflite\]"'
    ):
        export(parent, "tflite", tmp_path / "net.tflite")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("version", "job"), [("1.28.8", "float"), ("2.6.9", "direct"), ("1.20.0", None), ("2.4.1", None)]
)
def test_the_way_is_chosen_by_the_version_of_onnx2tf(network, monkeypatch, version, job):
    import onnx

    jobs = []
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(onnx_to_tflite, "_demand", lambda modules: None)
    monkeypatch.setattr(onnx_to_tflite, "_run", lambda told, data: jobs.append(told["job"]))
    proto = onnx.load(network("wren").path)
    if job is None:
        with pytest.raises(Unavailable, match=f"onnx2tf {version} is not known to lf; type: pip install"):
            onnx_to_tflite.convert(proto)
    else:
        onnx_to_tflite.convert(proto)
        assert jobs == [job]


# --- what is asked for ---


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name not in WRITERS["tflite"].schemes])
def test_a_scheme_that_tflite_does_not_have_is_refused(parent, scheme):
    with pytest.raises(UsageError, match=f"`writer=tflite` knows no scheme {scheme}; known: w8a8, w8a8-tensor"):
        quantize(parent, scheme, writer="tflite")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"images": None}, "scheme w8a8 needs calibration images"),
        ({"bits": {"feat": 32}}, "`writer=tflite` puts every layer in 8 bits; leave out the settings of feat"),
        ({"out": "net.onnx"}, "writer tflite makes .tflite files; type: -o net.tflite"),
        ({"size": (80, 80)}, "`size=80x80`: "),
        ({"size": (80, 80)}, " takes 64x96 only; leave `size` out"),
    ],
)
def test_quantize_says_what_does_not_fit(parent, drawn_photos, tmp_path, options, text):
    given = {"images": drawn_photos, "out": tmp_path / options.pop("out", "net.tflite"), **options}
    with pytest.raises(UsageError) as caught:
        quantize(parent, "w8a8", writer="tflite", **given)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("size", "writer", "text"),
    [
        ((60, 80), "tflite", "`size=60x80`: wren needs multiples of 8; for example `size=64x80`"),
        ((64, 96), "ort", r"`size=64x96`: `writer=ort` keeps the size of .+tiny\.onnx; leave `size` out"),
    ],
)
def test_a_size_that_a_writer_cannot_make_is_refused(tiny, drawn_photos, tmp_path, size, writer, text):
    with pytest.raises(UsageError, match=text):
        quantize(tiny(), "w8a8", drawn_photos, size=size, writer=writer)


@pytest.mark.parametrize(("given", "made"), [((), (240, 320)), (("--size", "64x96"), (64, 96))])
def test_a_file_of_free_size_becomes_one_of_the_size_asked_for(
    lf, tiny, drawn_photos, tmp_path, monkeypatch, given, made
):
    seen = []

    def convert(graph):
        seen.append(tuple(graph.graph.input[0].type.tensor_type.shape.dim[axis].dim_value for axis in (2, 3)))
        raise LfError("seen")

    monkeypatch.setattr(writer.onnx_to_tflite, "convert", convert)
    words = ("quantize", tiny().path, "--for", "tflite", *given, "--images", drawn_photos, "-o", tmp_path / "x.tflite")
    assert lf(*words) == (1, "", "lf: seen\n")
    assert seen == [made]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": None}, "a .tflite file takes one size; type for example: `size=240x320`"),
        ({"size": (80, 80)}, "takes images of 64x96 only; leave `size` out"),
        ({"opset": 18}, "has its operator set; `opset` is for checkpoints"),
    ],
)
def test_export_says_what_does_not_fit(parent, tmp_path, options, text):
    with pytest.raises(UsageError) as caught:
        export(parent, "tflite", tmp_path / "net.tflite", **options)
    assert text in str(caught.value)


def test_export_starts_from_float(tiny, tmp_path):
    source = tiny()
    model_file.save(source.path, source.path.read_bytes(), source.card.step(scheme="w8a8"))
    with pytest.raises(UsageError, match=r"starts from float \.onnx or a checkpoint, this one is w8a8"):
        export(model_file.load(source.path), "tflite", tmp_path / "net.tflite")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["export", "--half"], "--half belongs to --to tflite"),
        (["quantize", "--for", "tflight"], "unknown writer 'tflight'; did you mean 'tflite'?"),
    ],
)
def test_the_command_says_what_does_not_fit(parent, capsys, monkeypatch, words, text):
    monkeypatch.setattr(sys, "argv", ["lf", *words, str(parent.path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == UsageError.exit_code
    assert text in capsys.readouterr().err


def test_the_rows_are_there():
    assert TARGETS["tflite"].suffix == WRITERS["tflite"].suffix == ".tflite"
    assert set(WRITERS["tflite"].schemes) < set(SCHEMES)
