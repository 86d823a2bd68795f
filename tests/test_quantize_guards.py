"""Guards on a quantized file, and weights of four bits: in the file, and as they are run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lf.cli import quantize as command
from lf.core import Artifact, BadInput, LfError
from lf.extraction.extractor import Extractor
from lf.formats import cards, model_file
from lf.formats import int4 as ort_weights
from lf.quantize import SCHEMES, quantize
from lf.quantize.calibrate.ranges import Range
from lf.quantize.round.weight_grids import grid
from lf.quantize.write import checks

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL = (64, 96)  # H, W
PLAIN = {"rounding": "nearest"}  # where the rounding is not the subject: the usual one takes two thirds of the time
pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.fixture(scope="module")
def wren(network):
    return network("wren")


@pytest.fixture(scope="module")
def photos(drawn_photos):
    return drawn_photos


@pytest.fixture(scope="module")
def low(wren, photos, tmp_path_factory):
    """The files of four and three bits."""
    folder = tmp_path_factory.mktemp("low")
    return {name: quantize(wren, name, photos, folder / f"{name}.onnx") for name in ("w4a8", "w3a8", "w4")}


def changed(artifact: Artifact, path, change) -> Artifact:
    model = onnx.load(artifact.path)
    change({tensor.name: tensor for tensor in model.graph.initializer})
    return model_file.save(path, model.SerializeToString(), artifact.card)


def int4(model):
    return [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT4]


def as_int8(model):
    """Do the same as `widened`, with the onnx library."""
    for tensor in int4(model):
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.int8), tensor.name))
    return model


def run(data: bytes, picture):
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"image": picture})


# --- weights of four bits


@pytest.mark.parametrize("scheme", ["w4a8", "w3a8", "w4"])
def test_four_bits_are_four_bits_in_the_file(scheme, low, wren):
    model = onnx.load(low[scheme].path)
    assert model.ir_version >= 10
    assert [entry.version >= 21 for entry in model.opset_import if entry.domain == ""] == [True]
    weights = [tensor for tensor in int4(model) if tensor.name.endswith("_quantized")]
    assert len(weights) == len([n for n in model.graph.node if n.op_type == "Conv"]) - 1, "all but the fragile head"
    end = 2 ** (SCHEMES[scheme].weights - 1) - 1
    for tensor in weights:
        assert len(tensor.raw_data) == (np.prod(tensor.dims) + 1) // 2
        assert np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() == end


def test_a_file_without_photos_runs_as_the_float_file_with_those_weights(low, wren):
    by_hand, small = onnx.load(wren.path), onnx.load(low["w4"].path)
    floats = {tensor.name: tensor for tensor in by_hand.graph.initializer}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    for node in small.graph.node:
        if node.op_type == "DequantizeLinear":
            numbers, scale, _ = (stored[name] for name in node.input)
            weights = numbers.astype(np.float32) * scale[:, None, None, None]
            name = node.output[0]
            floats[name].CopyFrom(onnx.numpy_helper.from_array(weights, name))
    picture = np.random.default_rng(0).random((1, 1, *SMALL), np.float32)
    ours = Extractor(low["w4"], "ort-cpu").session.run(picture)
    assert ort_weights.weights_only(low["w4"].path.read_bytes())
    for made, expected in zip(ours.values(), run(by_hand.SerializeToString(), picture), strict=True):
        np.testing.assert_array_equal(made, expected)


def test_what_is_run_is_the_same_file_with_int8(low):
    data = low["w4a8"].path.read_bytes()
    ours, expected = onnx.load_from_string(ort_weights.widened(data)), as_int8(onnx.load(low["w4a8"].path))
    assert not int4(ours)
    for a, b in zip(ours.graph.initializer, expected.graph.initializer, strict=True):
        assert (a.name, a.data_type, a.dims) == (b.name, b.data_type, b.dims)
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b))
    assert ours.graph.node == expected.graph.node
    picture = np.random.default_rng(0).random((1, 1, *SMALL), np.float32)
    session = Extractor(low["w4a8"], "ort-cpu").session.run(picture)
    for made, right in zip(session.values(), run(expected.SerializeToString(), picture), strict=True):
        np.testing.assert_array_equal(made, right)


def test_other_files_are_left_alone(wren, photos, tmp_path):
    for artifact in (wren, quantize(wren, "w8a8", photos, tmp_path / "a.onnx", **PLAIN)):
        data = artifact.path.read_bytes()
        assert ort_weights.widened(data) is data
        assert not ort_weights.weights_only(data)


def test_a_truncated_file_is_refused(low, tmp_path):
    data = low["w4a8"].path.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match="ONNX Runtime cannot load it"):
        Extractor(Artifact(path, low["w4a8"].card), "ort-cpu")


@given(hnp.arrays(np.int8, hnp.array_shapes(max_dims=4, max_side=5), elements=st.integers(-8, 7)))
@settings(max_examples=50)
def test_widening_restores_every_number(numbers):
    raw = np.append(numbers.reshape(-1), 0)[: numbers.size + numbers.size % 2].astype(np.uint8) & 15
    packed = (raw[::2] | raw[1::2] << 4).tobytes()
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.INT4, numbers.shape, packed, raw=True)
    graph = onnx.helper.make_graph([], "g", [], [], [tensor, onnx.numpy_helper.from_array(np.float32([1]), "s")])
    model = onnx.helper.make_model(graph)
    made = onnx.load_from_string(ort_weights.widened(cards._onnx_embed(model.SerializeToString(), "{}")))
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(made.graph.initializer[0]), numbers)
    assert made.graph.initializer[0].data_type == onnx.TensorProto.INT8
    assert made.graph.initializer[1] == graph.initializer[1]


@pytest.mark.parametrize("bits", [3, 4])
def test_the_grid_is_the_best_of_all_scales(bits):
    weights = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float32)
    weights[1] *= 1e-3
    weights[2] = 0
    end = 2 ** (bits - 1) - 1
    numbers, scale = grid(weights, bits)
    assert np.abs(numbers).max() == end
    assert not numbers[2].any()

    def error(row, step):
        return np.square(row - np.clip(np.rint(row / step), -end, end) * step).sum()

    for row, step in zip(weights[:2], scale[:2], strict=True):
        best = min(error(row, factor * np.abs(row).max()) for factor in np.linspace(0.02, 1, 2000))
        assert error(row, step) <= 1.03 * best
        assert error(row, step) < error(row, np.abs(row).max() / end), "better than the largest weight as the end"


def test_a_grid_is_exact_for_weights_that_lie_on_one():
    numbers = np.array([[-7, 0, 3, 7], [1, 1, -7, 0]], np.int8)
    made, scale = grid(numbers * np.float32([[0.5], [3]]), 4)
    np.testing.assert_array_equal(made, numbers)
    np.testing.assert_allclose(scale, [0.5, 3])


# --- guards


def test_a_convolution_that_would_be_emulated(low):
    path = low["w4a8"].path
    names = [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv" and node.name != "detector.1"]
    checks.integers(path, path.read_bytes(), names, ["detector.1"])
    with pytest.raises(LfError, match=r"10 convolutions in integers where 11 are meant; ghost would be .* try another"):
        checks.integers(path, path.read_bytes(), [*names, "ghost"], ["detector.1"])
    with pytest.raises(LfError, match=f"{names[-1]} cannot stay float between integer layers"):
        checks.integers(path, path.read_bytes(), names[:-1], ["detector.1", names[-1]])


@pytest.mark.parametrize("scheme", ["w4", "fp16", "w8a8-dynamic"])
def test_any_layer_can_stay_float_where_nothing_is_between_quantized_tensors(scheme, wren, tmp_path):
    layer = next(n.name for n in onnx.load(wren.path).graph.node if n.op_type == "Conv" and "trunk.1" in n.name)
    made = quantize(wren, scheme, None, tmp_path / "a.onnx", bits={layer: 32})
    assert layer in made.card.made[-1].kept_float
    weights = next(t for t in onnx.load(made.path).graph.initializer if t.name == f"{layer}.weight")
    assert weights.data_type == onnx.TensorProto.FLOAT


def test_a_head_that_is_asked_to_stay_float(wren, photos, tmp_path):
    made = quantize(wren, "w8a8", photos, tmp_path / "a.onnx", bits={"descriptor": 32}, **PLAIN)
    assert made.card.made[-1].kept_float == ["descriptor.1", "detector.1"]


def test_half_precision_that_overflows_names_the_layer(wren, tmp_path):
    def grow(tensors):
        tensor = tensors["detector.1.bias"]
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, 60000, np.float32), tensor.name))
        tensor = tensors["detector.1.weight"]
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, 60000, np.float32), tensor.name))

    loud = changed(wren, tmp_path / "loud.onnx", grow)
    with pytest.raises(LfError, match=r"its layer .*detector.* gives a non-finite value; nothing was written"):
        quantize(loud, "fp16", None, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_ties_are_counted():
    assert checks.tied(np.float32([3, 1, 2])) == 0
    assert checks.tied(np.float32([3, 1, 3, 2, 2, 2])) == 5
    assert checks.tied(np.zeros(0, np.float32)) == 0


def test_plateaus_are_reported_with_the_head():
    assert checks.ties({"tied_float": 0.3, "tied": 0.35}, ["detector"]) == []
    assert checks.ties({"tied_float": None, "tied": None}, ["detector"]) == []
    (text,) = checks.ties({"tied_float": 0.0, "tied": 0.62}, ["reliability", "detector"])
    assert text.startswith("62% of the keypoints share their score with another, 0% in float: the heads reliability, ")
    assert text.endswith("type: `keep_float=reliability` `keep_float=detector`, or `scheme=w8a16`")
    assert checks.ties({"tied_float": 0, "tied": 1}, None)[0].endswith("0% in float: int8 is their limit")
    assert "the trunk has too few levels; type: `scheme=w8a16`" in checks.ties({"tied_float": 0, "tied": 1}, [])[0]


def test_a_detector_of_few_levels_is_found_out(wren, photos, tmp_path):
    def coarse(tensors):
        tensor = tensors["detector.1.bias"]
        bias = onnx.numpy_helper.to_array(tensor) * 0
        bias[64] = -200  # far below the others: one step of 8 bits is nearly one logit
        tensor.CopyFrom(onnx.numpy_helper.from_array(bias.astype(np.float32), tensor.name))

    parent = changed(wren, tmp_path / "coarse.onnx", coarse)
    step = quantize(parent, "w8a8-naive", photos, tmp_path / "a.onnx").card.made[-1]
    assert step.parity["tied"] > 0.5 > step.parity["tied_float"]
    assert any("with another" in text and "type: `keep_float=detector`, or" in text for text in step.warnings)
    kept = quantize(parent, "w8a8", photos, tmp_path / "b.onnx", **PLAIN).card.made[-1]
    assert kept.parity["tied"] < kept.parity["tied_float"] + checks.TIED


def uneven(tensors):
    tensor = tensors["descriptor.1.weight"]
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights[:3] *= 1e5
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))


def test_mixed_ranges_are_reported_where_they_are_quantized(wren, photos, tmp_path):
    parent = changed(wren, tmp_path / "uneven.onnx", uneven)
    (text,) = quantize(parent, "w8a8", photos, tmp_path / "a.onnx", **PLAIN).card.made[-1].warnings
    assert text.startswith("head descriptor: 95% of the channels of descriptor have less than 1/64 of the range")
    assert text.endswith("type: `keep_float=descriptor`, or `scheme=w8a16`")
    for options in ({"bits": {"descriptor": 32}}, {"scheme": "w8a16"}, {"scheme": "w4"}):
        options = {"scheme": "w8a8", **PLAIN, **options}
        made = quantize(parent, images=photos, out=tmp_path / "b.onnx", **options)
        assert made.card.made[-1].warnings == []


@pytest.mark.parametrize(("kind", "layers"), [("Relu", ["head", "first"]), ("Mul", ["head"])])
def test_what_a_head_reads_counts_too(kind, layers):
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Conv", ["image", "w"], ["b"], name="first"),
                onnx.helper.make_node(kind, ["b", "b"][: 1 + (kind == "Mul")], ["a"], name="middle"),
                onnx.helper.make_node("Conv", ["a", "w"], ["head"], name="second"),
            ],
            "g",
            [],
            [],
        )
    )
    quantized = onnx.helper.make_model(
        onnx.helper.make_graph([onnx.helper.make_node("QuantizeLinear", ["a", "s"], ["q"])], "g", [], [])
    )
    ranges = {name: Range(0, 1, np.array([1, 0, 0.01])) for name in ("image", "a", "head")}
    (text,) = checks.mixed(model, quantized, ["head"], ranges)
    assert text.startswith("head head: 50% of the channels of a have less")
    assert text.endswith("type: " + " ".join(f"`keep_float={layer}`" for layer in layers) + ", or `scheme=w8a16`")


@pytest.mark.parametrize(
    ("channels", "share"), [([1, 1 / 65, 0], 0.5), ([1, 1 / 63, 0], 0), ([0, 0], 0), ([5, 5, 5, 0.01], 0.25)]
)
def test_channels_that_are_lost(channels, share):
    assert checks.lost(np.array(channels, np.float64)) == share


def test_a_slower_file_is_said_to_be_slower(wren, photos, tmp_path, monkeypatch, measured_ratio):
    made = quantize(wren, "fp16", None, tmp_path / "a.onnx")
    monkeypatch.setattr(checks, "SECONDS", 0)
    assert 0.1 < checks.time_ratio(wren, made) < 10
    monkeypatch.setattr(checks, "time_ratio", lambda parent, made: 1.34)
    text = checks.slower(wren, made)
    assert text == f"{made.path} takes 1.3 times as long as {wren.path.name} here: {SCHEMES['fp16'].slow}"
    monkeypatch.setattr(checks.machine, "cpu", lambda: ("an old one", ["avx2"]))
    plain = quantize(wren, "w8a8", photos, tmp_path / "b.onnx", **PLAIN)
    assert "here: this processor has no instruction that multiplies int8" in checks.slower(wren, plain)
    monkeypatch.setattr(checks, "time_ratio", lambda parent, made: 1.05)
    assert checks.slower(wren, made) is None


def test_the_command_prints_warnings_beside_the_result(wren, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checks, "time_ratio", lambda parent, made: 2.0)
    parent = changed(wren, tmp_path / "uneven.onnx", uneven)
    made = tmp_path / "a.onnx"
    command.quantize(str(parent.path), images=photos, scheme="w8a8", calibration="mse", limit=2, output=made)
    out, err = capsys.readouterr()
    assert out == f"{made}\n"
    assert [line.split()[:2] for line in err.splitlines()] == [["warning:", "head"], ["warning:", str(made)]]
    step = model_file.load(made).card.made[-1].calibration
    assert (step.method, step.count) == ("mse", 2)
