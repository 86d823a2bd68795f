"""Files of other tools: adopted, checked, and used as files of lf."""

from __future__ import annotations

import foreign_files as foreign
import numpy as np
import onnx
import onnx_files
import onnxsim
import pytest
import torch
from onnx import helper
from torch import nn

import lf as api
from lf.core import FEATURES, BadInput, GateFailed, Unavailable, UsageError
from lf.export.adopt import adopt, checks, graph, heads, inputs
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.models import MODELS, row_of
from lf.models.resolve import resolve

SMALL = "superpoint-small"
SHIFT = "points that move along"


def same(*made):
    return made


@pytest.fixture(scope="session")
def files(once):
    """Folder of foreign files, 120x160 unless they are free."""

    def make(folder):
        def write(name, module, outputs, **options):
            foreign.export(module, folder / f"{name}.onnx", outputs, **options)

        write("pytorch-superpoint", foreign.PyTorchSuperPoint(), ["semi", "desc"], free=True)
        write("magicleap", foreign.MagicLeap(), ["output", "output2"], opset=13)
        write("rpautrat", foreign.Dense(), ["scores", "descriptors"])
        write("lightglue", foreign.Extractor(), ["keypoints", "scores", "descriptors"], varying=True)
        write("padded", foreign.Extractor(200), ["keypoints", "scores", "descriptors"])
        turned = foreign.Arrange(
            foreign.Extractor(200),
            lambda points, scores, descriptors: (descriptors[0].T * 3, scores[0], points[0].flip(1)),
            lambda image: image,
        )
        write("turned", turned, ["d", "s", "k"])
        net = foreign.network()
        last = foreign.Arrange(net, same, lambda image: image.permute(0, 3, 1, 2) / 255)
        with torch.no_grad():
            nhwc = folder / "nhwc.onnx"
            torch_export(last, torch.rand(1, *foreign.SIZE, 1), nhwc)
            torch_export(
                foreign.Arrange(net, same, lambda image: image.float() / 255), bytes_like(), folder / "uint8.onnx"
            )
        write("probabilities", foreign.Arrange(net, lambda a, b: (a.softmax(1), b), lambda x: x), ["p", "d"])
        write("centred", foreign.Arrange(net, same, lambda x: (x + 1) / 2), ["semi", "desc"])

    return once("foreign", make)


def bytes_like():
    return (torch.rand(1, 1, *foreign.SIZE) * 255).to(torch.uint8)


def torch_export(module, image, path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (image,), str(path), dynamo=False, opset_version=17, output_names=["semi", "desc"]
        )


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(inputs, "PICTURES", 2)


@pytest.fixture(scope="session")
def parent():
    return resolve(SMALL)


def changed(path, out, change):
    """A copy of a file with its graph changed."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, out)
    return out


@pytest.mark.parametrize(
    ("name", "detector", "descriptor", "fed"),
    [
        ("pytorch-superpoint", "raw", "of unit length, cut off the graph", "0..1"),
        ("magicleap", "raw", "of unit length, cut off the graph", "0..255"),
        ("rpautrat", "softmax, pixels unfolded, cut off the graph", "of unit length, cut off the graph", "0..1"),
        ("probabilities", "softmax, cut off the graph", "raw", "0..1"),
        ("nhwc", "raw", "raw", "0..255"),
        ("uint8", "raw", "raw", "0..1"),
    ],
)
def test_superpoint_of_other_tools_gives_the_keypoints_of_its_checkpoint(
    files, parent, tmp_path, name, detector, descriptor, fed
):
    made = adopt(files / f"{name}.onnx", SMALL, tmp_path / "made.onnx")
    step = made.card.made[-1].to_dict()
    assert (step["heads"]["detector"]["form"], step["heads"]["descriptor"]["form"]) == (detector, descriptor)
    assert step["values"]["values"] == fed
    assert step["checks"][SHIFT]["8,8 px"] > 0.9
    assert (made.card.model, made.card.scheme, made.card.outputs) == (SMALL, "fp32", dict(MODELS[SMALL].heads))
    assert made.card.size == (None if name == "pytorch-superpoint" else foreign.SIZE)
    new, old = Extractor(made, "ort-cpu"), Extractor(parent, "torch")
    image = inputs.view(next(inputs.pictures(foreign.SIZE, None)), foreign.SIZE)
    here, there = new(image), old(image)
    assert len(here) > 30
    np.testing.assert_allclose(here.keypoints, there.keypoints, atol=0.01)
    np.testing.assert_allclose(here.descriptors, there.descriptors, atol=1e-3)


def test_a_norm_behind_its_relu_is_kept(tmp_path, monkeypatch):
    net = foreign.OpenSuperPoint()
    module = foreign.Arrange(net, lambda a, b: (a.softmax(1), nn.functional.normalize(b)), lambda x: x)
    path = foreign.export(module, tmp_path / "open.onnx", ["prob", "desc"])
    monkeypatch.setitem(checks.SHIFTS, (5, 3), 0.0)  # random weights are good for whole cells only
    monkeypatch.setitem(checks.SHIFTS, (3, 5), 0.0)
    monkeypatch.setattr(checks, "STRONG", 10.0)
    made = adopt(path, "superpoint", tmp_path / "made.onnx", input="0..1")
    operators = {node.op_type for node in onnx.load(made.path).graph.node}
    assert ("BatchNormalization" in operators, "Softmax" in operators) == (True, False)
    image = inputs.tensor(inputs.view(next(inputs.pictures(foreign.SIZE, None)), foreign.SIZE), 1)
    found = graph.session(onnx.load(made.path)).run(None, {"image": image})
    for one, other in zip(found, net(torch.tensor(image)), strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["rpautrat", "probabilities"])
def test_an_activation_whose_input_is_gone_is_inverted(files, parent, tmp_path, monkeypatch, name):
    monkeypatch.setattr(heads, "REACH", 1)  # only the output is seen
    made = adopt(files / f"{name}.onnx", SMALL, tmp_path / "made.onnx", reference=parent)
    step = made.card.made[-1].to_dict()
    assert step["heads"]["detector"]["form"].endswith(", inverted")
    assert step["checks"]["reference"]["identical"] > 0.99


def test_a_reference_decides_what_pictures_do_not(files, parent, tmp_path):
    made = adopt(files / "rpautrat.onnx", SMALL, tmp_path / "made.onnx", reference=parent)
    step = made.card.made[-1].to_dict()
    assert step["values"]["points of the reference"]["0..1"] > 0.99
    assert step["checks"]["reference"] == {
        **{"checkpoint": "superpoint-small.safetensors", "identical": 1.0},
        **{"keypoints": step["checks"]["reference"]["keypoints"], "cosine": pytest.approx(1, abs=1e-5)},
    }
    with pytest.raises(
        GateFailed, match=r"keypoints are those of superpoint-small.*expected 99% and 0\.9999.*nothing was"
    ):
        adopt(files / "centred.onnx", SMALL, tmp_path / "wrong.onnx", reference=parent, input="0..1")
    assert not (tmp_path / "wrong.onnx").exists()
    right = adopt(files / "centred.onnx", SMALL, tmp_path / "right.onnx", reference=parent, input="-1..1")
    assert right.card.made[-1].to_dict()["checks"]["reference"]["identical"] == 1


@pytest.mark.parametrize(
    ("name", "slots", "order"), [("lightglue", "varying", "xy"), ("padded", 200, "xy"), ("turned", 200, "yx")]
)
def test_extractors_that_decode_are_adopted_as_features(files, tmp_path, name, slots, order):
    made = adopt(files / f"{name}.onnx", "features", tmp_path / "made.onnx", input="0..1")
    found = made.card.made[-1].to_dict()["features"]
    assert (found["slots"], found["order"], found["padding"]) == (slots, order, name != "lightglue")
    assert (tuple(made.card.outputs), made.card.outputs["descriptors"]) == (FEATURES, (256, 0))
    assert made.card.features
    image = inputs.view(next(inputs.pictures(foreign.SIZE, None)), foreign.SIZE)
    features = api.load(made).extract(image)
    wanted = adopt(files / "rpautrat.onnx", "superpoint", tmp_path / "dense.onnx")
    points = api.load(wanted).extract(image).keypoints
    nearest = np.abs(features.keypoints[:50, None] - points[None]).max(-1).min(1)
    assert np.mean(nearest < 1) > 0.8
    assert (np.diff(features.scores) <= 0).all()


def test_features_of_a_known_network_take_its_name(files, parent, tmp_path):
    made = adopt(files / "padded.onnx", SMALL, tmp_path / "made.onnx", reference=parent)
    assert (made.card.model, made.card.network, made.card.features) == (SMALL, {}, True)
    with pytest.raises(BadInput, match=r"descriptors have 256 numbers, those of wren 64; type: `family=features`"):
        adopt(files / "padded.onnx", "wren", tmp_path / "wren.onnx", input="0..1")


def test_what_pictures_do_not_tell_is_asked_for(files, tmp_path):
    with pytest.raises(
        UsageError, match=r"do not decide the range of its input .*`input=0\.\.1` or `input=-1\.\.1`.*`reference=CHECK"
    ):
        adopt(files / "lightglue.onnx", "features", tmp_path / "made.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "every", "expected"),
    [
        ("superpoint", False, ["0..1", "0..255"]),
        ("superpoint", True, [*inputs.RANGES]),
        ("r2d2", False, ["0..1", "0..255", "imagenet", "0..1,bgr", "0..255,bgr", "imagenet,bgr"]),
    ],
)
def test_inputs_that_tools_of_a_family_feed_are_tried(row, every, expected):
    assert [each.name for each in inputs.candidates(MODELS[row], False, every)] == expected


@pytest.mark.parametrize(
    ("text", "channels", "expected"),
    [
        ("0..255", 1, [[51.0]]),
        ("-1..1", 1, [[-0.6]]),
        ("mean=0.1,std=0.5", 1, [[0.2]]),
        ("imagenet,bgr", 3, [[(0.6 - 0.485) / 0.229], [(0.4 - 0.456) / 0.224], [(0.2 - 0.406) / 0.225]]),
    ],
)
def test_an_input_is_spelled_out(tmp_path, text, channels, expected):
    shown = inputs.parse(text, channels)
    image = np.array([0.2, 0.4, 0.6], np.float32)[:channels].reshape(1, channels, 1, 1)
    np.testing.assert_allclose(shown.fed(image)[0, :, 0], expected, rtol=1e-5)
    nodes = [helper.make_node("Identity", ["image"], ["out"])]
    shape = [1, channels, 1, 1]
    ends = [[helper.make_tensor_value_info(name, 1, shape)] for name in ("image", "out")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    inputs.insert(model, shown)  # the graph does what numpy did
    np.testing.assert_allclose(graph.session(model).run(None, {"image": image})[0], shown.fed(image), rtol=1e-5)


def test_heads_of_equal_shape_are_never_guessed(tmp_path):
    path = tmp_path / "r2d2.onnx"
    path.write_bytes(onnx_files.heads("r2d2", (64, 96))[0])
    with pytest.raises(
        UsageError,
        match=r"reliability and repeatability fit reliability and repeatability by shape.*"
        r"`outputs=reliability=reliability,repeatability=repeatability`",
    ):
        adopt(path, "r2d2", tmp_path / "made.onnx")
    with pytest.raises(UsageError, match=r"did you mean 'reliability'\? the heads are descriptor, reliability"):
        adopt(path, "r2d2", tmp_path / "made.onnx", outputs={"reliability": "reliabilty"})
    with pytest.raises(UsageError, match=r"did you mean 'reliability'\? its outputs are descriptor, reliability"):
        adopt(path, "r2d2", tmp_path / "made.onnx", outputs={"reliabilty": "reliability"})


def test_outputs_that_fit_no_head_are_listed_with_a_way_out(files, tmp_path):
    with pytest.raises(
        BadInput,
        match=r"no output fits the head descriptor, 64 channels at 1/8; for an image of 240x320 it gives semi "
        r"1x65x30x40, desc 1x256x30x40; try `family=superpoint`, whose heads fit",
    ):
        adopt(files / "pytorch-superpoint.onnx", "wren", tmp_path / "made.onnx")
    with pytest.raises(
        BadInput, match=r"desc does not fit the head detector, 65 channels at 1/8; .*; describe the network"
    ):
        adopt(files / "pytorch-superpoint.onnx", SMALL, tmp_path / "made.onnx", outputs={"desc": "detector"})


def test_an_empty_decode_is_refused(files, tmp_path):
    def silence(model):
        for tensor in model.graph.initializer:
            if list(tensor.dims)[:1] == [65]:
                values = onnx.numpy_helper.to_array(tensor) * 0
                values[64 if values.ndim == 1 else 0] += 9 * (values.ndim == 1)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    path = changed(files / "pytorch-superpoint.onnx", tmp_path / "silent.onnx", silence)
    with pytest.raises(
        BadInput, match=r"gives no points on any image, with the inputs 0\.\.1, 0\.\.255; .*`outputs=OUTPUT="
    ):
        adopt(path, SMALL, tmp_path / "made.onnx")
    with pytest.raises(BadInput, match=r"gives no points on any of 2 images; say what the network takes"):
        adopt(path, SMALL, tmp_path / "made.onnx", input="0..1")


def test_points_that_do_not_move_with_the_picture_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "k": rng.uniform(10, 90, (1, 60, 2)).astype(np.float32),
        "s": rng.uniform(0.1, 1, (1, 60)).astype(np.float32),
        "d": rng.standard_normal((1, 60, 16)).astype(np.float32),
    }
    constants = [onnx.numpy_helper.from_array(value, f"{name}0") for name, value in values.items()]
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0, 1, 2, 3], keepdims=0)]
    nodes.append(helper.make_node("Mul", ["m", "zero"], ["z"]))
    nodes += [helper.make_node("Add", [f"{name}0", "z"], [name]) for name in values]
    constants.append(onnx.numpy_helper.from_array(np.float32(0), "zero"))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "stuck",
            [helper.make_tensor_value_info("x", 1, [1, 1, 96, 128])],
            [helper.make_tensor_value_info(name, 1, value.shape) for name, value in values.items()],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "stuck.onnx")
    with pytest.raises(GateFailed, match=r"a flat image gives \d+ keypoints that score as those of structured images"):
        adopt(tmp_path / "stuck.onnx", "features", tmp_path / "made.onnx", input="0..1")
    with pytest.raises(BadInput, match=r"no input gives points that come back"):
        adopt(tmp_path / "stuck.onnx", "features", tmp_path / "made.onnx")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("none.onnx", "--as", "superpoint"), 5, "none.onnx"),
        (("text.onnx", "--as", "superpoint"), 5, "not an ONNX model"),
        (("own.onnx", "--as", "superpoint"), 5, "has a card already: wren fp32; use the file as it is"),
        (("old.onnx", "--as", "superpoint"), 5, "operator set 11; expected 13 or newer; export it again with opset 18"),
        (("new.onnx", "--as", "superpoint"), 5, "operator set 99 is too new for ONNX Runtime"),
        (("f.onnx",), 2, "name its network, --as superpoint for example, or describe it: --card net.toml"),
        (
            ("f.pth", "--as", "superpoint"),
            2,
            "adopt takes .onnx files; a checkpoint is exported: lf export f.pth --to onnx",
        ),
        (("f.onnx", "--as", "superpont"), 2, "unknown network 'superpont'; did you mean 'superpoint'"),
        (("f.onnx", "--as", SMALL, "--outputs", "semi"), 2, "--outputs semi: semi names no head; expected for example"),
        (
            ("f.onnx", "--as", SMALL, "--input", "0-255"),
            2,
            "--input 0-255: did you mean '0..255'? expected one of 0..1",
        ),
        (("f.onnx", "--as", SMALL, "--input", "0..1,bgr"), 2, "bgr, and the network takes grey images; leave bgr out"),
        (
            ("f.onnx", "--as", SMALL, "--input", "mean=1,std=0"),
            2,
            "expected 1 or 1 numbers for each, deviations above 0",
        ),
        (("f.onnx", "--as", "r2d2"), 5, "expected 3 channels (RGB)"),
        (("two.onnx", "--as", SMALL), 5, "takes 2 inputs (image, more); expected one image"),
        (("batch.onnx", "--as", SMALL), 5, "takes 4 images at a time; expected one; export it again with batch 1"),
        (("fixed.onnx", "--as", SMALL, "--size", "64x96"), 2, "takes 120x160 only; leave --size out"),
        (
            ("quantized.onnx", "--as", SMALL),
            5,
            "is quantized already: it holds DynamicQuantizeLinear; adopt the float file",
        ),
    ],
)
def test_bad_input_is_one_line(lf, files, tiny, tmp_path, monkeypatch, words, code, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("no model")
    tiny("own.onnx")
    free = onnx.load(files / "pytorch-superpoint.onnx")
    onnx.save(free, "f.onnx")
    (tmp_path / "fixed.onnx").write_bytes((files / "rpautrat.onnx").read_bytes())
    for name, version in (("old", 11), ("new", 99)):
        changed("f.onnx", f"{name}.onnx", lambda model, v=version: setattr(model.opset_import[0], "version", v))
    more = helper.make_tensor_value_info("more", 1, [1])
    changed("f.onnx", "two.onnx", lambda model: model.graph.input.append(more))
    changed("f.onnx", "batch.onnx", lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 4))
    node = helper.make_node("DynamicQuantizeLinear", ["image"], ["q", "qs", "qz"])
    changed("f.onnx", "quantized.onnx", lambda model: model.graph.node.append(node))
    got, said, error = lf("adopt", *words)
    assert (got, said) == (code, "")
    assert text in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.glob("*.adopted.onnx"))


def chained(model):
    """Have the graph compute the weights of its first convolution."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    model.graph.node.insert(0, helper.make_node("Identity", [conv.input[1]], ["chained"]))
    conv.input[1] = "chained"


def test_weights_that_a_graph_computes_need_onnxsim(files, tmp_path, monkeypatch):
    path = changed(files / "magicleap.onnx", tmp_path / "chained.onnx", chained)
    monkeypatch.setattr(graph.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        Unavailable,
        match=r"weights of 1 convolutions .* computed in the graph; .* pip install \"lf-keypoints\[adopt\]\"",
    ):
        adopt(path, SMALL, tmp_path / "made.onnx")
    monkeypatch.undo()
    made = adopt(path, SMALL, tmp_path / "made.onnx")
    cleaned = made.card.made[-1].to_dict()["cleaned"]
    assert cleaned["by"] == f"onnxsim {onnxsim.__version__}"
    assert cleaned["difference"] < 1e-5
    assert not [node for node in onnx.load(made.path).graph.node if node.op_type == "Identity"]
    monkeypatch.setattr(onnxsim, "simplify", lambda model: (halved(model), True))
    with pytest.raises(BadInput, match=r"onnxsim changes its outputs by .* of the largest value; expected 0\.0001"):
        adopt(path, SMALL, tmp_path / "wrong.onnx")


def halved(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == 1 and len(tensor.dims) == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) / 2, tensor.name))
    return copy


def test_a_free_file_can_be_given_one_size(files, tmp_path):
    constant = foreign.Arrange(foreign.network(), lambda a, b: (a.reshape(1, 65, 15, 20), b), lambda x: x)
    traced = foreign.export(constant, tmp_path / "traced.onnx", ["semi", "desc"], free=True)
    with pytest.raises(BadInput, match=r"cannot run on an image of 240x320: .*made for one size, name it: `size=HxW`"):
        adopt(traced, SMALL, tmp_path / "made.onnx")
    assert adopt(traced, SMALL, tmp_path / "made.onnx", size=foreign.SIZE).card.size == foreign.SIZE
    made = adopt(files / "pytorch-superpoint.onnx", SMALL, tmp_path / "made.onnx", size=(64, 96))
    assert made.card.size == (64, 96)
    assert [d.dim_value for d in onnx.load(made.path).graph.input[0].type.tensor_type.shape.dim] == [1, 1, 64, 96]


def test_an_adopted_file_is_used_as_one_of_lf(lf, files, drawn_photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = files / "pytorch-superpoint.onnx"
    code, said, error = lf("inspect", source)
    assert (code, said) == (5, "")
    assert f"if another tool made it, type: lf adopt {source} --as superpoint" in error
    code, said, error = lf("adopt", source, "--as", SMALL)
    assert (code, said) == (0, "pytorch-superpoint.adopted.onnx\n"), error
    assert error == "input 0..1; checked: pictures, points, strong points on flat pictures, points that move along\n"
    made = "pytorch-superpoint.adopted.onnx"
    code, said, error = lf("quantize", made, "--images", drawn_photos, "-o", "q.onnx", "--rounding", "nearest")
    assert (code, said) == (0, "q.onnx\n"), error
    steps = [step.command for step in model_file.load(tmp_path / "q.onnx").card.made]
    assert steps == ["adopt", "quantize"]
    picture = next(drawn_photos.glob("*.png"))
    assert lf("match", picture, picture, "--model", "q.onnx")[0] == 0
    code, said, error = lf("export", made, "--cut", "features", "--top-k", "50", "-o", "cut.onnx")
    assert (code, said) == (0, "cut.onnx\n"), error
    assert "points that move along" in lf("inspect", made)[1]
    code, said, error = lf("bench", made, "cut.onnx", "--data", "procedural:2", "--repeats", "0", "--protocol", "kp2d")
    assert code == 0, error


def test_python_adopts(files, tmp_path):
    net = api.adopt(files / "rpautrat.onnx", SMALL, tmp_path / "made.onnx", reference=SMALL)
    assert net.card.made[-1].to_dict()["checks"]["reference"]["identical"] == 1
    assert row_of(net.card) == MODELS[SMALL]
