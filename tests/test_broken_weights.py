"""Networks that give no numbers, or descriptors of length 0: bad input for every command, naming the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tflite_files

import lf as api
from lf.core import Artifact, BadInput, BadModel, Card, ConversionFailed, GateFailed, LfError, blaming
from lf.core.errors import REMEDY
from lf.export import parity, to_onnx
from lf.extraction.extractor import Extractor
from lf.formats import finite, model_file
from lf.models import MODELS
from lf.quantize import quantize
from lf.quantize.search import budget
from lf.quantize.search.journal import Journal
from lf.quantize.search.sensitivity import WEIGHTS, Layers

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

SIZE = (240, 320)
pytestmark = pytest.mark.usefixtures("few_pictures")


def filled(value):
    """A change of weights: one of them has the value."""

    def change(weights):
        weights.reshape(-1)[1] = value
        return weights

    return change


# what is wrong with the weights of a head -> the change, the head, and what is said of it
KINDS = {
    "huge": (lambda weights: np.full_like(weights, 3e38), "detector", "the detector map holds a non-finite value"),
    "nan": (filled(np.nan), "detector", "the constant detector.weight holds a non-finite value"),
    "inf": (filled(-np.inf), "descriptor", "the constant descriptor.weight holds a non-finite value"),
    "zero": (lambda weights: weights * 0, "descriptor", "a descriptor has length 0, expected 1"),
}


def changed(artifact: Artifact, path: Path, kind: str | None) -> Artifact:
    """The same ONNX file with other weights in one head, see KINDS."""
    model = onnx.load(artifact.path)
    if kind:
        change, head, _ = KINDS[kind]
        tensor = next(each for each in model.graph.initializer if each.name == f"{head}.weight")
        tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), tensor.name))
    return model_file.save(path, model.SerializeToString(), artifact.card)


@pytest.fixture
def broken(tiny, tmp_path):
    return lambda kind: changed(tiny(size=SIZE), tmp_path / "broken.onnx", kind)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """(kind) -> a checkpoint of wren: finite weights and maps that are not, a weight that is not, no descriptor."""
    from lf.models import checkpoint

    def make(kind):
        row = MODELS["wren"]
        torch.manual_seed(0)
        net = checkpoint.build("wren")
        with torch.no_grad():
            for name, values in net.named_parameters():
                if kind == "huge" and values.ndim == 4:
                    values.mul_(1e20)
                if kind == "loss" and name == "detector.1.weight":
                    values.fill_(3e38)
                if kind == "zero" and name.startswith("descriptor.1"):
                    values.zero_()
            if kind in ("nan", "inf"):
                net.trunk[0][0].weight[0, 0, 0, 0] = float(kind)
        card = Card(
            "wren",
            {"origin": "test", "sha256": "00", "licence": "none"},
            (row.channels, None, None),
            outputs=dict(row.heads),
        )
        return checkpoint.save(tmp_path_factory.mktemp("bad") / "diverged.safetensors", net, card)

    return make


SAID = {
    "huge": r"the detector map holds a non-finite value, expected finite numbers",
    "nan": r"trunk.0.0.weight holds a non-finite value, expected finite numbers",
    "inf": r"trunk.0.0.weight holds a non-finite value, expected finite numbers",
    "zero": r"a descriptor has length 0, expected 1",
}


def refused(found, path, text):
    """A run of a command that ended as it does for bad input, in one line that names the file."""
    code, said, noted = found
    assert (code, said) == (BadInput.exit_code, ""), noted
    line = noted.strip().splitlines()[-1]
    assert line.startswith("lf: ")
    assert f"{path}: {text}" in line
    assert line.endswith(f"; {REMEDY}")
    assert line.count(REMEDY) == 1
    return True


def left(folder, *but):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name not in but)


# --- commands on ONNX files


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        ("--scheme", "w8a8"),
        ("--scheme", "w8a8-naive"),
        ("--scheme", "w8a8-dynamic"),
        ("--scheme", "w8a16"),
        ("--scheme", "w4"),
        ("--scheme", "fp16"),
        ("--scheme", "w8a8", "--for", "tflite"),
        ("--scheme", "w8a8", "--for", "tflite", "--rounding", "nearest"),
    ],
)
def test_quantize(lf, broken, drawn_photos, tmp_path, options, kind):
    net, out = broken(kind), tmp_path / f"made.{'tflite' if 'tflite' in options else 'onnx'}"
    found = lf("quantize", net.path, "--images", drawn_photos, *options, "-o", out)
    said = "" if kind == "huge" else KINDS[kind][2]  # the activation, where photos are looked at first
    assert refused(found, net.path, said)
    assert left(tmp_path) == ["broken.onnx", "tiny.onnx"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["w8a8", "w4"])
def test_search_and_sensitivity(lf, broken, drawn_photos, tmp_path, scheme, kind):
    net, said = broken(kind), "" if kind == "huge" else KINDS[kind][2]
    words = ("--scheme", scheme, "--images", drawn_photos, "--data", "procedural:2")
    assert refused(lf("sensitivity", net.path, *words, "--out", tmp_path / "out"), net.path, said)
    words = (*words, "--max-drop", "mma@3=0.5", "-o", tmp_path / "a.onnx")
    assert refused(lf("search", net.path, *words), net.path, said)
    assert left(tmp_path) == ["broken.onnx", "tiny.onnx"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [("--to", "tflite"), ("--cut", "features")])
def test_export_of_an_onnx_file(lf, broken, tmp_path, options, kind):
    net, out = broken(kind), tmp_path / f"made.{'tflite' if 'tflite' in options else 'onnx'}"
    assert refused(lf("export", net.path, *options, "-o", out), net.path, KINDS[kind][2])
    assert left(tmp_path) == ["broken.onnx", "tiny.onnx"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["ort-cpu", "openvino", "opencv-dnn"])
def test_bench(lf, broken, engine, kind):
    """OpenVINO and OpenCV make finite maps of weights that are not."""
    pytest.importorskip({"openvino": "openvino"}.get(engine, "cv2"))
    net = broken(kind)
    words = ("--data", "procedural:2", "--protocol", "kp2d-fixed")
    assert refused(lf("bench", net.path, "--backend", engine, *words), net.path, KINDS[kind][2])


@pytest.mark.parametrize("kind", ["huge", "nan", "zero"])
def test_time(lf, broken, tmp_path, kind):
    """An error of a worker process keeps its kind."""
    net = broken(kind)
    found = lf("time", net.path, "--repeats", 1, "--out", tmp_path / "out")
    assert refused(found, net.path, KINDS[kind][2])
    assert left(tmp_path) == ["broken.onnx", "tiny.onnx"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layout", "workers"), [("lf", 1), ("lf", 2), ("hloc", 1)])
def test_extract_ends_at_once(lf, broken, tiny, drawn_photos, tmp_path, layout, workers, kind):
    """No other photo would fare better: none is passed over as one that cannot be read. The folder stays free."""
    net = broken(kind)
    words = ("--out", tmp_path / "out", "--layout", layout, "--workers", workers)
    assert refused(lf("extract", net.path, drawn_photos, *words), net.path, KINDS[kind][2])
    assert left(tmp_path / "out") == []
    assert lf("extract", tiny(size=SIZE).path, drawn_photos, *words)[0] == 0


def test_features_that_are_there_stay_and_stay_claimed(tiny, drawn_photos, tmp_path):
    from lf.extraction import store

    extractor = Extractor(tiny(size=SIZE), "ort-cpu")
    found, out = store.find([drawn_photos]), tmp_path / "out"
    seen, run = [], extractor.session.run
    extractor.session.run = lambda image: (
        seen.append(0) or {name: value * (np.nan if len(seen) > 2 else 1) for name, value in run(image).items()}
    )
    with pytest.raises(BadModel, match=r"tiny\.onnx: the detector map holds a non-finite value"):
        store.extract_images(extractor, found, out, "lf")
    assert left(out) == ["0.png.lf.npz", "1.png.lf.npz", "lf-extract.lf.json"]


def test_what_draws(lf, broken, drawn_photos, tmp_path):
    net, photos = broken("huge"), sorted(drawn_photos.iterdir())[:2]
    said = KINDS["huge"][2]
    assert refused(lf("match", *photos, "--model", net.path, "-o", tmp_path / "m.png"), net.path, said)
    assert refused(lf("live", drawn_photos, "--model", net.path, "--out", tmp_path / "live"), net.path, said)
    assert left(tmp_path) == ["broken.onnx", "tiny.onnx"]


@pytest.mark.parametrize("kind", KINDS)
def test_python(broken, drawn_photos, tmp_path, kind):
    net, photo = broken(kind), sorted(drawn_photos.iterdir())[0]
    for call in (
        lambda: api.load(net.path).extract(photo),
        lambda: api.load(net.path).extract(np.random.default_rng(0).random((240, 320))),
        lambda: api.load(net.path).quantize("w4", output=tmp_path / "a.onnx"),
        lambda: api.load(net.path).export("onnx", tmp_path / "a.onnx", cut="features"),
    ):
        with pytest.raises(BadModel) as error:
            call()
        assert error.value.path == net.path
        assert KINDS[kind][2] in str(error.value)
    assert left(tmp_path) == ["broken.onnx", "tiny.onnx"]


# --- TFLite files


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("command", ["bench", "extract"])
def test_tflite(lf, drawn_photos, tmp_path, command, value):
    pytest.importorskip("ai_edge_litert")
    model = tflite_files.heads("wren", SIZE, floats=True)[0]
    weights = model.buffers[model.subgraphs[0].tensors[1].buffer]
    numbers = np.asarray(weights.data, np.uint8).view(np.float32).copy()
    numbers[1] = value
    weights.data = numbers.view(np.uint8)
    tflite_files.save(tmp_path / "bad.tflite", model, "wren", SIZE)
    name = model.subgraphs[0].tensors[1].name
    words = ("--data", "procedural:2") if command == "bench" else (drawn_photos, "--out", tmp_path / "out")
    said = f"the constant {name} holds a non-finite value, expected finite numbers"
    assert refused(lf(command, tmp_path / "bad.tflite", *words), tmp_path / "bad.tflite", said)
    assert left(tmp_path) == ["bad.tflite"]


# --- checkpoints


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize("kind", SAID)
def test_checkpoints(lf, checkpoint, drawn_photos, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    net, trace, kept = checkpoint(kind), to_onnx.trace, {}

    def once(artifact, size, opset):  # what takes longest
        if size not in kept:
            kept[size] = trace(artifact, size, opset)
        copy = onnx.ModelProto()
        copy.CopyFrom(kept[size])
        return copy

    monkeypatch.setattr(to_onnx, "trace", once)
    Path("plan.toml").write_text(
        f'[[data]]\nroot = "procedural:2"\nname = "d"\nprotocols = ["kp2d-fixed"]\n'
        f'[[model]]\nfile = "{net.path}"\nschemes = ["w4"]\n'
    )
    data = ("--data", "procedural:2")
    for words in (
        ("export", net.path),
        ("export", net.path, "--cut", "features"),
        ("quantize", net.path, "--scheme", "w4"),
        ("quantize", net.path, "--images", drawn_photos),
        ("sensitivity", net.path, "--scheme", "w4", *data, "--out", "study"),
        ("search", net.path, "--scheme", "w4", "--max-drop", "mma@3=0.5", *data),
        ("sweep", "plan.toml", "--out", "sweep"),
        ("tune", net.path, *data, "--scheme", "w4", "--backend", "ort-cpu", "--out", "tune"),
        ("bench", net.path, "--backend", "torch", *data),
        ("extract", net.path, drawn_photos, "--out", "features"),
    ):
        assert refused(lf(*words), net.path, SAID[kind]), words
    assert left(tmp_path, "plan.toml") == []


def test_nothing_that_can_be_tuned(lf, tiny, tmp_path, monkeypatch):
    from lf.studies import tune
    from lf.studies.sweep_plan import Row

    monkeypatch.setattr(tune, "make", lambda *_: [Row("tiny", "fp32", None, "the converter failed")])
    words = ("--data", "procedural:2", "--backend", "ort-cpu", "--out", tmp_path / "tune")
    code, said, noted = lf("tune", tiny().path, *words)
    text = "no file could be evaluated (the converter failed); try another --backend or --scheme"
    assert (code, said, noted.splitlines()[-1]) == (1, "", f"lf: {tmp_path / 'tune'}: {text}")


@pytest.mark.parametrize("kind", ["huge", "nan"])
def test_labels_are_not_silently_none(lf, checkpoint, drawn_photos, tmp_path, kind):
    net, out = checkpoint(kind), tmp_path / "labels"
    words = ("--photos", drawn_photos, "--warps", 2, "--out", out)
    assert refused(lf("label", net.path, *words), net.path, SAID[kind])
    assert left(tmp_path) == [], "the folder is free for other weights"


def test_training_from_such_weights(checkpoint, tmp_path):
    from lf.train import RECIPES
    from lf.train.loop import train

    net = checkpoint("loss")  # batch normalisation in training makes numbers of those that are only huge
    recipe = RECIPES["wren"].override(
        [f"init={net.path}", "steps=2", "batch=1", "size=64", "pictures=2", "picture_size=96"]
    )
    with pytest.raises(BadModel) as error:
        train(recipe, ["procedural"], tmp_path / "out", device="cpu", threads=1, progress=lambda *_: None)
    assert str(error.value) == f"{net.path}: the loss of its weights is not finite, expected a number; {REMEDY}"


# --- constants of files


def proto(name, values, kind, **how):
    """A model with one constant."""
    tensor = onnx.helper.make_tensor(name, kind, np.shape(values), np.ravel(values).tolist(), **how)
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    return onnx.helper.make_model(graph)


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"])
@pytest.mark.parametrize("raw", [True, False])
def test_constants_of_every_type(tmp_path, kind, raw):
    path, number = tmp_path / "a.onnx", getattr(onnx.TensorProto, kind)
    for value in (np.nan, np.inf, -np.inf, 1.5):
        model = proto("w", [0.5, -2.0, value], number)
        tensor = model.graph.initializer[0]
        if raw:
            array = onnx.numpy_helper.to_array(tensor)
            del tensor.float_data[:], tensor.double_data[:], tensor.int32_data[:]
            tensor.raw_data = array.tobytes()
        path.write_bytes(model.SerializeToString())
        if np.isfinite(value):
            finite.refuse_onnx(path)
            continue
        with pytest.raises(BadModel) as error:
            finite.refuse_onnx(path)
        assert str(error.value) == f"{path}: the constant w holds a non-finite value, expected finite numbers; {REMEDY}"


def test_what_may_be_infinite(tmp_path):
    """Valid values: the limit of a clip, the value of a mask, integers with the bits of a non-finite float."""
    path = tmp_path / "a.onnx"
    for model in (
        proto("limit", np.inf, onnx.TensorProto.FLOAT),
        proto("mask", [np.nan], onnx.TensorProto.FLOAT),
        proto("number", [0x7F800000, 0x7FC00000], onnx.TensorProto.INT32),
    ):
        path.write_bytes(model.SerializeToString())
        finite.refuse_onnx(path)
    path.write_bytes(b"\xff\xff")  # its engine says that it is none
    finite.refuse_onnx(path)


# --- who is to blame


def test_the_innermost_file_is_named_and_only_once():
    with pytest.raises(BadModel) as error, blaming(Path("outer")), blaming(Path("inner")):
        raise BadModel("a map is broken")
    assert str(error.value) == f"inner: a map is broken; {REMEDY}"
    assert (error.value.path, error.value.what) == (Path("inner"), "a map is broken")
    assert error.value.exit_code == BadInput.exit_code == 5
    assert str(BadModel("a map is broken")) == "a map is broken", "no file, nobody's weights"


def test_an_export_that_is_broken_fails_its_gate(tiny, tmp_path):
    parent = tiny(size=SIZE)
    for kind, (_, _, said) in KINDS.items():
        candidate = changed(parent, tmp_path / "candidate.onnx", kind)
        with pytest.raises(GateFailed) as error:
            parity.check(parent, candidate, "ort-cpu", "ort-cpu")
        assert str(error.value).startswith(f"parity of tiny.onnx: {said}")
        assert str(error.value).endswith("; nothing was written")
        with pytest.raises(BadModel, match=rf"candidate\.onnx: {said}"):
            parity.check(candidate, parent, "ort-cpu", "ort-cpu")


def test_a_quantized_file_that_is_broken_is_no_bad_input(tiny, tmp_path, monkeypatch):
    """The float parent is sound, so the error suggests another scheme."""
    from lf.quantize.write import ort

    parent, right = tiny(size=SIZE), ort.Extractor

    def opened(artifact, backend):
        made = right(artifact, backend)
        if artifact.card.scheme != "fp32":
            made.session = Broken(made.session)
        return made

    monkeypatch.setattr(ort, "Extractor", opened)
    with pytest.raises(LfError) as error:
        quantize(parent, "w4", None, tmp_path / "out.onnx")
    assert type(error.value) is ConversionFailed
    assert str(error.value) == (
        f"{parent.path}: quantized, the detector map holds a non-finite value, expected finite numbers; "
        "nothing was written, choose another scheme"
    )
    assert left(tmp_path) == ["tiny.onnx"]


@dataclasses.dataclass
class Broken:
    """A session with NaN as detector."""

    session: object

    def run(self, image):
        maps = self.session.run(image)
        return {**maps, "detector": maps["detector"] * np.nan}


def test_a_search_goes_on_where_a_tried_file_is_broken(tiny, tmp_path):
    """The float file ends it; a file of too few bits does not keep the budget."""
    parent, blamed = tiny(size=SIZE), []

    def judge(artifact, progress):
        raise BadModel.not_finite("the detector map", *blamed or [artifact.path])

    task = budget.Task(parent, "w4", None, {"mma@3": 0.1}, judge, judge, 1, {}, {"seed": 0}, {})
    text = r"no file could be made: the detector map holds a non-finite value, expected finite numbers"
    with pytest.raises(GateFailed, match=text):
        budget.search(task, tmp_path / "out.onnx", Journal(tmp_path / "a.json", {}))
    blamed.append(parent.path)
    with pytest.raises(BadModel, match=r"tiny\.onnx: the detector map"):
        budget.search(task, tmp_path / "out.onnx", Journal(tmp_path / "b.json", {}))


@pytest.mark.parametrize("kind", ["huge", "nan", "zero"])
def test_a_variant_of_one_layer_that_is_broken(tiny, tmp_path, kind):
    net = tiny(size=SIZE)
    layers = Layers(net, "w4", None)
    name = layers.names[0]

    def measured(variant):
        broken = changed(net, variant.path, kind)
        layers.sqnr(broken)
        Extractor(broken, "ort-cpu")(np.zeros((240, 320), np.uint8))

    with pytest.raises(LfError) as error, layers.opened(name, [WEIGHTS], 4) as variant:
        measured(variant)
    assert type(error.value) is ConversionFailed
    assert str(error.value).startswith(f"{net.path}: with {name} alone quantized, {KINDS[kind][2]}")
    assert str(error.value).endswith("; choose another scheme")


def test_other_images_are_still_passed_over(tiny):
    """Only the weights end a run."""
    with pytest.raises(BadInput, match="too small") as error:
        Extractor(tiny(), "ort-cpu")(np.zeros((4, 4), np.uint8))
    assert not isinstance(error.value, BadModel)
