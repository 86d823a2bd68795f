"""lf tune: candidates with known numbers, and the command on a random network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lf.benchmarks.report import pareto, web
from lf.benchmarks.report.web import budget
from lf.benchmarks.run import results
from lf.benchmarks.run.record import Run
from lf.benchmarks.timing import latency
from lf.core import FEATURES, GateFailed, UsageError
from lf.formats import model_file
from lf.models import MODELS, NETWORKS
from lf.runtimes import BACKENDS
from lf.studies import sweep_runs

PAIRS = 40


def run(loss=0.0, ms=10.0, size=1_000_000, scheme="w8a8", backend="ort-cpu", threads=1, spread=0.0, **about):
    """A run with repeatability 0.5 - loss for every pair, plus `spread`, which cancels in the mean."""
    made = {"scheme": scheme, "bytes": size, "file": f"{scheme}.onnx", "sha256": "0" * 64, "model": "wren"}
    made["outputs"] = {name: [1, 1] for name in about.get("outputs", ["detector"])}
    wave = spread * (np.arange(PAIRS) % 2 * 2 - 1)
    fields = {
        "protocol": "kp2d-fixed",
        "protocol_digest": "0" * 12,
        "dataset_digest": "0" * 64,
        "pairs": [{"sequence": "v_a", "pair": str(i), "repeatability": 0.5 - loss + wave[i]} for i in range(PAIRS)],
        "summary": {"repeatability": 0.5 - loss},
        "artifact": made,
        "input_size": about.get("size_asked"),
        "backend": backend,
        "environment": {"threads": threads, "cpu": "a processor", "versions": {"lf": "0"}, "commit": "c0"},
        "latency_ms": {"end_to_end": {"p50": about.get("p50", ms), "n": 30}},
        "ratio": {"to": "the first", "end_to_end": {"value": ms / 10, "interval": [0, 1]}},
        "void": about.get("void"),
        "dataset": "drawn",
    }
    return Run.from_dict(fields, "test")


BUDGET = {"repeatability": 0.01}


def judged(**changes):
    return pareto.judge(run(), run(**changes), BUDGET)


@pytest.mark.parametrize(
    ("loss", "spread", "used", "shown"),
    [
        (0.0, 0, 0.0, True),
        (0.005, 0, 0.5, True),
        (0.02, 0, 2.0, False),
        (-0.01, 0, 0.0, True),
        (0.005, 0.1, 0.5, False),
    ],
)
def test_the_budget_is_counted_in_shares_of_the_mean_drop(loss, spread, used, shown):
    found = judged(loss=loss, spread=spread)
    assert found.used == pytest.approx(used, abs=1e-9)
    assert found.shown is shown
    assert found.drops["repeatability"][0] == pytest.approx(loss)


def test_the_largest_share_counts_and_a_metric_without_values_uses_up_all():
    assert pareto.judge(run(), run(loss=0.005), {"repeatability": 0.001}).used == pytest.approx(5)
    assert pareto.judge(run(), run(loss=0.005), {"repeatability": 0.0}).used == float("inf")
    assert pareto.judge(run(), run(), {"repeatability": 0.0}).used == 0
    lost = pareto.judge(run(), run(), {**BUDGET, "matching_score": 1.0})
    assert (lost.used, lost.shown) == (float("inf"), False)
    assert lost.answer["budget_used"] is None


def test_the_front_is_what_nothing_beats_in_all_three():
    fast, small, both = judged(ms=5, loss=0.004), judged(size=10, ms=20), judged(ms=5, loss=0.005)
    slow = judged(ms=30)
    again = judged(ms=5, loss=0.004, scheme="w4a8")  # the same numbers do not beat each other
    assert pareto.front([slow, both, small, fast, again]) == [fast, again, small]


def test_the_fastest_within_the_budget_wins():
    quick, within = judged(ms=1, loss=0.011), judged(ms=5, loss=0.009)
    assert pareto.fastest([judged(), quick, within]) is within
    assert pareto.fastest([quick]) is None


def test_the_table_says_what_is_what():
    some = [judged(), judged(ms=5, loss=0.005, spread=0.1, threads=2), judged(ms=1, loss=0.1, scheme="w4a8")]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in pareto.table(some, BUDGET).splitlines()
        if line.startswith("|")
    ]
    assert lines[0] == ["", "scheme", "backend", "threads", "ms", "times the first", "repeat.", "budget", "MB"]
    assert [line[0] for line in lines[2:]] == ["*", "->", "*"]
    assert [line[7] for line in lines[2:]] == ["beyond", "not shown", "within"]
    assert lines[3][6].startswith("0.495 +0.005 [-0.02")


def test_the_fastest_is_that_of_the_least_ratio_within_turns():
    """Two medians of times say the contrary: the machine was slow in other turns of either."""
    ahead, behind = judged(ms=5, p50=9), judged(ms=6, p50=8, scheme="w4a8")
    assert pareto.fastest([behind, ahead]) is ahead
    assert pareto.front([behind, ahead]) == [ahead]
    lines = pareto.table([behind, ahead], BUDGET).splitlines()[2:]
    assert [line.split("|")[2].strip() for line in lines] == ["w8a8", "w4a8"]
    assert [line.split("|")[6].strip() for line in lines] == ["0.50 [0.00, 1.00]", "0.60 [0.00, 1.00]"]
    assert ahead.answer["ratio"] == {"to": "the first", "value": 0.5, "interval": [0, 1]}


def test_few_pairs_show_nothing():
    first, other = run(), run(loss=0.001)
    for one in (first, other):
        del one.pairs[9:]
    found = pareto.judge(first, other, BUDGET)
    assert (found.used <= 1, found.shown) == (True, False)
    assert found.answer["drops"] == {"repeatability": {"drop": pytest.approx(0.001), "interval": None, "pairs": 9}}
    text = pareto.table([found], BUDGET)
    assert "| 0.499 +0.001 interval: n/a (9 pairs) | not shown |" in text


def test_void_times_say_why_below_the_table():
    text = pareto.table([judged(), judged(ms=5, void="busy")], BUDGET)
    assert text.endswith(
        "\n\n- w8a8 ort-cpu 1t: void: busy\n1 of 2 runs void: stop what else runs here and repeat the command"
    )


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "w8a8 ort-cpu 1t"),
        ({"outputs": FEATURES, "threads": 2}, "w8a8 features ort-cpu 2t"),
        ({"size_asked": [180, 240]}, "w8a8 at 180x240 ort-cpu 1t"),
    ],
)
def test_what_was_tried_has_a_name(changes, name):
    found = judged(**changes)
    assert found.name == name
    assert (found.answer["outputs"], found.answer["input_size"]) == (
        [*changes.get("outputs", ["detector"])],
        changes.get("size_asked"),
    )


def test_the_chart_shows_every_candidate_the_budget_and_the_front():
    some = [judged(), judged(ms=5, loss=0.005, backend="openvino"), judged(ms=1, loss=9.0), judged(ms=6, void="busy")]
    chart, legend = budget.used(some)
    assert len(legend) == len({(one.form, one.run.backend) for one in some})
    assert chart.picture.count("<g tabindex") == len(some)
    assert 'class="limit"' in chart.picture
    assert "left is better" in chart.picture
    assert "more than is shown" in chart.note
    assert "Hollow marks" in chart.note
    fastest = min(some, key=lambda one: one.time)
    assert f'class="name">{fastest.name}</text>' in chart.picture


def test_the_report_has_the_chart_only_where_candidates_are_given(tmp_path):
    some = [judged(), judged(ms=5)]
    runs = [one.run for one in some]
    assert 'id="budget"' in web.write(runs, tmp_path / "tuned.html", candidates=some).read_text()
    assert 'id="budget"' not in web.write(runs, tmp_path / "plain.html").read_text()


# --- the command ---


@pytest.fixture
def place(tmp_path, tiny):
    """A random network and two photos to evaluate on."""
    pytest.importorskip("onnxruntime")
    tiny()
    (tmp_path / "shots").mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        blocks = rng.integers(0, 255, (12, 16, 3), np.uint8)
        picture = cv2.resize(blocks, (320, 240), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(tmp_path / "shots" / f"{index}.png"), picture)
    return tmp_path


@pytest.fixture
def lf(lf, place, monkeypatch):
    """Run `lf tune tiny.onnx` in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(latency, "LONGEST", 1)
    usual = ("--data", f"warps:{place / 'shots'}", "--out", place / "out", "--repeats", 2)
    return lambda *words: lf("tune", place / "tiny.onnx", *usual, *words)


LOOSE = ("--scheme", "w4", "--backend", "ort-cpu", "--max-drop", "repeatability=1")


def test_every_file_is_tried_with_every_number_of_threads(place, lf, monkeypatch):
    code, text, error = lf(*LOOSE, "--threads", "1,2")
    assert (code, error) == (0, "")
    runs = results.load(place / "out" / "results.json")
    assert [(run.artifact.scheme, run.environment.threads) for run in runs] == [
        ("fp32", 1),
        ("fp32", 2),
        ("w4", 1),
        ("w4", 2),
    ]
    assert all(len(run.samples_ms["end_to_end"]) == 2 for run in runs)
    assert runs[3].ratio.to == "tiny@ort-cpu 1t"
    told, path = text.splitlines()[-1].rsplit(", ", 1)
    assert told.startswith("fastest within the budget: ")
    assert Path(path).is_file()
    assert 'id="budget"' in (place / "out" / "report.html").read_text()
    monkeypatch.setattr(sweep_runs, "bench", lambda *rest, **options: pytest.fail("it was evaluated before"))
    code, text, _ = lf(*LOOSE, "--json")
    assert code == 0
    answer = json.loads(text)
    assert answer["best"]["file"] in {"tiny.onnx", "tiny.w4.onnx"}
    assert answer["best"] in answer["front"]


def test_sizes_and_ends_of_the_graph_are_tried(place, lf):
    code, text, error = lf(*LOOSE, "--size", "120x160", "--cut", "features", "--json")
    assert (code, error) == (0, "")
    runs = results.load(place / "out" / "results.json")
    forms = [pareto.Candidate(run).form for run in runs]
    assert forms == [
        *("fp32", "fp32 features", "w4", "w4 features"),
        *("fp32 at 120x160", "fp32 features at 120x160", "w4 at 120x160", "w4 features at 120x160"),
    ]
    whole, small = (run.summary for run in (runs[0], runs[4]))
    assert [run.summary["n_keypoints0"] for run in (runs[1], runs[3])] == [1000, 1000], "its slots"
    assert small["n_keypoints0"] < whole["n_keypoints0"], "a smaller input has fewer cells"
    assert all(len(run.samples_ms["end_to_end"]) == 2 for run in runs)
    assert json.loads(text)["best"]["outputs"]
    assert {path.name for path in place.iterdir()} == {"out", "shots", "tiny.onnx"}, "nothing beside the model"


def test_what_a_graph_cannot_decode_is_left_out(place, lf, monkeypatch):
    for table in (MODELS, NETWORKS):
        monkeypatch.setitem(table, "wren", replace(MODELS["wren"], decode_onnx=None))
    code, text, error = lf(*LOOSE, "--cut", "features")
    assert code == 0
    assert "lf: fp32.features for ort-cpu is left out: " in error
    assert "| fp32 features" not in text


@pytest.mark.parametrize("model", ["features", "wren"])
def test_an_adopted_file_that_decodes_itself_is_timed_in_float(place, lf, model):
    """For known and unknown networks, schemes are left out with a remark."""
    from lf.export import export
    from lf.models.own import of_features

    made = export(model_file.load(place / "tiny.onnx"), "onnx", place / "cut.onnx", cut="features", top_k=50)
    network = of_features(1, 256) if model == "features" else made.card.network
    model_file.save(place / "tiny.onnx", made.path.read_bytes(), replace(made.card, model=model, network=network))
    code, text, error = lf(*LOOSE)
    assert (code, "fp32 features" in text) == (0, True), error
    assert error == (
        "lf: w4 for ort-cpu is left out: the file decodes in its graph, and only raw heads are quantized; give the "
        "file with raw heads\n"
    )


def test_a_budget_that_nothing_keeps_is_said_and_the_table_is_there(place, lf, monkeypatch):
    real = pareto.judge
    monkeypatch.setattr(pareto, "judge", lambda a, b, budget: real(a, b, {**budget, "n_matches": 0.0}))
    monkeypatch.setattr(Run, "drop", lambda self, reference, metric: None)
    code, text, error = lf(*LOOSE)
    assert code == GateFailed.exit_code
    assert "| w4 " in text
    assert error == (
        "lf: nothing that was tried is within repeatability=1; allow more, or try other formats and backends\n"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--threads", "0"], "--threads 0: expected numbers from 1 on with commas, for example --threads 1,2"),
        (["--threads", "two"], "--threads two: expected numbers"),
        (["--scheme", "w9"], "unknown scheme 'w9'"),
        (["--backend", "torch"], "backend torch runs no .onnx or .tflite files; these do: ort-cpu"),
        (["--backend", "ort"], "unknown backend 'ort'; did you mean one of 'ort-cpu'"),
        (["--max-drop", "speed=1"], "unknown metric by which files are judged 'speed'"),
        (["--max-drop", "mma@3=0.1"], "mma@3 is no metric of protocol kp2d-fixed, but of mma"),
        (["--size", "100x100"], "--size 100x100: wren needs multiples of 8; for example --size 96x96"),
        (["--size", "small"], "--size small: expected HEIGHTxWIDTH in pixels"),
        (["--size", "120x160", "--protocol", "mma", "--max-drop", "mma@3=1"], "evaluates at the native size"),
        (["--cut", "heads"], "every file ends at its raw heads; --cut features tries the other end, too"),
        (["--protocol", "kp"], "unknown protocol 'kp'"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(lf, place, words, text):
    code, _, error = lf(*words)
    assert code == UsageError.exit_code
    assert text in error
    assert not (place / "out").exists()


def test_a_quantized_file_is_refused(lf, place):
    made = model_file.load(place / "tiny.onnx")
    model_file.save(made.path, made.path.read_bytes(), replace(made.card, scheme="w8a8"))
    code, _, error = lf()
    assert code == UsageError.exit_code
    assert error.endswith("tiny.onnx: is w8a8; give lf tune the float file that it was made from\n")


def test_the_default_engines_are_rows():
    from lf.studies.tune import BACKENDS_TRIED

    assert set(BACKENDS_TRIED) < set(BACKENDS)
