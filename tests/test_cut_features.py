"""The decode inside a graph: what numpy decodes, keypoint by keypoint, at ties and edges too; and `--cut features`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lf import cli
from lf.core import FEATURES, Artifact, Card, Features, GateFailed, LfError, UsageError
from lf.export import export, parity, to_features
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.formats.onnx_graph import Graph
from lf.models import MODELS, NETWORKS, checkpoint, decode_onnx, peaks
from lf.models.features import features
from lf.models.wren import decode_onnx as wren_onnx
from lf.quantize import quantize
from scripts import compare_decode

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

CPU = ["CPUExecutionProvider"]
SIZE = (64, 96)  # H, W
ROWS = {  # a network of each decode that there is a graph of, with its arguments
    row.decode: name for name, row in NETWORKS.items() if row.decode_onnx
}.values()


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr(parity, "FREE_SIZES", (SIZE, (96, 72)))
    monkeypatch.setattr(agreement, "PICTURES", 2)


def session(inputs, outputs, nodes, constants=()):
    """Open an ONNX Runtime session of a few nodes; all tensors are float, except as `outputs` says."""
    values = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()]
    results = [onnx.helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()]
    graph = onnx.helper.make_graph(nodes, "g", values, results, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), providers=CPU)


def suppressed(radius, margin=0, top_k=5000):
    """(H, W) scores -> flat indices of the points that the graph finds, best first."""
    g = Graph("g.")
    spots = decode_onnx.top(g, decode_onnx.nms(g, "in", radius), margin, top_k)
    outputs = {spots.index: (7, [top_k]), spots.scores: (1, [top_k])}
    run = session({"in": [1, 1, None, None]}, outputs, g.nodes, g.constants)

    def find(score):
        index, scores = run.run(None, {"in": score[None, None].astype(np.float32)})
        assert scores.shape == (top_k,)
        return index[scores > 0].tolist()

    return find


def decoded(name, top_k):
    """(maps {head: (c, h, w)}) -> what the graph of a network's decode gives, as `features` reads it."""
    row = MODELS[name]
    return graph_of(row, Card(name, {}, (row.channels, None, None), outputs=dict(row.heads)), top_k)


def graph_of(row, card, top_k):
    """The same of any row, and of a card that names it."""
    heads = {head: [1, channels, f"{head}_h", f"{head}_w"] for head, (channels, _) in row.heads.items()}
    nodes = [onnx.helper.make_node("Identity", [f"in.{head}"], [head]) for head in heads]
    values = [onnx.helper.make_tensor_value_info(f"in.{head}", 1, shape) for head, shape in heads.items()]
    outputs = [onnx.helper.make_tensor_value_info(head, 1, shape) for head, shape in heads.items()]
    graph = onnx.helper.make_graph(nodes, "g", values, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    proto = to_features.append(model, card, top_k)
    run = ort.InferenceSession(proto.SerializeToString(), providers=CPU)
    return lambda maps: dict(
        zip(FEATURES, (out[0] for out in run.run(None, {f"in.{k}": v[None] for k, v in maps.items()})), strict=True)
    )


def random_maps(name, size, seed=0):
    """Raw heads of an image of `size` (H, W) with keypoints in them."""
    rng, row = np.random.default_rng(seed), MODELS[name]
    maps = {
        head: (3 * rng.standard_normal((channels, size[0] // stride, size[1] // stride))).astype(np.float32)
        for head, (channels, stride) in row.heads.items()
        if stride
    }
    if len(maps) == len(row.heads):
        return maps
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    outputs = row.build().eval()(
        torch.zeros(1, row.channels, row.multiple, row.multiple)
    )  # weights of the decode among them
    return {head: values[0].detach().numpy() for head, values in zip(row.heads, outputs, strict=True)} | maps


def assert_same(found, wanted):
    """Keypoint by keypoint, in order."""
    assert len(found[0]) == len(wanted[0])
    assert np.abs(found[0] - wanted[0]).max(initial=0) < 1e-3
    assert np.abs(found[1] - wanted[1]).max(initial=0) < 1e-6
    assert np.abs(np.einsum("nd,nd->n", found[2], wanted[2]) - 1).max(initial=0) < 1e-5


def leading():
    """(H, W) scores -> bool (1, 1, H, W): what leads its 3x3 square."""
    g = Graph("g.")
    name = decode_onnx.leads(g, "in", 1)
    run = session({"in": [1, 1, None, None]}, {name: (9, [1, 1, None, None])}, g.nodes, g.constants)
    return lambda score: run.run(None, {"in": score[None, None]})[0]


LEADS = leading()
NMS = {radius: suppressed(radius) for radius in (1, 2, 4)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*NMS]), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 5, 300]), st.integers(0, 99)
)
def test_suppression_is_that_of_numpy(radius, height, width, levels, seed):
    score = np.random.default_rng(seed).integers(0, levels + 1, (height, width)).astype(np.float32) / levels
    assert NMS[radius](score) == peaks.nms(score, 1e-6, radius).tolist()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 2, 6]), st.integers(0, 99))
def test_local_maxima_are_those_of_numpy(height, width, levels, seed):
    score = np.random.default_rng(seed).integers(0, levels + 1, (height, width)).astype(np.float32) / levels
    assert np.flatnonzero(LEADS(score)).tolist() == peaks.local_maxima(score, 1e-6).tolist()


def scores(points, size=(12, 40)):
    """A map (H, W) that is 0 but for {(x, y): score}."""
    score = np.zeros(size, np.float32)
    for (x, y), value in points.items():
        score[y, x] = value
    return score


@pytest.mark.parametrize(
    ("points", "kept"),
    [
        ({(5, 5): 0.5}, [(5, 5)]),
        ({(5, 5): 0.9, (9, 5): 0.8, (13, 5): 0.7, (17, 5): 0.6}, [(5, 5), (13, 5)]),  # the suppressed suppress nobody
        ({(5, 5): 0.6, (9, 5): 0.7, (13, 5): 0.8, (17, 5): 0.9}, [(17, 5), (9, 5)]),
        ({(5, 5): 0.9, (10, 5): 0.8}, [(5, 5), (10, 5)]),  # one pixel out of reach
        ({(5, 5): 0.9, (9, 9): 0.8}, [(5, 5)]),  # the corner of the square
        ({(9, 5): 0.5, (5, 5): 0.5, (13, 5): 0.5}, [(5, 5), (13, 5)]),  # of equals the first
        ({(9, 4): 0.5, (5, 5): 0.5}, [(9, 4)]),  # ... which is the one in the upper row
        ({(9, 5): 0.5, (5, 6): 0.5, (3, 9): 0.7}, [(3, 9), (9, 5)]),  # a rival falls to a third: its equal stays
        ({(5, 5): 0.5, (9, 6): 0.5, (12, 9): 0.4}, [(5, 5), (12, 9)]),
        ({(x, y): 0.5 for x in range(20) for y in range(12)}, [(x, y) for y in (0, 5, 10) for x in (0, 5, 10, 15)]),
        ({(0, 0): 0.5, (39, 11): 0.6}, [(39, 11), (0, 0)]),
        ({}, []),
    ],
)
def test_suppression(points, kept):
    score = scores(points)
    assert NMS[4](score) == [y * 40 + x for x, y in kept] == peaks.nms(score, 0.1, 4).tolist()


def test_points_in_the_border_suppress_and_are_dropped():
    score = scores({(3, 5): 0.9, (6, 5): 0.8, (20, 5): 0.5, (35, 7): 0.4, (36, 7): 0.3})
    assert suppressed(4, margin=4)(score) == [5 * 40 + 20, 7 * 40 + 35]


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
def test_of_equal_scores_the_first_get_the_slots(top_k):
    score = scores({(30, 2): 0.5, (2, 2): 0.5, (12, 9): 0.5, (20, 9): 0.75})
    assert suppressed(4, top_k=top_k)(score) == [9 * 40 + 20, 2 * 40 + 2, 2 * 40 + 30, 9 * 40 + 12][:top_k]


@pytest.mark.parametrize("name", ROWS)
def test_every_decode(name):
    row, run = MODELS[name], decoded(name, 60)
    step = row.multiple
    for seed, size in enumerate(((1, 1), (1, 3), (2, 2), (2, 5), (3, 3), (8, 12), (13, 7))):
        size = size[0] * step, size[1] * step
        maps = random_maps(name, size, seed)
        found = run(maps)
        assert [found[each].shape[0] for each in FEATURES] == [60] * 3
        assert all(np.isfinite(values).all() for values in found.values()), "what nothing fills is finite, too"
        assert_same(features(found), row.decode(maps, **row.settings, top_k=60))
    assert len(row.decode(maps, **row.settings)[0]) > 5, "there is something to compare"


def test_more_points_than_slots_and_fewer():
    maps = random_maps("wren", (64, 96))
    whole = MODELS["wren"].decode(maps, **MODELS["wren"].settings)
    count = len(whole[0])
    assert count > 30
    for top_k in (count - 1, count, count + 1, 9000):
        found = features(decoded("wren", top_k)(maps))
        assert len(found[0]) == min(top_k, count)
        assert_same(found, tuple(part[:top_k] for part in whole))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_map_is_loud(name, value):
    maps = random_maps(name, SIZE)
    head = next(each for each in ("detector", "reliability", "score") if each in maps)
    maps[head][0, 0, 0] = value
    with pytest.raises(LfError, match="the array of scores holds a non-finite value"):
        Features(*features(decoded(name, 10)(maps)), SIZE[::-1])


@pytest.mark.parametrize("size", [SIZE, None], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", ROWS)
def test_every_family(name, size, tiny, tmp_path, monkeypatch):
    row = MODELS[name]
    loose = {"r2d2": {"repeatability": 0.3, "reliability": 0.2}, "posfeat": {"threshold": 0.5}}
    if row.family in loose:  # a random convolution seldom says 0.7 twice, or 0.9
        row = replace(row, settings={**row.settings, **loose[row.family]})
        for table in (MODELS, NETWORKS):
            monkeypatch.setitem(table, name, row)
    parent = tiny("parent.onnx", name, size)
    made = export(parent, "onnx", tmp_path / "made.onnx", cut="features", top_k=50)
    assert model_file.load(made.path) == made
    assert made.card.features
    assert (made.card.model, made.card.input, made.card.scheme) == (name, parent.card.input, "fp32")
    step = made.card.made[-1]
    assert step.options == {"to": "onnx", "cut": "features", "top_k": 50, "settings": dict(row.settings)}
    assert (step.parent, step.parity["identical"], step.parity["unexplained"]) == (parent.sha256, 1, 0)
    graph = onnx.load(made.path).graph
    shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in graph.output}
    assert shapes == {
        "keypoints": [1, 50, 2],
        "scores": [1, 50],
        "descriptors": [1, 50, made.card.outputs[FEATURES[2]][0]],
    }
    assert "NonZero" not in {node.op_type for node in graph.node}
    heads, features = Extractor(parent, "ort-cpu"), Extractor(made, "ort-cpu")
    for picture in agreement.drawn((77, 101), 2):  # no multiple of anything; resized where the file has one size
        wanted, found = heads(picture).top(50), features(picture)
        assert len(wanted)
        assert_same(*((each.keypoints, each.scores, each.descriptors) for each in (found, wanted)))


def test_a_checkpoint(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    network = checkpoint.build("wren")
    for values in (values for values in network.parameters() if values.ndim == 4):
        torch.nn.init.kaiming_normal_(values)
    card = Card("wren", {"origin": "test"}, (1, None, None), outputs=dict(MODELS["wren"].heads))
    parent = checkpoint.save(tmp_path / "wren.safetensors", network, card)
    monkeypatch.chdir(tmp_path)
    made = export(parent, "onnx", cut="features", size=SIZE, top_k=30)
    assert {path.name for path in tmp_path.iterdir()} == {"wren.safetensors", "wren.features.onnx"}
    assert made.card.size == SIZE
    assert [step.command for step in made.card.made] == ["export", "export"]
    assert len(Extractor(made, "ort-cpu")(next(agreement.drawn(SIZE, 1)))) == 30


@pytest.fixture
def works(lf):
    """Run a command that works; what it says."""

    def call(*words):
        code, out, err = lf(*words)
        assert code == 0, err
        return out

    return call


def test_a_quantized_file_and_the_commands_that_take_it(works, tiny, drawn_photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parent = quantize(tiny(), "w8a8", drawn_photos, limit=1, rounding="nearest", bits={"descriptor": 8})
    works("export", parent.path, "--cut", "features", "--top-k", 40)
    made = model_file.load(Path("tiny.w8a8.features.onnx"))
    assert made.card.scheme == "w8a8"
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(made.path).graph.node}
    picture = next(agreement.drawn(SIZE, 1))
    wanted, found = Extractor(parent, "ort-cpu")(picture).top(40), Extractor(made, "ort-cpu")(picture)
    assert len(found) == 40
    assert_same(*((each.keypoints, each.scores, each.descriptors) for each in (found, wanted)))

    assert "| scores      | 1        | -         |" in works("inspect", made.path)
    works("extract", made.path, drawn_photos, "--out", "features")
    assert len([path for path in Path("features").rglob("*.*") if path.suffix != ".json"]) == 4
    works("bench", parent.path, made.path, "--data", "procedural:2", "--repeats", 1, "--out", "results")
    results = json.loads(Path("results/results.json").read_text())
    assert len(results["runs"]) == 2


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (lambda made, out: quantize(made, "fp16", out=out), "quantize the file it is made from, then type: `export"),
        (lambda made, out: export(made, "onnx", out, cut="features"), "contains its decoder"),
        (lambda made, out: export(made, "tflite", out.with_suffix(".tflite")), "starts from the file it was made from"),
        (lambda made, out: Extractor(made, "ort-cpu", keypoints=object()), "made.onnx has no dense descriptors"),
        (
            lambda made, out: Extractor(made, "opencv-dnn"),
            "cannot run a decode in the graph; give it the file",
        ),
    ],
)
def test_what_needs_raw_heads_says_so(what, text, tiny, tmp_path):
    made = export(tiny("parent.onnx", "wren", SIZE), "onnx", tmp_path / "made.onnx", cut="features")
    with pytest.raises(UsageError, match=text):
        what(made, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()


@pytest.mark.parametrize(
    ("target", "options", "text"),
    [
        ("onnx", {"cut": "feature"}, "unknown cut 'feature'; did you mean 'features'"),
        ("tflite", {"cut": "features"}, "`cut=features` belongs to `to=onnx`; a .tflite file ends at its raw heads"),
        ("onnx", {"cut": "features", "top_k": 0}, "`top_k=0`: expected at least 1"),
        ("onnx", {"cut": "features", "size": None}, "has its size and its operator set; leave `size` and"),
        ("onnx", {"cut": "features", "opset": 18}, "leave `size` and `opset` out"),
    ],
)
def test_usage(target, options, text, tiny, tmp_path):
    parent = tiny()
    with pytest.raises(UsageError, match=text):
        export(parent, target, tmp_path / f"new{'.onnx' if target == 'onnx' else '.tflite'}", **options)
    assert [*tmp_path.iterdir()] == [parent.path]


def test_slots_belong_to_features(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["lf", "export", "wren", "--top-k", "5"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "--top-k belongs to --cut features" in capfd.readouterr().err


def test_an_old_operator_set_is_refused(tiny):
    parent = tiny()
    model = onnx.load(parent.path)
    model.opset_import[0].version = 17
    with pytest.raises(UsageError, match="operator set 17: `cut=features` needs 18 or newer"):
        to_features.append(model, parent.card, 10)


@pytest.mark.parametrize("changed", [{"threshold": 0.05}, {"nms_radius": 3}, {"border": 5}])
def test_a_graph_that_decodes_otherwise_is_not_written(changed, tiny, tmp_path, monkeypatch):
    right = wren_onnx.wren

    def wrong(g, maps, **settings):
        return right(g, maps, **{**settings, **changed})

    monkeypatch.setattr(wren_onnx, "wren", wrong)
    parent = tiny()
    with pytest.raises(GateFailed, match=r"disagrees with the numpy decoder: .* nothing was written"):
        export(parent, "onnx", tmp_path / "new.onnx", cut="features")
    assert [*tmp_path.iterdir()] == [parent.path]


def seen(found, name="superpoint"):
    """Features {(x, y): score} of an image of 64x64, best first."""
    rows = sorted(((score, x, y) for (x, y), score in found.items()), reverse=True)
    points, values = [row[1:] for row in rows], [row[0] for row in rows]
    return Features(np.reshape(points, (-1, 2)), values, np.eye(256)[: len(rows)].reshape(-1, 256), (64, 64))


@pytest.mark.parametrize(
    ("numpy", "graph", "unexplained"),
    [
        ({(20, 20): 0.3}, {(20, 20): 0.3}, 0),
        ({(20, 20): 0.3}, {}, 1),  # gone without a reason
        ({(20, 20): 0.3}, {(22, 20): 0.3}, 0),  # a tie
        ({(20, 20): 0.3}, {(22, 20): 0.2}, 2),  # no tie
        ({(20, 20): 0.3}, {(40, 20): 0.3}, 2),  # equal, and out of reach
        ({(20, 20): 0.3, (26, 20): 0.1}, {(23, 20): 0.3}, 0),  # the third point falls with the tie
        ({(20, 20): 0.3}, {(20.01, 20): 0.3}, 0),  # beside it by more than rounding: two, that tie
        ({(20, 20): 0.3, (40, 40): 0.2}, {(20, 20): 0.2, (40, 40): 0.3}, 4),  # the same places with other scores
        ({(8, 8): 0.4, (20, 20): 0.3, (40, 40): 0.2}, {(8, 8): 0.4, (20, 20): 0.3, (50, 9): 0.2}, 0),  # the last slot
    ],
)
def test_differences_that_rounding_explains(numpy, graph, unexplained):
    logits = np.full((65, 8, 8), -9, np.float32)
    maps = {"detector": logits, "descriptor": np.ones((256, 8, 8), np.float32)}
    row, tally = MODELS["superpoint"], to_features.Tally()
    extractor = SimpleNamespace(model=row, settings=row.settings, artifact=Artifact(Path("fake.onnx"), None))
    to_features.compare(seen(numpy), seen(graph), maps, extractor, 3, tally)
    assert tally.unexplained == unexplained


@pytest.mark.parametrize(
    ("maps", "text"),
    [
        ({"keypoints": np.zeros((3, 2)), "scores": np.zeros(3)}, "gives no descriptors, only keypoints, scores"),
        (dict(zip(FEATURES, map(np.zeros, ((3, 2), 4, (3, 8))), strict=True)), r"\(3, 2\), \(4,\), \(3, 8\); expected"),
    ],
)
def test_features_that_do_not_fit(maps, text):
    with pytest.raises(LfError, match=text):
        features(maps)


def test_the_best_of_the_used_slots():
    slots = np.array([0.5, 0.25, 0, 0])
    points, values, _ = features({"keypoints": np.ones((4, 2)), "scores": slots, "descriptors": np.ones((4, 3))})
    assert values.tolist() == [0.5, 0.25]
    assert len(points) == 2
    one = {"keypoints": np.ones((4, 2)), "scores": slots, "descriptors": np.ones((4, 3))}
    assert len(features(one, top_k=1)[0]) == 1


def test_the_decode_alone_is_timed(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_decode, "SIZE", SIZE)
    monkeypatch.setattr(compare_decode, "PICTURES", 1)
    parent = tiny()
    made = export(parent, "onnx", tmp_path / "made.onnx", cut="features")
    assert "tiny.onnx" in compare_decode.main(parent.path, made.path, None)
    times = compare_decode.measure(parent, made, agreement.drawn(SIZE, 2))
    assert times.shape == (2 * compare_decode.REPEATS, 2)
    assert (times > 0).all()
    with pytest.raises(UsageError, match="expected raw heads and features"):
        compare_decode.measure(made, parent, [])
