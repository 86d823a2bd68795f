"""Biases of quantized files: they fit int32 with room for the sums, whatever the weights of their channel are."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lf.core import Artifact, GateFailed
from lf.export import export
from lf.extraction import agreement
from lf.formats import model_file
from lf.formats.int32_bias import LIMIT, raised
from lf.models.resolve import resolve
from lf.quantize import SCHEMES, quantize
from lf.quantize.calibrate.ranges import Range
from lf.quantize.round import rounding
from lf.quantize.write import qdq

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL = 1e-9  # beside a bias of 1, at which the int32 number saturates
FACTORS = (0.0, 1e-42, 1e-30, SMALL, 3e-8)  # zero, subnormal, and what gives numbers above and about 2^31
DIMMED, DESCRIPTOR = (1, 2), -1  # places of convolutions
pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.fixture(scope="module", autouse=True)
def few_windows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "WINDOWS", 1024)
        yield


@pytest.fixture(scope="module")
def wren(network):
    return network("wren", loud=True)


def arrays(model):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def convolutions(model):
    return [node for node in model.graph.node if node.op_type == "Conv"]


def names(artifact, places=None):
    """The names of the convolutions at some places, or of all."""
    found = [node.name for node in convolutions(onnx.load(artifact.path))]
    return found if places is None else [found[place] for place in places]


def changed(parent, path, layers, change):
    """Write a float file with the weights and biases of `change(both)` in the convolutions `layers`, by index."""
    model = onnx.load(parent.path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in (convolutions(model)[index] for index in layers):
        weights = onnx.numpy_helper.to_array(tensors[node.input[1]]).copy()
        weights, bias = change(weights, np.zeros(len(weights), np.float32))
        tensors[node.input[1]].CopyFrom(onnx.numpy_helper.from_array(weights, node.input[1]))
        model.graph.initializer.append(onnx.numpy_helper.from_array(bias, f"{node.name}.own_bias"))
        node.input[2:] = [f"{node.name}.own_bias"]
    return model_file.save(path, model.SerializeToString(), parent.card)


def dimmed(factors):
    """Weights of every eighth channel times one of the factors, with a bias of 1."""

    def change(weights, bias):
        bias[::8] = 1
        weights[::8] *= np.resize(np.array(factors, np.float32), len(bias[::8]))[:, None, None, None]
        return weights, bias

    return change


def stored(artifact):
    """Name of a convolution -> int32 bias, its scale, the scales of its weights and of its input."""
    model = onnx.load(artifact.path) if isinstance(artifact, Artifact) else artifact
    values = arrays(model)
    made = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in convolutions(model):
        if len(node.input) > 2 and node.input[2] in made:
            x, w, b = (made[name].input for name in node.input)
            found[node.name] = tuple(values[name] for name in (b[0], b[1], w[1], x[1]))
    return found


CASES = [*((name, "nearest") for name in SCHEMES), ("w8a8", "gptq"), ("w3a8", "gptq")]


@pytest.fixture(scope="module")
def pair(wren, tmp_path_factory):
    """A file with channels of no weights, and one with tiny weights there: the same function."""
    folder = tmp_path_factory.mktemp("pair")
    cases = {"gone": (0.0,), "tiny": FACTORS}
    return [changed(wren, folder / f"{name}.onnx", DIMMED, dimmed(factors)) for name, factors in cases.items()]


@pytest.mark.parametrize(("scheme", "method"), CASES)
def test_tiny_weights_cost_no_more_than_no_weights(scheme, method, pair, drawn_photos, tmp_path):
    made = [quantize(p, scheme, drawn_photos, tmp_path / p.path.name, rounding=method) for p in pair]
    gone, tiny = (m.card.made[-1].parity["sqnr_db"] for m in made)
    assert all(tiny[head] > gone[head] - 3 for head in gone)
    dim = names(pair[0], DIMMED)
    for artifact in made:
        rows = stored(artifact)
        assert bool(rows) == (SCHEMES[scheme].calibrated)
        for bias, unit, scale, entry in rows.values():
            assert np.abs(bias.astype(np.int64)).max() <= LIMIT
            np.testing.assert_allclose(unit, entry * scale, rtol=1e-6)
            assert (unit >= np.finfo(np.float32).tiny).all()
        for bias, unit, scale, _ in (rows[name] for name in dim if rows):
            if scale.size > 1:  # bias correction moves those with weights a little
                np.testing.assert_allclose((bias * unit.astype(np.float64))[::8], 1, atol=1e-3)


@pytest.mark.parametrize("scheme", ["w8a8-tensor", "w8a8-naive", "w8a8-liteml", "w4a8"])
@pytest.mark.parametrize("factor", [0.0, 1e-12])
def test_a_whole_layer_of_tiny_weights_keeps_its_biases(scheme, factor, wren, drawn_photos, tmp_path):
    wanted = np.linspace(0.003, 0.9, 64).astype(np.float32)
    parent = changed(wren, tmp_path / "f.onnx", [DESCRIPTOR], lambda w, _: (w * np.float32(factor), wanted))
    (name,) = names(parent, [DESCRIPTOR])
    bias, unit, *_ = stored(quantize(parent, scheme, drawn_photos, tmp_path / "small.onnx"))[name]
    assert np.abs(bias.astype(np.int64)).max() <= LIMIT
    np.testing.assert_allclose(bias * unit.astype(np.float64), wanted, rtol=1e-5)


def test_ranges_and_grids_that_training_left(pair, tmp_path):
    """No photo is looked at: the scale of the input comes from the card."""
    for parent in pair:
        ranges = {f"{name}.{end}": (0.0, 1.0) for name in names(parent) for end in ("input", "output")}
        step = {"command": "train", "scheme": "w4a8", "ranges": ranges}
        trained = model_file.save(tmp_path / "t.onnx", parent.path.read_bytes(), parent.card.step(made=step))
        made = quantize(trained, "w4a8", out=tmp_path / "q.onnx")
        assert made.card.made[-1].calibration.method == "learned"
        for bias, unit, *_ in map(stored(made).get, names(parent, DIMMED)):
            assert np.abs(bias.astype(np.int64)).max() <= LIMIT
            np.testing.assert_allclose((bias * unit.astype(np.float64))[::8], 1, rtol=1e-6)


def written(scheme, ranges, *parts):
    """The QDQ graph of convolutions (name, input, weights' name, bias), with a MaxPool where the name is pool."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = np.full((2, 2, 1, 1), SMALL, np.float32)
    tensors = {name: numpy_helper.from_array(weights, name) for name in ("W", "V")}
    nodes = []
    for name, entry, kernel, bias in parts:
        if name == "pool":
            nodes.append(helper.make_node("MaxPool", [entry], [name], name, kernel_shape=[1, 1]))
            continue
        tensors[f"{name}.bias"] = numpy_helper.from_array(np.array(bias, np.float32), f"{name}.bias")
        nodes.append(helper.make_node("Conv", [entry, kernel, f"{name}.bias"], [name], name))
    ends = [helper.make_tensor_value_info(name, 1, [1, 2, 4, 4]) for name in ("image", *(part[0] for part in parts))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [*tensors.values()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    bits = {node.name: 8 for node in nodes if node.op_type == "Conv"}
    seen = {name: Range(0.0, high, np.ones(2)) for name, high in ranges.items()}
    return qdq.static(model, SCHEMES[scheme], bits, seen, {})


@pytest.mark.parametrize("scheme", ["w8a8", "w8a8-tensor"])
def test_the_scale_counts_that_the_engine_gives_the_input(scheme):
    """A MaxPool passes on the scale of what it reads, whatever range was seen behind it."""
    parts = ("first", "image", "V", (0.0, 0.0)), ("pool", "first", "", ()), ("last", "pool", "W", (0.5, 0.25))
    model = written(scheme, {"image": 1.0, "first": 1e-3, "pool": 4.0, "last": 1.0}, *parts)
    bias, unit, scale, entry = stored(model)["last"]
    assert entry == pytest.approx(1e-3 / 255)
    np.testing.assert_allclose(unit, scale * entry, rtol=1e-6)
    np.testing.assert_allclose(bias * unit.astype(np.float64), (0.5, 0.25), rtol=1e-6)
    assert np.abs(bias).max() == pytest.approx(LIMIT, rel=2e-6)


@pytest.mark.parametrize("scheme", ["w8a8", "w8a8-tensor"])
def test_weights_that_two_layers_share(scheme):
    """Their scale is large enough for both biases, and each bias has the scale of its own input."""
    parts = ("one", "image", "W", (0.5, 0.25)), ("two", "one", "W", (3.0, 0.0))
    found = stored(written(scheme, {"image": 1.0, "one": 2.0, "two": 1.0}, *parts))
    for name, wanted in (("one", (0.5, 0.25)), ("two", (3.0, 0.0))):
        bias, unit, scale, entry = found[name]
        np.testing.assert_allclose(unit, scale * entry, rtol=1e-6)
        np.testing.assert_allclose(bias * unit.astype(np.float64), wanted, rtol=1e-6)
    assert max(np.abs(row[0]).max() for row in found.values()) == pytest.approx(LIMIT, rel=2e-6)


def test_files_whose_biases_fit_keep_every_bit(wren, drawn_photos, tmp_path, monkeypatch):
    made = quantize(wren, "w8a16", drawn_photos, tmp_path / "a.onnx").path.read_bytes()
    monkeypatch.setattr(qdq, "fit_scales", lambda model, graph: None)
    assert quantize(wren, "w8a16", drawn_photos, tmp_path / "b.onnx").path.read_bytes() == made


def test_a_file_whose_bias_saturates_is_not_written(pair, drawn_photos, tmp_path, monkeypatch):
    monkeypatch.setattr(qdq, "fit_scales", lambda model, graph: None)
    out = tmp_path / "small.onnx"
    with pytest.raises(GateFailed) as error:
        quantize(pair[1], "w8a8", drawn_photos, out, rounding="nearest")
    assert str(error.value).startswith(f"{pair[1].path}: the int32 bias ")
    assert ", expected at most 1073741824: its convolution would overflow; " in str(error.value)
    assert str(error.value).endswith("nothing was written, quantize the float file again")
    assert not out.exists()


def test_no_way_to_write_a_quantized_file_passes_the_guard(pair, drawn_photos, tmp_path):
    """A file of an earlier version that has the fault is not turned into another one."""
    made = quantize(pair[0], "w8a16", drawn_photos, tmp_path / "small.onnx")
    model = onnx.load(made.path)
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT32 and len(t.dims))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] = -(2**30) - 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(GateFailed, match=f"int32 bias {tensor.name} reaches 1073741825, expected at most 1073741824"):
        model_file.save(tmp_path / "b.onnx", model.SerializeToString(), made.card)
    assert not (tmp_path / "b.onnx").exists()


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(2, 5), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)),
    st.floats(2**-40, 2**10, width=32),
    st.floats(0, 2**10, width=32, allow_subnormal=False),
    st.booleans(),
)
def test_the_least_scale_is_just_enough(bias, entry, found, per_channel):
    """The scale is sufficient in float32, including rounding of products."""
    rows = np.arange(len(bias) if per_channel else 1)
    empty = rows % 2 == 0
    scale = raised(np.full(len(rows), found, np.float32), ~empty[:, None], [(bias, float(entry))])
    unit = np.float32(entry) * scale
    steps = np.abs((bias / unit.astype(np.float64)).round())
    assert steps.max() <= LIMIT
    assert (unit[~empty] >= np.finfo(np.float32).tiny).all()
    assert (scale >= found).all() or empty.any()
    large = np.abs(bias) > 1e-20
    fine = steps[large & empty] if per_channel else steps[large].max(keepdims=True, initial=0)[: int(large.any())]
    assert (fine >= LIMIT * (1 - 1e-5)).all()


def test_the_case_of_a_batch_norm_that_switched_channels_off(shared, tmp_path, monkeypatch):
    """Scales of batch norm of 1e-9 instead of 0 in every eighth channel, with shifts of 1: the same function."""
    monkeypatch.setattr(agreement, "PICTURES", 8)
    monkeypatch.setattr(rounding, "WINDOWS", 8192)
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted((shared / "data" / "photos" / "train").glob("*.jpg"))[:8]:
        shutil.copy(path, photos)
    figures = {}
    for name in ("bn_gone", "bn_tiny"):
        checkpoint = resolve(shared / "cases" / "01-bias-saturation" / f"{name}.safetensors")
        parent = export(checkpoint, "onnx", tmp_path / f"{name}.onnx", size=(120, 160))
        made = quantize(parent, "w8a8", photos, tmp_path / f"{name}.w8a8.onnx")
        assert max(np.abs(bias.astype(np.int64)).max() for bias, *_ in stored(made).values()) <= LIMIT
        figures[name] = made.card.made[-1].parity["sqnr_db"]
    for head, least in (("detector", 37.2), ("descriptor", 31.2)):
        assert figures["bn_tiny"][head] > max(least, figures["bn_gone"][head]) - 3
