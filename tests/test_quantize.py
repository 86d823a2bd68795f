"""Quantization: schemes, calibration photos and their manifest, float heads, and results that must not be written."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from lf.core import Artifact, BadInput, LfError, UsageError
from lf.export import export
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.models import MODELS
from lf.models.resolve import resolve
from lf.quantize import CALIBRATIONS, SCHEMES, quantize
from lf.quantize.calibrate import photos as calibration
from lf.quantize.write import head_layers, merge_pointwise, ort

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL = (64, 96)  # H, W
PLAIN = {"rounding": "nearest"}  # where the rounding is not the subject: the usual one takes two thirds of the time
pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.fixture(scope="module")
def wren(network):
    return network("wren")


@pytest.fixture(scope="module")
def fast(network):
    return network("fast-r2d2")


@pytest.fixture
def photos(tmp_path):
    """Six images, one of them deeper."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for index, picture in enumerate(agreement.drawn((80, 120), 6)):
        cv2.imwrite(str(folder / ("deep" if index == 5 else ".") / f"{index}.png"), picture)
    return folder


def convolutions(artifact: Artifact) -> list[str]:
    return [node.name for node in onnx.load(artifact.path).graph.node if node.op_type == "Conv"]


def bare(artifact: Artifact) -> bytes:
    """The file without its card."""
    model = onnx.load(artifact.path)
    model.ClearField("metadata_props")
    return model.SerializeToString()


def check_contents(made, row):
    """Check the contents of a calibrated file."""
    model = onnx.load(made.path)
    tensors = {i.name: i for i in model.graph.initializer}
    if not row.symmetric:
        assert not [node for node in model.graph.node if node.op_type == "Relu"], "absorbed by the scales"
    scale = next(i for name, i in tensors.items() if name.startswith("trunk.1") and name.endswith("weight_scale"))
    assert bool(scale.dims) == row.per_channel
    assert {node.domain for node in model.graph.node if "Linear" in node.op_type} == {""}
    zeros = [tensors[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    kind = onnx.TensorProto.UINT16 if row.activations == 16 else onnx.TensorProto.UINT8
    assert {zero.data_type for zero in zeros} == {kind}
    if row.symmetric:
        assert {int(onnx.numpy_helper.to_array(zero)) for zero in zeros} == {128}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme(scheme, wren, photos, tmp_path, capfd):
    out, row = tmp_path / "out" / "small.onnx", SCHEMES[scheme]
    seen = []
    made = quantize(wren, scheme, photos, out, progress=lambda *state: seen.append(state))
    assert [*out.parent.iterdir()] == [out]
    assert model_file.load(out) == made
    step, kept = made.card.made[-1], [] if row.naive else ["detector.1"]
    assert made.card.scheme == scheme
    assert made.card.weights == wren.card.weights
    assert [s.command for s in made.card.made] == ["export", "quantize"]
    assert step.parent == wren.sha256
    assert step.kept_float == kept
    assert step.integer_convolutions == (len(convolutions(wren)) - len(kept) if row.integer else 0)
    assert step.parity["sqnr_db"].keys() == MODELS["wren"].heads.keys()
    assert row.weights / 32 * wren.bytes < made.bytes < (row.weights / 32 + 0.1) * wren.bytes
    assert (step.calibration is not None) == row.calibrated
    read = [state[:2] for state in seen if state[2].startswith("calibrating")]
    assert read == ([(n, 6) for n in range(1, 7)] if row.calibrated else [])
    assert capfd.readouterr() == ("", "")
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == "lf"
    assert {o.domain for o in model.opset_import} <= {"", "com.microsoft"}
    floats = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert set(floats) == {onnx.TensorProto.FLOAT}
    maps = Extractor(made, "ort-cpu").session.run(np.zeros((1, 1, *SMALL), np.float32))
    assert maps.keys() == MODELS["wren"].heads.keys()
    if row.calibrated:
        check_contents(made, row)


def test_the_usual_file_is_what_the_quantizer_of_onnxruntime_makes(wren, photos, tmp_path):
    from onnxruntime import quantization

    tensors = iter([*calibration.Photos(photos, 6, 0, None, lambda *s: None).tensors(Extractor(wren, "ort-cpu"))])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            tensor = next(tensors, None)
            return None if tensor is None else {"image": tensor}

    with ort.quiet():
        ort.prepared(wren.path, tmp_path / "prepared.onnx")
        quantization.quantize_static(
            tmp_path / "prepared.onnx",
            tmp_path / "a.onnx",
            Reader(),
            op_types_to_quantize=["Conv", "Relu", "MaxPool"],
            nodes_to_exclude=["detector.1"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
    usual = {"calibration": "minmax", "rounding": "nearest"}
    ours = bare(quantize(wren, "w8a8", photos, tmp_path / "b.onnx", **usual))
    assert ours == ort.stamped(onnx.load(tmp_path / "a.onnx"), "wren")


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_every_calibration(method, wren, photos, tmp_path):
    made = quantize(wren, "w8a8", photos, tmp_path / "a.onnx", calibration=method, **PLAIN)
    assert made.card.made[-1].calibration.method == method
    assert made.card.made[-1].parity["sqnr_db"]["descriptor"] > 10
    usual = quantize(wren, "w8a8", photos, tmp_path / "b.onnx", **PLAIN)
    assert (bare(made) == bare(usual)) == (method == "percentile")


def test_the_scheme_knows_its_own_calibration(wren, photos, tmp_path):
    made = quantize(wren, "w8a8-liteml", photos, tmp_path / "a.onnx")
    assert made.card.made[-1].calibration.method == "moving-average"
    wide = quantize(wren, "w8a8-liteml", photos, tmp_path / "b.onnx", calibration="minmax", limit=2)
    assert wide.card.made[-1].calibration.count == 2


def test_photos_are_needed_only_where_ranges_are(wren, tmp_path):
    with pytest.raises(UsageError, match="scheme w8a8 needs calibration images; type: `images=DIR`"):
        quantize(wren, "w8a8", None, tmp_path / "a.onnx")
    assert {name for name, row in SCHEMES.items() if not row.calibrated} == {"w8a8-dynamic", "w4", "fp16"}
    assert quantize(wren, "w4", None, tmp_path / "b.onnx").path.exists()


def test_manifest(wren, photos, tmp_path):
    (photos / "0.png").write_bytes(b"not an image")
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:200])
    made = quantize(wren, "w8a8", photos, tmp_path / "a.onnx", limit=3, seed=7, **PLAIN)
    manifest = made.card.made[-1].calibration
    assert [getattr(manifest, name) for name in ("method", "count", "seed", "folder")] == ["percentile", 3, 7, "photos"]
    assert manifest.size == list(SMALL)
    assert manifest.skipped <= 2
    for file in manifest.files:
        assert file.sha256 == calibration.digest(photos / file.name)
    assert str(tmp_path).encode() not in made.path.read_bytes()
    again = quantize(wren, "w8a8", photos, tmp_path / "b.onnx", limit=3, seed=7, **PLAIN)
    assert again.path.read_bytes() == made.path.read_bytes()
    step = quantize(wren, "w8a8", photos, tmp_path / "c.onnx", seed=8, **PLAIN).card.made[-1]
    assert step.warnings[0] == "photos: 2 of its images could not be read and were left out"
    every = step.calibration
    assert (every.count, every.skipped) == (4, 2)
    assert "deep/5.png" in {file.name for file in every.files}


def test_one_photo_at_a_time(wren, photos, monkeypatch):
    read = []
    monkeypatch.setattr(calibration.images, "read", lambda path: read.append(path) or np.zeros((80, 120, 3), np.uint8))
    chosen = calibration.Photos(photos, 4, 0, None, lambda *state: None)
    tensors = chosen.tensors(Extractor(wren, "ort-cpu"))
    assert not read
    next(tensors)
    assert len(read) == 1
    assert len([*tensors]) == 3
    assert chosen.manifest()["count"] == 4


def test_no_usable_photo(wren, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no image"):
        quantize(wren, "w8a8", tmp_path / "empty", tmp_path / "a.onnx")
    with pytest.raises(BadInput, match="no such folder"):
        quantize(wren, "w8a8", tmp_path / "absent", tmp_path / "a.onnx")
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(BadInput, match="none of its 6 images could be read"):
        quantize(wren, "w8a8", photos, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_images_of_a_benchmark_are_refused(wren, photos, tmp_path):
    (photos / "deep" / "H_1_2").write_text("1 0 0 0 1 0 0 0 1")
    with pytest.raises(BadInput, match=r"5\.png: lies beside homographies"):
        quantize(wren, "w8a8", photos, tmp_path / "a.onnx", limit=1)
    (photos / "deep" / "H_1_2").unlink()
    sequence = tmp_path / "benchmark" / "v_one"
    sequence.mkdir(parents=True)
    shutil.copy(photos / "3.png", sequence / "1.png")
    with pytest.raises(BadInput, match=r"3\.png: is .*v_one/1\.png of the benchmark"):
        quantize(wren, "w8a8", photos, tmp_path / "a.onnx", exclude=tmp_path / "benchmark")
    assert not (tmp_path / "a.onnx").exists()


def test_usage(wren, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="did you mean 'w8a8'"):
        quantize(wren, "w8a9", photos)
    with pytest.raises(UsageError, match="unknown calibration 'minmx'; did you mean 'minmax'"):
        quantize(wren, "w8a8", photos, calibration="minmx")
    with pytest.raises(
        UsageError, match=r"has no head or convolution 'detektor'; known: detector, descriptor, trunk\."
    ):
        quantize(wren, "w8a8", photos, bits={"detektor": 32})
    with pytest.raises(UsageError, match="unknown writer 'orto'; did you mean 'ort'"):
        quantize(wren, "w8a8", photos, writer="orto")
    with pytest.raises(UsageError, match=r"-o a\.onnx"):
        quantize(wren, "w8a8", photos, tmp_path / "a.tflite")
    made = quantize(wren, "w8a8", photos)
    assert made.path == Path("wren.w8a8.onnx")
    with pytest.raises(UsageError, match=r"starts from a float \.onnx file, this one is w8a8"):
        quantize(made, "w8a8", photos)


def test_float_heads(fast, photos, tmp_path):
    ours = quantize(fast, "w8a8", photos, tmp_path / "a.onnx").card.made[-1]
    naive = quantize(fast, "w8a8-naive", photos, tmp_path / "b.onnx").card.made[-1]
    count = len(convolutions(fast))
    assert ours.kept_float == ["reliability", "repeatability"]
    assert (ours.integer_convolutions, naive.integer_convolutions) == (count - 2, count)
    floats = {n.op_type for n in onnx.load(tmp_path / "a.onnx").graph.node} - {"QuantizeLinear", "DequantizeLinear"}
    assert {"Sub", "Div", "Resize", "Mul"} <= floats, "normalisation and pointwise tails stay"
    assert min(ours.parity["sqnr_db"].values()) > min(naive.parity["sqnr_db"].values())


def pointwise(source, output, weight, **attributes):
    weights = [onnx.numpy_helper.from_array(value, f"{output}.{word}") for word, value in weight.items()]
    return onnx.helper.make_node("Conv", [source, *(w.name for w in weights)], [output], output, **attributes), weights


def test_pointwise_convolutions_of_one_tensor_become_one_and_the_same_numbers():
    rng = np.random.default_rng(0)

    def weight(*shape):
        return {"weight": rng.standard_normal(shape, np.float32), "bias": rng.standard_normal(shape[0], np.float32)}

    shared = {"weight": rng.standard_normal((4, 6, 1, 1), np.float32)}
    rows = [
        pointwise("x", "a", weight(2, 6, 1, 1)),
        pointwise("x", "strided", weight(2, 6, 1, 1), strides=[2, 2]),
        pointwise("x", "grouped", weight(2, 3, 1, 1), group=2),
        pointwise("x", "padded", weight(2, 6, 1, 1), pads=[1, 1, 1, 1]),
        pointwise("x", "wide", weight(2, 6, 3, 3), pads=[1, 1, 1, 1]),
        pointwise("x", "without_bias", shared),
        pointwise("x", "b", weight(3, 6, 1, 1), strides=[1, 1], pads=[0, 0, 0, 0], group=1),
        pointwise("b", "alone", weight(1, 3, 1, 1)),
        pointwise("a", "c", weight(1, 2, 1, 1)),
        pointwise("a", "d", weight(1, 2, 1, 1)),
    ]
    empty = onnx.helper.make_empty_tensor_value_info
    entry = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 6, "height", "width"])
    nodes, weights = [row[0] for row in rows], [tensor for row in rows for tensor in row[1]]
    graph = onnx.helper.make_graph(nodes, "g", [entry], [empty(node.output[0]) for node in nodes], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    before = onnx.ModelProto.FromString(model.SerializeToString())
    merge_pointwise.merge(model)
    left = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert left == ["a+b", "strided", "grouped", "padded", "wide", "without_bias", "alone", "c+d"]
    assert not {"a.weight", "b.bias", "c.weight"} & {tensor.name for tensor in model.graph.initializer}
    x = rng.standard_normal((1, 6, 8, 12), np.float32)
    expected, found = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for m in (before, model)
    )
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


def test_float_heads_of_a_finished_file_read_their_input_once(fast, photos, tmp_path):
    made = {name: quantize(fast, name, photos, tmp_path / f"{name}.onnx", **PLAIN) for name in ("w8a8", "w8a8-naive")}
    names = {name: convolutions(artifact) for name, artifact in made.items()}
    assert "reliability+repeatability" in names["w8a8"]
    assert {"reliability", "repeatability"} <= set(names["w8a8-naive"]), "in 8 bits each has a scale of its own"


def test_free_size(network, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "SIZE", SMALL)
    parent = network("wren", None)
    made = quantize(parent, "w8a8", photos, tmp_path / "a.onnx", **PLAIN)
    assert made.card.size is None
    assert made.card.made[-1].calibration.size == list(SMALL)
    maps = Extractor(made, "ort-cpu").session.run(np.zeros((1, 1, 104, 72), np.float32))
    assert maps["descriptor"].shape == (1, 64, 13, 9)


def test_last_convolutions():
    def node(kind, inputs, output):
        return onnx.helper.make_node(kind, inputs, [output], name=output)

    nodes = [
        node("Conv", ["image", "w"], "a"),
        node("Conv", ["a", "w"], "b"),
        node("Conv", ["a", "w"], "c"),
        node("Relu", ["b"], "d"),
        node("Sub", ["d", "c"], "e"),
        node("Sigmoid", ["image"], "f"),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    assert sorted(head_layers.last_convolutions(model, "e")) == ["b", "c"]
    assert head_layers.last_convolutions(model, "a") == ["a"]
    assert head_layers.last_convolutions(model, "f") == []


def test_a_float_layer_that_would_not_stay_float(wren, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(ort, "last_convolutions", lambda model, head: [convolutions(wren)[2]])
    with pytest.raises(LfError, match=f"{convolutions(wren)[2]} cannot stay float .* type: `bits=trunk.2.0=16`$"):
        quantize(wren, "w8a8", photos, tmp_path / "a.onnx", **PLAIN)
    assert not (tmp_path / "a.onnx").exists()


def test_non_finite_values(wren, photos, tmp_path, monkeypatch):
    right = ort.stamped

    def broken(model, name):
        bias = next(i for i in model.graph.initializer if i.name == "detector.1.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(bias.dims, np.nan, np.float32), bias.name))
        return right(model, name)

    monkeypatch.setattr(ort, "stamped", broken)
    with pytest.raises(LfError, match=r"its layer detector\.1 gives a non-finite value; .* `keep_float=detector\.1`"):
        quantize(wren, "w8a8", photos, tmp_path / "a.onnx", **PLAIN)
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.slow
def test_public_weights(shared, tmp_path):
    path, folder = shared / "weights/superpoint/superpoint_v1_composite.pth", shared / "data/photos/train"
    if not path.exists() or not folder.exists():
        pytest.skip(f"needs {path} and {folder}")
    float_file = export(resolve(path), "onnx", tmp_path / "a.onnx")
    ours, naive = (
        quantize(float_file, scheme, folder, tmp_path / f"{scheme}.onnx", limit=8).card.made[-1]
        for scheme in ("w8a8", "w8a8-naive")
    )
    assert (ours.kept_float, ours.integer_convolutions) == (["detector.b.conv"], 11)
    assert ours.parity["sqnr_db"]["detector"] > 25
    assert ours.parity["within_1_px"] > max(0.9, naive.parity["within_1_px"])


@pytest.mark.parametrize("scheme", ["w8a8", "w8a8-tensor", "w4a8"])
def test_a_layer_of_16_bits_computes_in_float_between_integers(scheme, wren, photos, tmp_path):
    layers = [name for name in convolutions(wren) if name.startswith("trunk")]
    made = quantize(wren, scheme, photos, tmp_path / "a.onnx", bits={layers[2]: 16}, **PLAIN)
    step = made.card.made[-1]
    assert step.integer_convolutions == len(convolutions(wren)) - 2
    assert step.kept_float == ["detector.1", layers[2]]
    assert step.bits == {layers[2]: 16}
    tensors = {tensor.name: tensor for tensor in onnx.load(made.path).graph.initializer}
    before = next(t for t in onnx.load(wren.path).graph.initializer if t.name == f"{layers[2]}.weight")
    stored, scale = (onnx.numpy_helper.to_array(tensors[f"{before.name}_{part}"]) for part in ("quantized", "scale"))
    assert stored.dtype == np.int16
    assert np.abs(stored).max() == 2**15 - 1
    expected = onnx.numpy_helper.to_array(before)
    np.testing.assert_allclose(stored * scale.reshape(-1, 1, 1, 1), expected, atol=np.abs(expected).max() / 2**15)


def test_between_float_layers_nothing_has_8_bits(wren, photos, tmp_path):
    layers = [name for name in convolutions(wren) if name.startswith("trunk")]

    def quantizers(bits):
        model = onnx.load(quantize(wren, "w8a8", photos, tmp_path / "a.onnx", bits=bits, **PLAIN).path)
        return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)

    usual = quantizers({})
    assert quantizers({layers[1]: 16, layers[2]: 16}) == usual - 1
    assert quantizers({layers[1]: 16, layers[3]: 16}) == usual


@pytest.mark.parametrize(("scheme", "bits", "expected"), [("w8a8", 5, "3, 4, 8, 16, 32"), ("fp16", 8, "32")])
def test_bits_that_no_layer_can_have(scheme, bits, expected, wren, photos):
    with pytest.raises(UsageError, match=f"detector={bits}: scheme {scheme} knows layers with {expected} bits"):
        quantize(wren, scheme, photos, bits={"detector": bits})
