"""Variants of single layers: one layer on its levels and nothing else, all in float; rows that an interrupt keeps."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from lf.benchmarks.report import ranking
from lf.core import BadInput, UsageError, fingerprint
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.quantize import SCHEMES, open_photos, quantize
from lf.quantize.calibrate.ranges import Range
from lf.quantize.round import weight_grids
from lf.quantize.search import sensitivity as sense
from lf.quantize.search.journal import Journal, circumstances
from lf.quantize.search.sensitivity import ACTIVATIONS, WEIGHTS, Drop, Layers, study

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

torch.set_num_threads(1)
SMALL = (64, 96)  # H, W
NONE = Drop(0.0, -0.1, 0.1, 0.5, 4)


@pytest.fixture(scope="module")
def net(network):
    return network


@pytest.fixture(scope="module")
def photos(drawn_photos):
    return drawn_photos


@pytest.fixture(scope="module")
def layers(net, photos):
    opened = {}

    def make(name, scheme):
        if (name, scheme) not in opened:
            opened[name, scheme] = Layers(net(name), scheme, open_photos(scheme, photos))
        return opened[name, scheme]

    return make


def run(model, names=None):
    """Every output, or the tensors of those names, of one drawn image, nothing optimised."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    there = {output.name for output in copy.graph.output}
    copy.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in names or () if name not in there
    )
    session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    picture = np.random.default_rng(0).random((1, entry.shape[1], *SMALL), np.float32)
    return dict(zip(names or there, session.run([*(names or there)], {entry.name: picture}), strict=True))


def node(model, name):
    return next(node for node in model.graph.node if node.name == name)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("ends", [(0, 3), (-1, 2.5), (0.5, 4), (-3, -1), (-2, 1e-3), (0, 0)])
def test_levels_are_those_of_the_quantizer_of_onnxruntime(ends, bits, symmetric):
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    step, low, high = Range(*ends, np.ones(1)).levels(bits, symmetric)
    kind, limit = (np.uint8, 255) if bits == 8 else (np.uint16, 65535)
    rmin, rmax = (np.array(end, np.float32) for end in ends)
    zero, scale = compute_scale_zp(rmin, rmax, np.array(0, kind), np.array(limit, kind), symmetric)
    assert (np.float32(step), -low, high + int(zero)) == (pytest.approx(float(scale), rel=1e-6), zero, limit)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8", "w8a8-tensor"])
def test_only_the_weights_of_one_layer_change(scheme, layers):
    opened, row = layers("wren", scheme), SCHEMES[scheme]
    name = opened.names[2]
    before, _ = weight_grids.parameters(opened._graph, opened.names)[name]
    made = opened.graph(name, [WEIGHTS], row.weights)
    assert [n.op_type for n in made.graph.node] == [n.op_type for n in opened._graph.graph.node]
    after = weight_grids.parameters(made, opened.names)
    assert [
        n for n, (w, _) in weight_grids.parameters(opened._graph, opened.names).items() if (w != after[n][0]).any()
    ] == [name]
    for old, new in zip(before, after[name][0], strict=True):
        assert len(np.unique(new)) <= 2**row.weights - 1
        scaled = old if row.per_channel else before  # what has one scale
        assert 0 < np.abs(old - new).max() < np.abs(scaled).max() / 2 ** (row.weights - 3)
    if row.per_channel:
        exact = weight_grids.nearest(opened._graph, {name: row.weights})[name]
        scale = exact.scale[:, None, None, None]
        np.testing.assert_array_equal(after[name][0], (exact.numbers * scale).astype(np.float32))
    else:
        step = np.diff(np.unique(after[name][0]))
        assert np.allclose(step / step.min(), np.rint(step / step.min()), atol=1e-3), "one step for all channels"


def test_only_what_one_layer_reads_has_levels(layers):
    opened = layers("wren", "w8a8")
    name = opened.names[2]
    made = opened.graph(name, [ACTIVATIONS], 8)
    assert {n.op_type for n in made.graph.node} >= {"Div", "Round", "Clip"}
    original, tensor = node(opened._graph, name), node(made, name).input[0]
    assert (original.input[1:], original.output) == (node(made, name).input[1:], node(made, name).output)
    values = run(made, [original.input[0], tensor])
    exact, levelled = values[original.input[0]], values[tensor]
    assert len(np.unique(levelled)) <= 256 < len(np.unique(exact))
    # The same numbers as the operators that a quantized file has.
    seen = opened._ranges[original.input[0]]
    step, low, _ = seen.levels(8)
    helper = onnx.helper
    parts = {"step": np.float32(step), "zero": np.uint8(-low)}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", *parts], ["q"]),
            helper.make_node("DequantizeLinear", ["q", *parts], ["y"]),
        ],
        "pair",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, exact.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, exact.shape)],
        [onnx.numpy_helper.from_array(np.array(value), key) for key, value in parts.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": exact})[0], levelled)


def test_a_head_is_levelled_on_both_sides_and_no_layer_computes_in_integers(layers, tmp_path):
    opened = layers("superpoint-small", "w8a8")
    for name in opened.names:
        with opened.opened(name, [WEIGHTS, ACTIVATIONS], 8) as variant:
            assert variant.card.made[-1].calibration.count == 4
            options = ort.SessionOptions()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
            ort.InferenceSession(variant.path.read_bytes(), options, providers=["CPUExecutionProvider"])
            found = [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node]
        assert not [kind for kind in found if "Quant" in kind or "Integer" in kind or "QLinear" in kind]
        last = name in ("detector.b.conv", "descriptor.b.conv")
        assert found.count("Round") == (2 if last else 1)
    made = opened.graph("detector.b.conv", [ACTIVATIONS], 8)
    assert len(np.unique(run(made)["detector"])) <= 256
    assert [output.name for output in made.graph.output] == [o.name for o in opened._graph.graph.output]


def test_a_layer_that_a_head_does_not_read_leaves_it_untouched(layers):
    opened = layers("superpoint-small", "w8a8")
    with opened.opened("detector.a.conv", [WEIGHTS], 8) as variant:
        noise = opened.sqnr(variant)
    assert noise["descriptor"] is None
    assert 20 < noise["detector"] < 80
    with opened.opened("detector.a.conv", [WEIGHTS], 4) as variant:
        assert opened.sqnr(variant)["detector"] < noise["detector"] - 15


def test_what_the_scheme_keeps_is_said(layers):
    assert layers("superpoint-small", "w8a8").kept == {"detector.b.conv"}
    assert layers("superpoint-small", "w8a8").parts == sense.PARTS
    assert layers("superpoint-small", "w4").parts == (WEIGHTS,)


@pytest.mark.parametrize("scheme", ["fp16", "w8a8-dynamic"])
def test_schemes_without_fixed_levels(scheme, net):
    with pytest.raises(UsageError, match=f"scheme {scheme} has no levels to study layer by layer; these have: w8a8, "):
        Layers(net("wren"), scheme, None)


def test_a_study_goes_on_where_it_was_interrupted(layers, tmp_path):
    opened, seen, told = layers("wren", "w8a8"), [], []
    path, identity = tmp_path / "deep" / "sensitivity.json", {"model": "a", "scheme": "w8a8"}

    def evaluate(variant, progress):
        if len(seen) == 3:
            raise KeyboardInterrupt
        model_file.load(variant.path)
        seen.append(variant.path)
        progress(1, 2, "a pair")
        return {"repeatability": Drop(len(seen) / 100, 0.0, 0.2, 0.5, 4)}

    with pytest.raises(KeyboardInterrupt):
        study(opened, evaluate, Journal(path, identity))
    assert len(json.loads(path.read_text())["rows"]) == 3
    assert not any(file.exists() for file in seen), "no variant is kept"
    done, seen[:] = len(seen), []

    def others(variant, progress):
        seen.append(variant.path)
        progress(1, 2, "a pair")
        return {"repeatability": NONE}

    rows = study(opened, others, Journal(path, identity), lambda *state: told.append(state))
    assert len(seen) == 2 * len(opened.names) - done
    assert [(row["layer"], row["part"]) for row in rows[:3]] == [
        (opened.names[0], WEIGHTS),
        (opened.names[0], ACTIVATIONS),
        (opened.names[1], WEIGHTS),
    ]
    assert [row["drops"]["repeatability"]["drop"] for row in rows[:4]] == [0.01, 0.02, 0.03, 0.0]
    assert [state[:2] for state in told] == [(2 * n + 1, 2 * len(seen)) for n in range(len(seen))]
    assert told[0][2] == f"{opened.names[1]} activations: a pair"
    with pytest.raises(
        UsageError,
        match=r"was made with other settings \(model: was a, now b\); choose another folder, or begin anew: rm .*",
    ):
        Journal(path, {**identity, "model": "b"})
    path.write_text("[]")
    with pytest.raises(
        BadInput,
        match=r"\.json: expected what an earlier run of this command wrote; choose another folder, or begin anew: rm",
    ):
        Journal(path, identity)


def test_rows_of_other_code_are_refused(tiny, tmp_path, monkeypatch):
    def journal():
        about = circumstances(tiny(), None, {}, study.__module__)
        return Journal(tmp_path / "rows.json", about)

    journal().once("a layer", lambda: {"drop": 0.5})
    assert journal().rows == {"a layer": {"drop": 0.5}}
    monkeypatch.setattr(fingerprint, "fingerprint", lambda *names: "of other code")
    with pytest.raises(
        UsageError,
        match=r"with other settings \(code of lf: was \w+, now of other code\); choose another folder",
    ):
        journal()


def test_spearman():
    assert ranking.spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert ranking.spearman([1, 2, 3, 4], [0.1, 0, -5, -9]) == pytest.approx(-1)
    # no ties: 1 - 6 * sum d^2 / (n (n^2 - 1)), d = 1, 1, 1, 1, 0
    assert ranking.spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(1 - 6 * 4 / 120)
    # ties have their average: ranks 1.5 1.5 3 4 against 1 2 3 4
    assert ranking.spearman([7, 7, 8, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert ranking.spearman([1, 2, 3], [5, 5, 5]) is None
    assert ranking.spearman([1, 2, np.inf], [1, 2, 3]) == pytest.approx(1)


def row_of(layer, part, drop, noise, **changes):
    drops = {"repeatability": {"drop": drop, "low": -0.01, "high": 0.05, "parent": 0.6, "pairs": 4}}
    drops["localization_error"] = {"drop": 0.0, "low": -0.01, "high": 0.01, "parent": 0.9, "pairs": 4}
    return {"layer": layer, "part": part, "kept": False, "bits": 8, "sqnr_db": noise, "drops": drops} | changes


ROWS = [
    row_of("a", "weights", 0.001, {"x": 30.0, "y": None}),
    row_of("b", "weights", 0.02, {"x": None, "y": 50.0}),
    row_of("a", "activations", -0.01, {"x": 35.0, "y": 44.0}, kept=True),
    row_of("b", "activations", 0.004, {"x": None, "y": None}),
]


def test_the_ranking_counts_drops_in_what_is_tolerated():
    assert [ranking.score(row) for row in ROWS] == pytest.approx([0.2, 4.0, 0.0, 0.8])
    assert [ranking.worst(row) for row in ROWS] == [30, 50, 35, np.inf]
    text = ranking.table(ROWS)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [line[:5] for line in lines[1:5]] == [
        ["b", "weights", "8", "4.00", "50.0"],
        ["b", "activations", "8", "0.80", "-"],
        ["a", "weights", "8", "0.20", "30.0"],
        ["a*", "activations", "8", "0.00", "35.0"],
    ]
    assert lines[1][5] == "+0.0200 [-0.0100, +0.0500]"
    assert lines[6:] == [
        ["weights", "-1.00", "-1.00", "-"],
        ["activations", "-1.00", "-1.00", "-"],
        ["all", "-0.60", "-0.60", "-"],
    ]
    found = ranking.document({"scheme": "w8a8"}, ROWS)
    assert [row["score"] for row in found["ranking"]] == pytest.approx([4, 0.8, 0.2, 0])
    assert found["tolerances"] == {"repeatability": 0.005, "localization_error": 0.02}
    assert found["spearman"]["all"] == pytest.approx({"score": -0.6, "repeatability": -0.6, "localization_error": None})


def test_rows_whose_interval_holds_0_are_marked(tmp_path):
    def row(layer, drop, low, high, pairs=40):
        made = row_of(layer, "weights", drop, {"x": 30.0})
        return made | {"drops": {"repeatability": {**made["drops"]["repeatability"], "low": low, "high": high}}}

    few = row("few", 0.004, None, None)
    few["drops"]["repeatability"]["pairs"] = 6
    rows = [
        row("noise", 0.02, -0.01, 0.05),
        row("costs", 0.01, 0.002, 0.02),
        few,
        row("gains", -0.01, -0.02, -0.005),
        row("same", 0.0, 0.0, 0.0),
    ]
    text = ranking.table(rows)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert lines[0][-1] == "interval of the score"
    assert [(line[0], line[-1]) for line in lines[1:6]] == [
        ("noise", "holds 0"),
        ("costs", "above 0"),
        ("few", "n/a (6 pairs)"),
        ("same", "holds 0"),
        ("gains", "below 0"),
    ]
    assert lines[3][5] == "+0.0040 interval: n/a (6 pairs)"
    assert "3 of 5 scores are not shown to differ from noise: the interval holds 0, or there are fewer than 10" in text
    shown = {each["layer"]: each["shown"] for each in ranking.document({}, rows)["ranking"]}
    assert shown == {"noise": False, "costs": True, "few": False, "gains": True, "same": False}
    assert "-0.00" not in ranking.table([row("least", -1e-6, -2e-6, -5e-7)])
    pytest.importorskip("matplotlib")
    assert cv2.imread(str(ranking.draw(rows, "a title", tmp_path / "ranking.png"))).shape[1] > 300


def test_the_interval_is_that_of_the_metric_that_makes_the_score():
    drops = {"repeatability": {"drop": 0.001, "low": -0.1, "high": 0.1, "parent": 0.6, "pairs": 40}}
    drops["localization_error"] = {"drop": 0.1, "low": 0.05, "high": 0.2, "parent": 0.9, "pairs": 40}
    assert ranking.evidence(row_of("a", "weights", 0, {}) | {"drops": drops}) == "above 0"


def test_a_metric_without_values_ranks_first(tmp_path):
    pytest.importorskip("matplotlib")
    drops = {"repeatability": {"drop": None, "low": None, "high": None, "parent": None, "pairs": 0}}
    rows = [{**row, "drops": {"repeatability": row["drops"]["repeatability"]}} for row in ROWS]
    rows[0] = {**rows[0], "drops": drops}
    found = ranking.document({}, rows)
    assert (found["ranking"][0]["layer"], found["ranking"][0]["score"]) == ("a", None)
    json.dumps(found, allow_nan=False)
    assert "| a     | weights     | 8    | inf" in ranking.table(rows)
    assert cv2.imread(str(ranking.draw(rows, "a title", tmp_path / "ranking.png"))).shape[1] > 300


def test_quantize_and_study_read_the_same_file(net, tmp_path):
    small = quantize(net("wren"), "w4", None, tmp_path / "a.onnx")
    from lf.quantize import float_onnx

    with pytest.raises(UsageError, match=r"quantize starts from a float .onnx file, this one is w4"):
        float_onnx(small)
    assert Extractor(float_onnx(net("wren")), "ort-cpu").artifact == net("wren")
