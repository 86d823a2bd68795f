"""Rounding: grids found again, error feedback against known answers, and networks that come closer to their parent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lf.cli import quantize as command
from lf.core import UsageError
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.quantize import ROUNDINGS, SCHEMES, quantize
from lf.quantize.calibrate import photos as calibration
from lf.quantize.calibrate.ranges import Range
from lf.quantize.round import rounding
from lf.quantize.round.graph_runner import Walk, quantized, upstream, windows
from lf.quantize.round.rounding import Moments, Pictures, fit, gptq
from lf.quantize.round.weight_grids import grid, nearest, on_grid

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL = (64, 96)  # H, W


@pytest.fixture(scope="module", autouse=True)
def few_pictures():
    """The figures of real networks are not the subject: two images, few windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "PICTURES", 2)
        patch.setattr(rounding, "WINDOWS", 2048)
        yield


@pytest.fixture(scope="module")
def wren(network):
    return network("wren", loud=True)


@pytest.fixture(scope="module")
def photos(drawn_photos):
    return drawn_photos


def convolution(name, entry, weights, bias=True, **options):
    rng = np.random.default_rng(len(name))
    tensors = [onnx.numpy_helper.from_array(weights.astype(np.float32), f"{name}.weight")]
    if bias:
        values = rng.standard_normal(len(weights)).astype(np.float32)
        tensors.append(onnx.numpy_helper.from_array(values, f"{name}.bias"))
    return onnx.helper.make_node("Conv", [entry, *(t.name for t in tensors)], [name], name=name, **options), tensors


def network(*parts, extra=()):
    """A graph of convolutions, in which `extra` nodes come last; its output is that of the last node."""
    nodes = [*(node for node, _ in parts), *extra]
    tensors = {tensor.name: tensor for _, found in parts for tensor in found}
    ends = [
        onnx.helper.make_tensor_value_info(name, 1, [1, None, None, None]) for name in ("image", nodes[-1].output[0])
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [*tensors.values()])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def run(model, picture):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": picture})[0]


def seen(weights, before, after):
    """Moments of windows (P, K) that a layer of weights (O, K) reads in the float and in the quantized network."""
    moments = Moments.none(1, *weights.shape)
    moments.add(weights[None], before[None], after[None])
    return moments


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "options"),
    [
        (3, 4, (3, 3), {"pads": [1, 1, 1, 1]}),
        (3, 4, (3, 3), {"pads": [0, 1, 2, 3], "strides": [2, 3]}),
        (4, 4, (2, 2), {"pads": [2, 2, 2, 2], "dilations": [4, 4]}),
        (4, 6, (3, 2), {"group": 2, "dilations": [1, 2], "strides": [2, 1]}),
        (4, 8, (3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
        (5, 3, (1, 1), {}),
        (2, 3, (3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        (2, 3, (2, 4), {"auto_pad": "SAME_LOWER", "strides": [1, 3]}),
        (2, 3, (3, 3), {"auto_pad": "VALID"}),
    ],
)
def test_windows_are_what_the_convolution_reads(channels, outputs, kernel, options):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((outputs, channels // options.get("group", 1), *kernel)).astype(np.float32)
    node, tensors = convolution("a", "image", weights, bias=False, **options)
    picture = rng.standard_normal((1, channels, 13, 17)).astype(np.float32)
    expected = run(network((node, tensors)), picture)
    count = expected.shape[2] * expected.shape[3]
    found = windows(picture, node, kernel, (np.arange(count) + 0.5) / count)
    rows = weights.reshape(len(found), -1, found.shape[2])
    np.testing.assert_allclose((rows @ found.swapaxes(1, 2)).reshape(expected.shape[1:]), expected[0], atol=1e-5)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("scale", [1.0, 0.1, 3.7e-4])
def test_weights_on_a_grid_are_found_again(bits, scale):
    end = 2 ** (bits - 1) - 1
    rng = np.random.default_rng(bits)
    numbers = np.stack([rng.integers(-most, most + 1, 60) for most in range(end // 2 + 1, end + 1)])
    numbers[:, 0] = -np.arange(end // 2 + 1, end + 1)  # the largest
    weights = numbers.astype(np.float32) * np.float32(scale)
    found, steps = grid(weights, bits)
    np.testing.assert_array_equal(found, numbers)
    np.testing.assert_allclose(steps, np.float32(scale), rtol=3e-7)


def test_half_of_a_grid_is_as_good():
    found, steps = grid(np.float32([[0.5, -1, 1.5, 0]]), 4)
    np.testing.assert_array_equal(found * steps[:, None], np.float32([[0.5, -1, 1.5, 0]]))


@pytest.mark.parametrize("bits", [3, 4])
def test_white_inputs_leave_nothing_to_feed_back(bits):
    weights = np.random.default_rng(0).standard_normal((6, 20)).astype(np.float32)
    inputs = np.concatenate([np.eye(20), -np.eye(20)]).astype(np.float32)  # mean 0, covariance a multiple of I
    made = fit(weights.reshape(6, 20, 1, 1), None, seen(weights, inputs, inputs), bits)
    numbers, scale = grid(weights, bits)
    np.testing.assert_array_equal(made.numbers.reshape(6, 20), numbers)
    np.testing.assert_array_equal(made.scale, scale)
    np.testing.assert_allclose(made.bias, 0, atol=1e-7)


def test_a_diagonal_is_rounded_to_the_nearest():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((6, 20)).astype(np.float32)
    inputs = np.concatenate([np.eye(20), -np.eye(20)]) * rng.uniform(0.5, 2, 20)
    made = fit(weights.reshape(6, 20, 1, 1), None, seen(weights, inputs, inputs), 4)
    np.testing.assert_array_equal(made.numbers.reshape(6, 20), on_grid(weights, made.scale, 4))


def test_what_one_weight_loses_its_twins_make_good():
    weights = np.float32([[1] + [0.1] * 9])  # beside a step of a third a tenth is nothing, nine of them are three steps
    rng = np.random.default_rng(0)
    twins = np.repeat(rng.standard_normal((1000, 1)), 9, 1)
    inputs = np.concatenate([rng.standard_normal((1000, 1)), twins], 1)
    made = fit(weights.reshape(1, 10, 1, 1), None, seen(weights, inputs, inputs), 3)
    assert (on_grid(weights, made.scale, 3)[:, 1:] == 0).all()
    assert made.numbers[:, 1:].sum() == 3
    assert abs(made.weights()[:, 1:].sum() - 0.9) < made.scale / 2


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_output_comes_closer_than_by_rounding_to_the_nearest(bits):
    rng = np.random.default_rng(bits)
    weights = rng.standard_normal((8, 36)).astype(np.float32)
    inputs = rng.standard_normal((4000, 12)) @ rng.standard_normal((12, 36)) + 0.1 * rng.standard_normal((4000, 36))
    train, test = inputs[:2000], inputs[2000:]
    made = fit(weights.reshape(8, 4, 3, 3), None, seen(weights, train, train), bits)
    numbers, scale = grid(weights, bits)

    def error(rounded):
        return np.square(test @ (rounded.reshape(8, -1) - weights).T).mean()

    assert error(made.weights()) < 0.3 * error(numbers * scale[:, None])


@pytest.mark.parametrize("bits", [3, 4])
def test_bias_makes_the_mean_right_and_losses_before_are_made_good(bits):
    rng = np.random.default_rng(bits)
    weights, bias = rng.standard_normal((8, 10)).astype(np.float32), rng.standard_normal(8).astype(np.float32)
    before = rng.standard_normal((3000, 10)) + 2
    after = 0.7 * before + 0.5  # a layer before is too weak and shifted
    made = fit(weights.reshape(8, 10, 1, 1), bias, seen(weights, before, after), bits)
    expected = before @ weights.T + bias
    got = after @ made.weights().reshape(8, 10).T + made.bias
    np.testing.assert_allclose(got.mean(0), expected.mean(0), atol=1e-5)
    blind = fit(weights.reshape(8, 10, 1, 1), bias, seen(weights, after, after), bits)
    deaf = after @ blind.weights().reshape(8, 10).T + blind.bias
    assert (got - expected).var() < 0.5 * (deaf - expected).var()


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([3, 4, 8]),
    groups=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    size=st.floats(1e-6, 1e6),
    used=st.floats(0, 1),
    offset=st.floats(0, 1e4),
)
def test_numbers_stay_on_the_grid(bits, groups, seed, size, used, offset):
    rng = np.random.default_rng(seed)
    weights = (size * rng.standard_normal((2 * groups, 3, 2, 2))).astype(np.float32)
    weights[0] = 0
    rows = weights.reshape(groups, 2, 12)
    # fewer windows than columns, dead inputs, inputs of any size far from zero
    after = (rng.standard_normal((groups, 5, 12)) + offset * rng.random(12)) * (rng.random(12) < used)
    after *= 10 ** rng.uniform(-4, 4, 12)
    moments = Moments.none(groups, 2, 12)
    moments.add(rows, after + 0.1 * rng.standard_normal(after.shape), after)
    made = fit(weights, None, moments, bits)
    assert made.numbers.dtype == np.int8
    assert np.abs(made.numbers).max() <= 2 ** (bits - 1) - 1
    assert (made.scale > 0).all()
    assert np.isfinite(made.bias).all()


def test_a_walk_is_the_network_and_forgets_what_is_read():
    rng = np.random.default_rng(0)
    a, b = (convolution(n, e, rng.standard_normal((2, 2, 3, 3))) for n, e in (("a", "image"), ("b", "relu")))
    relu = onnx.helper.make_node("Relu", ["a"], ["relu"])
    last = onnx.helper.make_node("Concat", ["b", "relu_cut"], ["end"], axis=1)
    cut = onnx.helper.make_node("Slice", ["relu", "from", "to"], ["relu_cut"])
    model = network(a, (relu, []), b, extra=[cut, last])
    for name, values in (("from", [0, 0, 1, 1]), ("to", [9, 9, -1, -1])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values), name))
    pictures = [rng.standard_normal((1, 2, 9, 8)).astype(np.float32) for _ in range(3)]
    nodes = upstream(model, ["b"])
    assert [node.op_type for node in nodes] == ["Conv", "Relu", "Conv"]
    walk = Walk(model, model.graph.node, pictures)
    before = [picture.copy() for picture in pictures]
    for node in model.graph.node[:-1]:
        walk.run(node)
    assert walk.values.keys() == {"b", "relu_cut"}
    joined = [np.concatenate(pair, 1) for pair in zip(walk.values["b"], walk.values["relu_cut"], strict=True)]
    for picture, kept, found in zip(pictures, before, joined, strict=True):
        np.testing.assert_array_equal(picture, kept)
        np.testing.assert_allclose(found, run(model, picture), atol=1e-5)


@pytest.mark.parametrize(("low", "high", "bits"), [(0, 3, 8), (-1, 2, 8), (0.5, 1, 8), (-2, 1, 16), (0, 0, 8)])
def test_activations_are_quantized_as_the_engine_does_it(low, high, bits):
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    end = 2**bits - 1
    kind = np.uint8 if bits == 8 else np.uint16
    zero, scale = compute_scale_zp(np.float32(low), np.float32(high), kind(0), kind(end))
    nodes = [
        onnx.helper.make_node(f"{kind_}Linear", [name, "scale", "zero"], [made])
        for kind_, name, made in (("Quantize", "image", "q"), ("Dequantize", "q", "end"))
    ]
    model = network(*((node, []) for node in nodes))
    model.graph.initializer.extend(
        [onnx.numpy_helper.from_array(np.float32(scale), "scale"), onnx.numpy_helper.from_array(kind(zero), "zero")]
    )
    values = np.linspace(-3, 4, 1000, dtype=np.float32).reshape(1, 1, 20, 50)
    expected = run(model, values)
    found = quantized(values, Range(low, high, np.ones(1)), bits)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_layers_that_share_weights_and_layers_of_16_bits():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((2, 2, 3, 3))
    first, tensors = convolution("a", "image", weights)
    second = onnx.helper.make_node("Conv", ["a", "a.weight"], ["b"], name="b")
    third = convolution("c", "b", weights)
    model = network((first, tensors), (second, []), third)
    pictures = [rng.standard_normal((1, 2, 12, 12)).astype(np.float32) for _ in range(2)]
    done = []
    grids = gptq(model, {"a": 4, "b": 4, "c": 16}, Pictures(pictures, progress=lambda *state: done.append(state)))
    assert grids.keys() == {"a", "c"}
    np.testing.assert_array_equal(grids["c"].numbers, nearest(model, {"c": 16})["c"].numbers)
    assert done == [(0, 2, "rounding a"), (2, 2, "rounded")]


@pytest.mark.parametrize("scheme", ["w4a8", "w3a8"])
def test_the_file_comes_closer_to_its_parent(scheme, wren, photos, tmp_path):
    states = []
    made = quantize(wren, scheme, photos, tmp_path / "a.onnx", progress=lambda *state: states.append(state))
    plain = quantize(wren, scheme, photos, tmp_path / "b.onnx", rounding="nearest")
    after, before = (artifact.card.made[-1] for artifact in (made, plain))
    assert after.rounding == {"method": "gptq", "windows": 8192, "damping": 0.01, "seed": 0, "photos": 4}
    assert before.rounding == {"method": "nearest", "photos": 0}
    assert after.calibration.order == before.calibration.order
    for head, figure in before.parity["sqnr_db"].items():
        assert after.parity["sqnr_db"][head] > figure + 3
    kinds = {t.data_type for t in onnx.load(made.path).graph.initializer if t.name.endswith("_quantized")}
    assert kinds == {onnx.TensorProto.INT4, onnx.TensorProto.INT32}, "weights, biases"
    assert made.bytes < 1.05 * plain.bytes, "what is new are biases"
    assert next(text for _, _, text in states[4:]).startswith("rounding ")
    assert states[-1][2] == "rounded"
    again = quantize(wren, scheme, photos, tmp_path / "c.onnx")
    assert again.path.read_bytes() == made.path.read_bytes()
    assert (
        Extractor(made, "ort-cpu").session.run(np.zeros((1, 1, *SMALL), np.float32)).keys() == wren.card.outputs.keys()
    )


def test_weights_alone_and_8_bits_can_be_rounded_so_too(wren, photos, tmp_path):
    for scheme, gain in (("w4", 3), ("w8a16", 0)):
        steps = [quantize(wren, scheme, photos, tmp_path / "a.onnx", rounding=name).card.made[-1] for name in ROUNDINGS]
        before, after = (step.parity["sqnr_db"]["descriptor"] for step in steps)
        assert after > before + gain
        assert steps[1].calibration.files, "whatever was looked at is in the record"


def test_few_large_photos(wren, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(rounding, "PIXELS", 3 * SMALL[0] * SMALL[1])
    monkeypatch.setattr("lf.quantize.write.ort.PIXELS", 3 * SMALL[0] * SMALL[1])
    step = quantize(wren, "w4", photos, tmp_path / "a.onnx", rounding="gptq").card.made[-1]
    assert step.rounding["photos"] == step.calibration.count == 3


def test_photos_are_read_again(wren, photos):
    chosen = calibration.Photos(photos, 4, 0, None, lambda *state: None)
    extractor = Extractor(wren, "ort-cpu")
    first = [*chosen.tensors(extractor)]
    again = chosen.some(extractor, 3)
    assert len(again) == 3
    np.testing.assert_array_equal(again, first[:3])
    assert chosen.manifest()["count"] == 4


def test_usage(wren, photos, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="unknown rounding 'gtpq'; did you mean 'gptq'"):
        quantize(wren, "w4a8", photos, rounding="gtpq")
    with pytest.raises(UsageError, match="rounding gptq needs calibration images; type: `images=DIR`"):
        quantize(wren, "w4", rounding="gptq")
    refused = {name for name, row in SCHEMES.items() if row.naive or not row.static or not row.per_channel}
    for scheme in refused:
        with pytest.raises(
            UsageError, match=f"rounding gptq: not for scheme {scheme}; it needs a scale per channel: w8"
        ):
            quantize(wren, scheme, photos, rounding="gptq")
    assert {row.rounding for row in SCHEMES.values()} <= {*ROUNDINGS}


def test_the_command(wren, photos, tmp_path, capsys):
    made = tmp_path / "a.onnx"
    command.quantize(str(wren.path), images=photos, scheme="w4a8", limit=2, rounding="nearest", output=made)
    assert capsys.readouterr().out == f"{made}\n"
    assert b'"method": "nearest"' in made.read_bytes()
