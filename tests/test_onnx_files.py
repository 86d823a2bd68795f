"""ONNX files as other tools leave them: without names, optimised, quantized, of old versions, weights elsewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lf.core import BadInput, LfError, UsageError
from lf.export import export
from lf.extraction.extractor import Extractor
from lf.formats import model_file, onnx_bytes, onnx_model
from lf.quantize import open_photos, quantize
from lf.quantize.round import weight_grids
from lf.quantize.search import budget, sensitivity
from lf.quantize.write import checks, tflite
from lf.runtimes import open_session
from scripts import compare_peak

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SIZE = (64, 96)  # H, W
ENGINES = ("ort-cpu", "openvino", "opencv-dnn")
AGAIN = "make it again: lf export CHECKPOINT --to onnx"
pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.fixture(scope="module")
def wren(network):
    return network("wren", loud=True)


@pytest.fixture(scope="module")
def reference(wren, drawn_photos, tmp_path_factory, few_pictures):
    """The w8a8 file of the unchanged network, for a rounding."""
    folder = tmp_path_factory.mktemp("reference")

    @cache
    def make(rounding="nearest"):
        return quantize(wren, "w8a8", drawn_photos, folder / f"{rounding}.onnx", rounding=rounding)

    return make


@pytest.fixture
def changed(wren, tmp_path):
    """The file after a function changed its model, in place or by giving another."""

    def make(change, parent=wren, name="changed.onnx"):
        model = onnx.load(parent.path)
        made = change(model) or model
        made.ClearField("metadata_props")
        return model_file.save(tmp_path / name, made.SerializeToString(), parent.card)

    return make


@pytest.fixture
def low(drawn_photos, tmp_path):
    """A quick w8a8 file of an artifact."""

    def make(parent, **options):
        return quantize(parent, "w8a8", drawn_photos, tmp_path / "low.onnx", **{"rounding": "nearest", **options})

    return make


def convolutions(model):
    return [node for node in model.graph.node if node.op_type == "Conv"]


def maps(artifact):
    tensor = np.random.default_rng(0).random((1, 1, *SIZE), np.float32)
    return open_session(artifact, "ort-cpu").run(tensor)


def assert_same(made, reference):
    """Bit by bit what the reference computes, with as many convolutions in integers."""
    for head, expected in maps(reference).items():
        np.testing.assert_array_equal(maps(made)[head], expected)
    ours, theirs = (artifact.card.made[-1] for artifact in (made, reference))
    assert ours.integer_convolutions == theirs.integer_convolutions == 10
    assert ours.parity == theirs.parity


def no_names(model):
    for node in model.graph.node:
        node.ClearField("name")


def two_without(model):
    """Remove the names of two convolutions with the same shape."""
    for node in convolutions(model)[5:7]:
        node.ClearField("name")


def one_name(model):
    for node in convolutions(model):
        node.name = "conv"


def name_of_another(model):
    """The name that the second would get belongs to the first and to every Relu."""
    first, second, *_ = convolutions(model)
    first.name, second.name = second.name, ""
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.name = first.name


def paths(model):
    for node in convolutions(model):
        node.name = f"/net/{node.name}/Conv"


def quantizers_name(model):
    convolutions(model)[2].name = f"{convolutions(model)[1].name}_quant"


# --- names


@pytest.mark.parametrize("change", [no_names, two_without, one_name, name_of_another, quantizers_name])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_names_of_nodes_change_nothing(change, rounding, changed, low, reference):
    made = low(changed(change), rounding=rounding)
    assert_same(made, reference(rounding))
    names = [node.name for node in onnx.load(made.path).graph.node]
    assert len({*names}) == len(names)
    assert "" not in names


def test_convolutions_are_named_after_their_weights(wren, changed):
    given = [node.name for node in convolutions(onnx.load(wren.path))]
    assert {"trunk.5.0", "detector.1"} < {*given}
    for change in (no_names, two_without):
        assert [node.name for node in convolutions(onnx_model.read(changed(change).path))] == given
    found = [node.name for node in convolutions(onnx_model.read(changed(one_name).path))]
    assert found == ["conv", *given[1:]], "the first keeps its name"
    found = [node.name for node in convolutions(onnx_model.read(changed(name_of_another).path))]
    assert found[:3] == [given[1], f"{given[1]}_2", given[2]]
    others = [node for node in onnx_model.read(changed(no_names).path).graph.node if node.op_type != "Conv"]
    assert [node.name for node in others] == [node.output[0] for node in others]


def test_what_has_names_is_left_alone(wren):
    assert onnx_model.read(wren.path) == onnx.load(wren.path)
    data = wren.path.read_bytes()
    assert onnx_bytes.single_names(data) is data


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_run_files_whose_names_clash(engine, wren, changed):
    pytest.importorskip({"ort-cpu": "onnxruntime", "opencv-dnn": "cv2"}.get(engine, engine))
    tensor = np.random.default_rng(0).random((1, 1, *SIZE), np.float32)
    before, after = (open_session(each, engine).run(tensor) for each in (wren, changed(one_name)))
    for head, expected in before.items():
        np.testing.assert_array_equal(after[head], expected)


def test_an_output_that_is_a_constant_is_written_by_a_node():
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y", "w")}
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    weights = [numpy_helper.from_array(np.float32([[3, 4]]), "w")]
    graph = helper.make_graph(nodes, "g", [info["x"]], [info["y"], info["w"]], weights)
    model = onnx_model.prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    onnx.checker.check_model(model, full_check=True)
    assert not {tensor.name for tensor in model.graph.initializer} & {output.name for output in model.graph.output}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, w = session.run(["y", "w"], {"x": np.float32([[1, 1]])})
    assert (y.tolist(), w.tolist()) == ([[4, 5]], [[3, 4]])
    before = model.SerializeToString()
    assert onnx_model.prepare(model).SerializeToString() == before


def test_layers_without_names_can_be_asked_for(changed, low):
    made = low(changed(no_names), bits={"trunk.5.0": 4, "detector": 32})
    step = made.card.made[-1]
    assert (step.bits, step.kept_float) == ({"trunk.5.0": 4}, ["detector.1"])
    with pytest.raises(
        UsageError, match=r"has no head or convolution 'conv'; known: detector, descriptor, trunk.0.0, "
    ):
        low(changed(no_names), bits={"conv": 4})


def test_sensitivity_sees_every_layer(wren, changed, tmp_path, monkeypatch):
    expected = sensitivity.Layers(wren, "w4", None)
    for change in (no_names, one_name, paths):
        layers = sensitivity.Layers(changed(change), "w4", None)
        assert len(layers.names) == len({*layers.names}) == 11
        for ours, theirs in list(zip(layers.names, expected.names, strict=True))[4:7]:
            with layers.opened(ours, ["weights"], 4) as variant, expected.opened(theirs, ["weights"], 4) as other:
                assert variant.path.parent.name.startswith("lf-quantize-"), "whatever the layer is called"
                assert layers.sqnr(variant) == expected.sqnr(other)


def test_a_search_weighs_every_layer(wren, changed):
    asked = {"trunk.5.0": 8}
    tasks = [budget.Task(each, "w4", None, {}, None, None, 1, asked, {}, {}) for each in (wren, changed(no_names))]
    ladders = [budget._ladders(task) for task in tasks]
    assert ladders[0] == ladders[1]
    assert ladders[0]["trunk.5.0"].ladder == (8,)


def test_tflite_rounds_every_convolution(wren, changed, drawn_photos):
    def rounded(artifact):
        graph, photos = onnx_model.read(artifact.path), open_photos("w8a8", drawn_photos, limit=1)
        extractor = Extractor(artifact, "ort-cpu")
        grids = tflite._grids(artifact.path, graph, "gptq", photos, [*photos.tensors(extractor)])
        return {t.name: numpy_helper.to_array(t) for t in tflite.rounded(graph, grids).graph.initializer}

    ours, theirs = rounded(changed(no_names)), rounded(wren)
    assert sum(name.endswith(".rounded") for name in ours) == 11
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values)


def renamed(old, new):
    def change(model):
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        for each in (*model.graph.initializer, *model.graph.value_info):
            each.name = new if each.name == old else each.name

    return change


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trunk.2.0.weight_bias", "trunk.1.0.weight_scale"),
        ("trunk.2.0.weight_bias", "trunk.1.0.weight_quantized"),
        ("relu_3", "relu_2_scale"),
        ("relu_3", "relu_2_DequantizeLinear_Output"),
        ("relu_3", "trunk.1.0.weight_bias_quantized_scale"),
    ],
)
def test_tensors_with_the_names_that_a_quantizer_gives(old, new, changed, low, reference):
    assert_same(low(changed(renamed(old, new))), reference())


@pytest.mark.parametrize("new", ["keypoints", "decode.constant.1", "decode.Softmax.0"])
def test_tensors_with_the_names_that_the_decode_gives(new, wren, changed, tmp_path):
    made = export(changed(renamed("relu_3", new)), "onnx", tmp_path / "a.onnx", cut="features", top_k=50)
    expected = export(wren, "onnx", tmp_path / "b.onnx", cut="features", top_k=50)
    for name, value in maps(expected).items():
        np.testing.assert_array_equal(maps(made)[name], value)


def test_nodes_with_the_names_that_the_decode_gives(changed, tmp_path):
    def change(model):
        for index, node in enumerate(model.graph.node):
            node.name = f"decode.{index}"

    made = export(changed(change), "onnx", tmp_path / "a.onnx", cut="features", top_k=50)
    names = [node.name for node in onnx.load(made.path).graph.node]
    assert len({*names}) == len(names)
    assert names[:2] == ["network.decode.0", "network.decode.1"]


# --- weights that two convolutions share


def shared_weights(model):
    first, second = convolutions(model)[5:7]
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == second.input[1]))
    second.input[1] = first.input[1]


def test_shared_weights_are_stored_once_where_bits_are_the_same(changed, low):
    made = onnx.load(low(changed(shared_weights), rounding="gptq").path)
    stored = {node.input[1] for node in convolutions(made) if node.name in ("trunk.5.0", "trunk.6.0")}
    assert len(stored) == 1


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pytest.mark.parametrize("bits", [{"trunk.5.0": 4}, {"trunk.6.0": 4}, {"trunk.5.0": 16}, {"trunk.6.0": 16}])
def test_shared_weights_of_other_bits_are_two(bits, rounding, changed, low):
    made = onnx.load(low(changed(shared_weights), bits=bits, rounding=rounding).path)
    constants = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    kinds = {node.output[0]: constants.get(node.input[0]) for node in made.graph.node}
    found = {node.name: kinds.get(node.input[1]) for node in convolutions(made)}
    kind = {4: TensorProto.INT4, 16: TensorProto.INT16, 8: TensorProto.INT8}
    for name in ("trunk.5.0", "trunk.6.0"):
        assert found[name] == kind[bits.get(name, 8)]


def test_weights_that_others_read_stay_float_for_them():
    weights = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "a"),
        helper.make_node("Conv", ["a", "w"], ["b"], "b"),
        helper.make_node("Mul", ["b", "w"], ["y"], "mul"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [weights]))
    weight_grids.untie(model, {"a": 4, "b": 4})
    assert [[*node.input] for node in model.graph.node] == [["x", "w"], ["a", "w"], ["b", "mul.weight"]]
    weight_grids.untie(model, {"a": 4, "b": 8})
    assert [[*node.input] for node in model.graph.node] == [["x", "w"], ["a", "b.weight"], ["b", "mul.weight"]]
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "mul.weight", "b.weight"]


# --- files that another tool has optimised or quantized


def optimised(parent, path, level):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(parent.path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return model_file.load(path)


@pytest.mark.parametrize("level", ["EXTENDED", "ALL"])
def test_what_onnxruntime_has_optimised_is_refused(level, wren, lf, drawn_photos, tmp_path):
    path = tmp_path / "fast.onnx"
    optimised(wren, path, level)
    why = rf"lf: {path}: was optimised by ONNX Runtime: it holds \w+ of the domain com\.microsoft[\w.]*; "
    calibrated = "--images", drawn_photos, "-o", tmp_path / "out.onnx"
    for words, step in (
        (("quantize", path, *calibrated), "quantize"),
        (("quantize", path, "--scheme", "fp16", "-o", tmp_path / "out.onnx"), "quantize"),
        (("quantize", path, "--for", "tflite", "--images", drawn_photos, "-o", tmp_path / "out.tflite"), "quantize"),
        (("search", path, *calibrated, "--max-drop", "mma@3=0.1", "--data", "procedural:2"), "quantize"),
        (("sensitivity", path, "--images", drawn_photos, "--out", tmp_path / "sensitivity"), "quantize"),
        (("export", path, "--to", "tflite", "-o", tmp_path / "out.tflite"), "export"),
    ):
        code, out, err = lf(*words)
        assert (code, out) == (5, "")
        assert re.fullmatch(f"{why}{step} what it was made from, or {AGAIN}\n", err)
    assert [*tmp_path.iterdir()] == [path]


def test_operations_are_not_counted_of_what_onnxruntime_has_optimised(wren, tmp_path):
    optimised(wren, tmp_path / "fast.onnx", "EXTENDED")
    with pytest.raises(BadInput, match=r"fast.onnx: was optimised by ONNX Runtime: it holds FusedConv .*; measure"):
        compare_peak.rates([tmp_path / "fast.onnx"], "ort-cpu", 1)


def test_what_onnxruntime_has_only_simplified_is_quantized(wren, low, tmp_path):
    made = low(optimised(wren, tmp_path / "basic.onnx", "BASIC"))
    assert made.card.made[-1].integer_convolutions == 10


def test_what_is_quantized_already_is_refused(low, changed, reference):
    model = onnx.load(reference().path)
    path = changed(lambda _: model).path  # with the card of the float file
    with pytest.raises(BadInput, match=r"is quantized already: it holds DequantizeLinear, though its card says fp32"):
        low(model_file.load(path))


@pytest.mark.parametrize("both", [True, False])
def test_half_is_refused(both, wren, changed, low, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = changed(lambda model: convert_float_to_float16(model, keep_io_types=not both))
    with pytest.raises(
        BadInput, match=r"changed.onnx: 11 of its 11 convolutions, trunk.0.0 \(Conv\), .* would not be "
    ):
        low(half)
    with pytest.raises(BadInput, match=r"changed.onnx: (not a valid ONNX graph|ONNX Runtime cannot)"):
        export(half, "onnx", tmp_path / "cut.onnx", cut="features")
    assert not (tmp_path / "low.onnx").exists()


def in_a_branch(model):
    """The fourth convolution computed in both branches of an If."""
    graph, node = model.graph, convolutions(model)[3]
    at = [*graph.node].index(node)
    branches = []
    for _ in range(2):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[0] = f"branch.{len(branches)}"
        result = helper.make_tensor_value_info(copy.output[0], TensorProto.FLOAT, None)
        branches.append(helper.make_graph([copy], "branch", [], [result]))
    choice = helper.make_node("If", ["large"], [node.output[0]], then_branch=branches[0], else_branch=branches[1])
    graph.initializer.append(numpy_helper.from_array(np.array(9), "nine"))
    sizes = [helper.make_node("Size", ["image"], ["size"]), helper.make_node("Greater", ["size", "nine"], ["large"])]
    graph.node.remove(node)
    graph.node.insert(at, choice)
    for each in reversed(sizes):
        graph.node.insert(0, each)


def transposed(model):
    node = convolutions(model)[-1]
    node.op_type = "ConvTranspose"
    tensor = next(each for each in model.graph.initializer if each.name == node.input[1])
    swapped = np.ascontiguousarray(numpy_helper.to_array(tensor).swapaxes(0, 1))
    tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
    del model.graph.value_info[:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_a_branch, r"2 of its 12 convolutions, trunk.3.0 \(Conv\), trunk.3.0_2 \(Conv\), would"),
        (transposed, r"1 of its 11 convolutions, descriptor.1 \(ConvTranspose\), would"),
    ],
)
def test_convolutions_that_no_pass_would_see(change, said, changed, low):
    with pytest.raises(
        BadInput, match=rf"changed.onnx: {said} not be quantized: expected Conv with constant float32 .*"
    ):
        low(changed(change))


def test_computed_weights_are_refused(tiny):
    model = onnx.load(tiny().path)
    model.graph.node[0].input[1] = "image"
    with pytest.raises(BadInput, match=r"1 of its 2 convolutions, image \(Conv\), would not be quantized"):
        onnx_model.convolutions(onnx_model.prepare(model), Path("a.onnx"))


def test_the_guard_counts_all_convolutions(wren, reference):
    data = reference().path.read_bytes()
    names = [node.name for node in convolutions(onnx.load(wren.path))]
    meant = [name for name in names if name != "detector.1"]
    checks.integers(wren.path, data, meant, ["detector.1"])
    with pytest.raises(
        LfError, match=r"it has 11 convolutions where 10 are known; detector.1 would be neither quantized"
    ):
        checks.integers(wren.path, data, meant, [])
    with pytest.raises(
        LfError, match=r"it has 11 convolutions where 12 are known; ghost would be neither quantized nor"
    ):
        checks.integers(wren.path, data, meant, ["detector.1", "ghost"])


# --- constants and functions


def constants_as_nodes(model):
    for tensor in model.graph.initializer:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]


def in_a_function(model):
    node = convolutions(model)[3]
    inner = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    inner.attribute.extend(node.attribute)
    model.functions.append(
        helper.make_function("local", "Mine", ["x", "w", "b"], ["y"], [inner], [helper.make_opsetid("", 18)])
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    node.op_type, node.domain = "Mine", "local"
    del node.attribute[:]


@pytest.mark.parametrize("change", [constants_as_nodes, in_a_function])
def test_other_ways_to_say_the_same(change, changed, low, reference, tmp_path):
    parent = changed(change)
    assert_same(low(parent, rounding="gptq"), reference("gptq"))
    export(parent, "onnx", tmp_path / "cut.onnx", cut="features", top_k=50)
    assert len(onnx_model.convolutions(onnx_model.read(parent.path), parent.path)) == 11


# --- versions of ONNX


def as_inputs(ir, first=False):
    """All initializers are inputs as well, as IR 3 demands; before or after the image."""

    def change(model):
        model.ir_version = ir
        values = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer]
        image = [*model.graph.input]
        del model.graph.input[:]
        model.graph.input.extend([*values, *image] if first else [*image, *values])

    return change


def only_version_3(model):
    model.ir_version = 3


INPUTS = [as_inputs(ir, first) for ir in (3, 10) for first in (False, True)]


@pytest.mark.parametrize("change", [only_version_3, *INPUTS])
def test_initializers_as_inputs(change, changed, low, reference, tmp_path):
    parent = changed(change)
    made = low(parent)
    assert_same(made, reference())
    assert [value.name for value in onnx.load(made.path).graph.input] == ["image"]
    cut = export(parent, "onnx", tmp_path / "cut.onnx", cut="features", top_k=50)
    onnx.checker.check_model(str(cut.path), full_check=True)
    quantize(parent, "w4", None, tmp_path / "w4.onnx")
    quantize(parent, "fp16", None, tmp_path / "half.onnx")
    graph, _ = tflite.cut(onnx_model.read(parent.path), ())
    assert [value.name for value in tflite.onnx_to_tflite.static(graph, SIZE).graph.input] == ["image"]


def set_to(version):
    def change(model):
        model.opset_import[0].version, model.ir_version = version, 8

    return change


@pytest.mark.parametrize("version", [8, 11, 12, 17])
def test_old_operator_sets(version, changed, low, reference, tmp_path):
    assert_same(low(changed(set_to(version))), reference())
    with pytest.raises(UsageError, match=rf"operator set {version}: `cut=features` needs 18 or newer"):
        export(changed(set_to(version)), "onnx", tmp_path / "cut.onnx", cut="features")


def test_an_operator_set_that_cannot_be_converted(changed, low, monkeypatch):
    def fail(*_):
        raise onnx.version_converter.ConvertError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fail)
    said = (
        r"changed.onnx: operator set 11 is too old: expected 13 or newer, into which onnx cannot convert it \(no adapt"
    )
    with pytest.raises(BadInput, match=said):
        low(changed(set_to(11)))


@pytest.mark.parametrize("change", [set_to(99), lambda model: setattr(model, "ir_version", 99)])
def test_versions_of_the_future(change, changed, low, tmp_path):
    with pytest.raises(BadInput, match=r"changed.onnx: ONNX Runtime cannot load it: .*(IR version: 99|Opset 99)"):
        low(changed(change))
    assert not (tmp_path / "low.onnx").exists()


# --- weights in other files


def outside(artifact, folder, location="w.data"):
    """The file with its weights in `location`."""
    model = onnx.load(artifact.path)
    onnx.save_model(model, folder / "w.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    model = onnx.load(folder / "w.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    (folder / "w.onnx").write_bytes(model.SerializeToString())
    return folder / "w.onnx"


def test_weights_outside_are_refused_by_every_command(lf, wren, drawn_photos, tmp_path, monkeypatch):
    path = outside(wren, tmp_path)
    before = sorted(tmp_path.iterdir())
    for folder, name in ((tmp_path, "w.onnx"), (Path("/"), str(path))):
        monkeypatch.chdir(folder)
        whole = name.replace("w.onnx", "w.whole.onnx")
        type_this = f"python -c \"import onnx; onnx.save(onnx.load('{name}'), '{whole}')\""
        out = tmp_path / "out.onnx"
        for words in (
            ("inspect", name),
            ("quantize", name, "--images", drawn_photos, "-o", out),
            ("quantize", name, "--for", "tflite", "--images", drawn_photos, "-o", tmp_path / "out.tflite"),
            ("sensitivity", name, "--images", drawn_photos, "--out", tmp_path / "sensitivity"),
            ("export", name, "--cut", "features", "-o", out),
            ("export", name, "--to", "tflite", "-o", tmp_path / "out.tflite"),
            ("extract", name, drawn_photos, "--out", tmp_path / "features"),
            *(("bench", name, "--backend", engine, "--data", "procedural:1") for engine in ENGINES),
        ):
            assert lf(*words) == (5, "", f"lf: {name}: keeps weights in w.data; put them inside: {type_this}\n")
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, *shlex.split(type_this)[1:]], check=True)
    made = model_file.load(tmp_path / "w.whole.onnx")
    for head, expected in maps(wren).items():
        np.testing.assert_array_equal(maps(made)[head], expected)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/etc/hostname", "/etc/hostname"),
        ("../up.data", r"\.\./up\.data"),
        ("", "another file|"),
        ("a\nb\x1b[2J", r"a\?b\?\[2J"),
        ("x" * 300, "x{100}"),
    ],
)
def test_wherever_they_lie(location, said, wren, tmp_path):
    path = outside(wren, tmp_path, location)
    (tmp_path / "w.data").unlink()
    with pytest.raises(BadInput, match=rf"^{path}: keeps weights in ({said}); put them inside: python -c "):
        model_file.load(path)


def away(tensor, name="w.data"):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return tensor


def test_every_tensor_is_looked_at():
    def tensor():
        return numpy_helper.from_array(np.zeros(2, np.float32), "t")

    def model(graph):
        return helper.make_model(graph).SerializeToString()

    plain = helper.make_graph([], "g", [], [], [tensor()])
    assert onnx_bytes.outside(model(plain)) == []
    constant = helper.make_node("Constant", [], ["c"], value=away(tensor()))
    inner = helper.make_graph([constant], "inner", [], [])
    for graph in (
        helper.make_graph([], "g", [], [], [away(tensor())]),
        helper.make_graph([constant], "g", [], []),
        helper.make_graph([helper.make_node("If", ["a"], [], then_branch=plain, else_branch=inner)], "g", [], []),
        helper.make_graph(
            [], "g", [], [], sparse_initializer=[helper.make_sparse_tensor(away(tensor()), tensor(), [2])]
        ),
    ):
        assert onnx_bytes.outside(model(graph)) == ["w.data"]
    functions = [helper.make_function("local", "F", [], ["c"], [constant], [helper.make_opsetid("", 18)])]
    assert onnx_bytes.outside(helper.make_model(plain, functions=functions).SerializeToString()) == ["w.data"]
    two = helper.make_graph([], "g", [], [], [away(tensor(), "a"), away(tensor(), "b"), away(tensor(), "a")])
    assert onnx_bytes.outside(model(two)) == ["a", "b"]
    named_only = tensor()
    named_only.external_data.add(key="location", value="w.data")
    assert onnx_bytes.outside(model(helper.make_graph([], "g", [], [], [named_only]))) == [], "its values are inside"


def test_graphs_in_graphs_without_end(tmp_path):
    from lf.formats.protobuf import message

    data = b""
    for _ in range(3000):
        data = message(1, message(5, message(6, data)))  # a node with an attribute that is a graph
    path = tmp_path / "deep.onnx"
    path.write_bytes(message(7, data))
    with pytest.raises(BadInput, match=r"deep.onnx: not an ONNX model, or a truncated one"):
        model_file.load(path)


# --- the files that people met


def test_cases_without_names(shared, tmp_path):
    made = {}
    for name in ("named_reference", "samepair", "unnamed"):
        parent = model_file.load(shared / "cases/02-unnamed-convolutions" / f"{name}.onnx")
        made[name] = quantize(parent, "w8a8", shared / "data/photos/extra/kodak", tmp_path / f"{name}.onnx", limit=2)
        step, reference = (made[each].card.made[-1] for each in (name, "named_reference"))
        assert step.integer_convolutions == 10
        assert step.parity == reference.parity
        assert 512_000 < made[name].bytes < 515_000


def test_other_cases(shared, tmp_path):
    cases = shared / "cases"
    for name in ("extended", "all"):
        with pytest.raises(BadInput, match=f"{name}.onnx: was optimised by ONNX Runtime"):
            quantize(model_file.load(cases / f"03-ort-optimised-file/{name}.onnx"), "w4", None, tmp_path / "a.onnx")
    with pytest.raises(BadInput, match=r"w.onnx: keeps weights in w.data; put them inside"):
        model_file.load(cases / "12-external-data/w.onnx")
    made = quantize(model_file.load(cases / "14-ir3/ir3.onnx"), "w4", None, tmp_path / "a.onnx")
    reference = model_file.load(cases / "02-unnamed-convolutions/named_reference.onnx")
    expected = quantize(reference, "w4", None, tmp_path / "b.onnx")
    assert made.card.made[-1].parity == expected.card.made[-1].parity
