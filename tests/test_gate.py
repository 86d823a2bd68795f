"""Runs, their file, their tables and the gate: hand-made runs with known verdicts, and real ones of a tiny network."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from lf.benchmarks import METRICS, PROTOCOLS
from lf.benchmarks.report import tables as report
from lf.benchmarks.run import gate, predict, results
from lf.benchmarks.run.evaluate import bench
from lf.benchmarks.run.gate import Gate
from lf.benchmarks.run.names import told_apart
from lf.benchmarks.run.predict import Predictor
from lf.benchmarks.run.record import Run
from lf.benchmarks.run.suite import pair_up, suite
from lf.benchmarks.timing import latency, latency_stats
from lf.core import Artifact, BadInput, Card, GateFailed, LfError, UsageError
from lf.data import open_dataset
from lf.extraction.variant import Variant
from lf.runtimes.ort import OrtSession

SMALL_NOISE = np.random.default_rng(0).normal(0, 0.05, 200).tolist()


def run(scheme="fp32", backend="ort-cpu", protocol="kp2d", **metrics):
    """A run with these values of pairs; metric -> list, one per pair."""
    pairs = [dict(zip(metrics, values, strict=True)) for values in zip(*metrics.values(), strict=True)]
    made = {
        "artifact": {"model": "wren", "scheme": scheme, "bytes": 1_500_000},
        "backend": backend,
        "protocol": protocol,
        "protocol_digest": f"digest of {protocol}",
        "dataset_digest": "digest of data",
        "summary": {n: mean([v for v in values if v is not None]) for n, values in metrics.items()},
        "pairs": [{"sequence": f"v_{n}", "pair": "1_2", **pair} for n, pair in enumerate(pairs)],
    }
    return Run.from_dict(made, "test")


def changed(one, **changes):
    """A run with other fields."""
    return Run.from_dict(one.to_dict() | changes, "test")


def mean(values):
    return sum(values) / len(values) if values else None


def judge(old, new, **conditions):
    (verdict,) = gate.compare([old], [new], [Gate(**{"metric": "repeatability", "max_drop": 0.0, **conditions})])
    return verdict


def shifted(values, by):
    return [value + by for value in values]


# --- verdicts


def test_the_same_run_passes_with_no_drop_at_all():
    one = run(repeatability=[0.5, 0.6, 0.7] * 4, localization_error=[1, 2, 3] * 4)
    for metric in ("repeatability", "localization_error"):
        verdict = judge(one, copy.deepcopy(one), metric=metric)
        assert (verdict.passed, verdict.drop, verdict.bound, verdict.pairs) == (True, 0, 0, 12)


@pytest.mark.parametrize(("pairs", "answer"), [(1, "undecided"), (9, "undecided"), (10, "pass")])
@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_a_gate_is_undecided_by_few_pairs(pairs, answer, confidence):
    one = run(repeatability=[0.608] * pairs, localization_error=[1.0] * pairs)
    verdict = judge(one, copy.deepcopy(one), confidence=confidence)
    assert (verdict.answer, verdict.passed) == (answer, answer == "pass")
    if answer == "pass":
        gate.enforce([verdict])
        return
    assert verdict.bound is None
    with pytest.raises(GateFailed) as caught:
        gate.enforce([verdict])
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        "1 of 1 gates failed: wren fp32 ort-cpu kp2d: repeatability may drop by 0, "
        f"undecided: {pairs} pairs, at least 10 needed (0.6080 -> 0.6080)"
    )


def test_the_pairs_that_decide_are_those_with_a_value():
    old, new = (run(localization_error=[1.0] * there + [None] * (40 - there)) for there in (40, 9))
    assert judge(old, new, metric="localization_error").answer == "undecided"
    assert report.drop(old, new, "localization_error") == "+0.000 interval: n/a (9 pairs)"


def test_an_area_over_pairs_is_judged_from_their_errors():
    sharp, blunt = (run(protocol="auc", mean_corner_error=values * 5) for values in ([0.0, 0.0], [0.0, None]))
    for one in (sharp, blunt):
        one.summary["h_auc@3"] = None  # gates read the pairs, not the summary
    verdict = judge(sharp, blunt, metric="h_auc@3", max_drop=0.1)
    assert (verdict.passed, verdict.reference, verdict.value) == (False, pytest.approx(1), pytest.approx(0.5))


@pytest.mark.parametrize(
    ("kind", "max_drop", "passed"),
    [("abs", 0.021, True), ("abs", 0.019, False), ("rel", 0.041, True), ("rel", 0.039, False)],
)
def test_a_drop_of_every_pair_is_known_exactly(kind, max_drop, passed):
    values = [0.4, 0.5, 0.6] * 4
    verdict = judge(run(repeatability=values), run(repeatability=shifted(values, -0.02)), kind=kind, max_drop=max_drop)
    assert verdict.drop == pytest.approx(0.02)
    assert verdict.bound == pytest.approx(0.02)
    assert verdict.limit == pytest.approx(max_drop if kind == "abs" else max_drop * 0.5)
    assert (verdict.reference, verdict.value) == (pytest.approx(0.5), pytest.approx(0.48))
    assert verdict.passed is passed


@pytest.mark.parametrize("metric", METRICS)
def test_worse_is_worse_for_every_metric(metric):
    worse = 1 if METRICS[metric].higher_is_better is False else -1
    values = [3.0, 4.0, 5.0] * 4
    old = run(**{metric: values})
    for direction in (worse, -worse):
        verdict = judge(old, run(**{metric: shifted(values, 0.5 * direction)}), metric=metric, max_drop=0.1)
        assert verdict.drop == pytest.approx(0.5 * direction * worse)
        assert verdict.passed is (direction != worse)


@pytest.mark.parametrize(("confidence", "passed"), [(0.95, False), (0.5, True)])
def test_the_bound_decides_and_not_the_mean(confidence, passed):
    noise = [value - mean(SMALL_NOISE) for value in SMALL_NOISE]
    new = [0.5 - 0.003 + value for value in noise]
    verdict = judge(run(repeatability=[0.5] * 200), run(repeatability=new), max_drop=0.005, confidence=confidence)
    assert verdict.drop == pytest.approx(0.003)
    z = 1.645 if confidence == 0.95 else 0
    assert verdict.bound == pytest.approx(0.003 + z * np.std(noise) / math.sqrt(200), abs=5e-4)
    assert verdict.passed is passed


def test_pairs_are_matched_by_name_and_undefined_ones_left_out():
    old = run(localization_error=[1.0, None, 2.0, 3.0] * 5)
    new = run(localization_error=[1.0, 1.0, None, 3.0] * 5)
    new.pairs.reverse()
    verdict = judge(old, new, metric="localization_error")
    assert (verdict.drop, verdict.pairs, verdict.passed) == (0, 10, True)


@pytest.mark.parametrize(("pairs", "lost", "passed"), [(1, 0.05, True), (2, 0.1, False), (19, 0.95, False)])
def test_pairs_that_became_undefined_are_counted(pairs, lost, passed):
    old, new = (run(localization_error=[*[None] * gone, *[1.0] * (20 - gone)]) for gone in (0, pairs))
    verdict = judge(old, new, metric="localization_error")
    assert (verdict.drop, verdict.pairs, verdict.lost, verdict.passed) == (0, 20 - pairs, pytest.approx(lost), passed)
    if not passed:
        with pytest.raises(GateFailed, match=rf"undefined on {lost:.0%} more of the pairs"):
            gate.enforce([verdict])
        assert f"{20 - pairs}, {lost:.0%} lost" in report.verdicts([verdict])
    assert judge(new, old, metric="localization_error").passed is (pairs < 19)  # one pair is too few


def test_pairs_that_fall_to_0_are_a_drop_where_the_mean_leaves_zeros_out():
    old, new = (run(protocol="kp2d-tiny", repeatability=values) for values in ([0.7] * 20, [0.7] + [0.0] * 19))
    verdict = judge(old, new, max_drop=0.005)
    assert (verdict.passed, verdict.pairs, verdict.drop) == (False, 20, pytest.approx(0.665))


def test_gates_choose_their_runs_and_runs_their_reference():
    reference = [run("fp32", repeatability=[0.625] * 10), run("w8a8", repeatability=[0.5] * 10)]
    new = [run("fp32", repeatability=[0.625] * 10), run("w8a8", repeatability=[0.375] * 10)]
    gates = [Gate("repeatability", 0.01), Gate("repeatability", 0.2, scheme="w8a8")]
    found = gate.compare(reference, new, gates)
    assert [(v.run, v.gate, v.reference, v.passed) for v in found] == [
        ("wren fp32 ort-cpu kp2d", gates[0], 0.625, True),
        ("wren w8a8 ort-cpu kp2d", gates[0], 0.5, False),
        ("wren w8a8 ort-cpu kp2d", gates[1], 0.5, True),
    ]


def test_a_single_reference_of_the_protocol_serves_every_run():
    reference = [run(backend="torch", repeatability=[0.6]), run(protocol="mma", repeatability=[0.1])]
    new = [run(repeatability=[0.6]), run("w8a8", repeatability=[0.5])]
    assert [v.reference for v in gate.compare(reference, new, [Gate("repeatability", 1)])] == [0.6, 0.6]


OLD = run(repeatability=[0.6, 0.7] * 5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"dataset_digest": "x"},
            "wren fp32 ort-cpu kp2d: dataset_digest is x, the reference's is digest of data; evaluate",
        ),
        (
            {"protocol_digest": "x"},
            "protocol_digest is x, the reference's is digest of kp2d; evaluate both the same way",
        ),
        ({"pairs": OLD.pairs[:1]}, "its pairs are not those of the reference; evaluate both on the same data"),
        (
            {"pairs": [{**p.to_dict(), "repeatability": None} for p in OLD.pairs]},
            "repeatability is undefined on every pair",
        ),
        (
            {"protocol": "mma"},
            "0 reference runs for wren fp32 ort-cpu mma; expected one, the reference has: wren fp32 ort",
        ),
        (
            {"summary": {}},
            r"a gate applies to no run: Gate\(metric='repeatability', .+: wren fp32",
        ),
    ],
)
def test_what_does_not_compare_is_refused(change, text):
    with pytest.raises(BadInput, match=text):
        judge(OLD, changed(OLD, **change))


def test_no_gate_goes_unheard():
    gates = [Gate("repeatability", 0.1), Gate("repeatability", 0.1, scheme="w8a8")]
    with pytest.raises(BadInput, match=r"a gate applies to no run: .+scheme='w8a8'"):
        gate.compare([OLD], [OLD], gates)


def test_of_a_sweep_each_run_meets_its_own_data_and_file():
    def of(data, file, value):
        one = run(repeatability=[value, value])
        return changed(one, dataset_digest=data, artifact=one.artifact.to_dict() | {"file": file})

    reference = [of(data, file, 0.5) for data in "ab" for file in ("x.onnx", "y.onnx")]
    (verdict,) = gate.compare(reference, [of("b", "x.onnx", 0.25)], [Gate("repeatability", 0.1)])
    assert verdict.drop == 0.25
    with pytest.raises(BadInput, match="0 reference runs"):
        gate.compare(reference, [of("c", "x.onnx", 0.5)], [Gate("repeatability", 0.1)])


def test_a_run_at_the_points_of_a_baseline_meets_the_reference_at_the_same():
    reference = [run(repeatability=[0.5]), changed(run(repeatability=[0.25]), keypoints="sift")]
    found = gate.compare(reference, reference, [Gate("repeatability", 1)])
    assert [(verdict.run, verdict.reference) for verdict in found] == [
        ("wren fp32 ort-cpu kp2d", 0.5),
        ("wren at sift fp32 ort-cpu kp2d", 0.25),
    ]


def test_two_references_for_one_run_are_refused():
    with pytest.raises(BadInput, match="2 reference runs for wren fp32 ort-cpu kp2d; expected one"):
        gate.compare([OLD, OLD], [OLD], [Gate("repeatability", 0)])


def test_enforce_counts_and_names_the_first_failure():
    good = judge(OLD, OLD)
    bad = judge(OLD, run(repeatability=[0.5, 0.6] * 5), max_drop=0.01)
    gate.enforce([good])
    with pytest.raises(GateFailed) as caught:
        gate.enforce([good, bad])
    assert str(caught.value) == (
        "1 of 2 gates failed: wren fp32 ort-cpu kp2d: repeatability may drop by 0.01, "
        "the bound is 0.1 (0.6500 -> 0.5500)"
    )


# --- gates files


def test_gates_are_read(tmp_path):
    path = tmp_path / "gates.toml"
    path.write_text(
        '[[gate]]\nmetric = "repeatability"\nmax_drop = 1\n'
        '[[gate]]\nmetric = "mma@3"\nmax_drop = 0.01\nkind = "rel"\nconfidence = 0.5\nbackend = "torch"\n'
    )
    assert gate.load_gates(path) == [
        Gate("repeatability", 1),
        Gate("mma@3", 0.01, "rel", 0.5, backend="torch"),
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[[gate", BadInput, r"not TOML \(.+\); expected \[\[gate\]\] tables with metric and max_drop"),
        ("a = " + "[" * 5000, BadInput, "not TOML"),
        ("x = 1", BadInput, r"no \[\[gate\]\] in it; expected at least one with metric and max_drop"),
        ("gate = 3", BadInput, r"no \[\[gate\]\] in it"),
        ("gate = [3]", BadInput, r"no \[\[gate\]\] in it"),
        ("[gate]\nmetric = 'repeatability'", BadInput, r"no \[\[gate\]\] in it"),
        (
            "[[gate]]\nmetrik = 'x'\nlimit = 3",
            BadInput,
            "unknown limit, metrik in a gate; known: backend, confidence, kind",
        ),
        ("[[gate]]\nmetric = 'repeatability'", BadInput, 'a gate needs metric = "NAME" and max_drop = NUMBER, got'),
        ("[[gate]]\nmetric = 3\nmax_drop = 3", BadInput, 'a gate needs metric = "NAME"'),
        ("[[gate]]\nmetric = 'mma@3'\nmax_drop = '3'", BadInput, 'a gate needs metric = "NAME"'),
        ("[[gate]]\nmetric = 'mma@3'\nmax_drop = true", BadInput, 'a gate needs metric = "NAME"'),
        (
            "[[gate]]\nmetric = 'mma@3'\nmax_drop = nan",
            BadInput,
            "a gate needs kind abs or rel, confidence in .+ finite",
        ),
        ("[[gate]]\nmetric = 'mma@3'\nmax_drop = 0\nkind = 'any'", BadInput, "a gate needs kind abs or rel"),
        ("[[gate]]\nmetric = 'mma@3'\nmax_drop = 0\nconfidence = 1.0", BadInput, r"confidence in \[0.5, 1\)"),
        ("[[gate]]\nmetric = 'mma@3'\nmax_drop = 0\nconfidence = 'high'", BadInput, 'a gate needs metric = "NAME"'),
        ("[[gate]]\nmetric = 'repeatbility'\nmax_drop = 0", UsageError, "did you mean 'repeatability'"),
        ("[[gate]]\nmetric = 'mma'\nmax_drop = 0", UsageError, r"did you mean one of 'mma@1' ... 'mma@15'\?"),
        ("[[gate]]\nmetric = 'mma@3'\nmaxdrop = 0", BadInput, r"unknown maxdrop .*; did you mean 'max_drop'\? known:"),
    ],
)
def test_a_wrong_gates_file_is_named(tmp_path, text, error, message):
    path = tmp_path / "gates.toml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        gate.load_gates(path)


# --- results files


def test_results_survive_their_file(tmp_path):
    runs = [OLD, run("w8a8", localization_error=[None, 1.5])]
    path = results.save(tmp_path / "new" / "results.json", runs)
    assert results.load(path) == runs
    assert json.loads(path.read_text()) == {"schema": 1, "runs": [one.to_dict() for one in runs]}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], "no runs in it; expected a results file of: `bench"),
        ({"schema": 1, "runs": []}, "no runs in it"),
        ({"schema": 1, "runs": {"a": 1}}, "no runs in it"),
        ({"schema": 2, "runs": [OLD.to_dict()]}, "schema 2, this lf reads 1"),
        ({"runs": [OLD.to_dict()]}, "schema None, this lf reads 1"),
        ({"schema": 1, "runs": [3]}, r"runs\[0\] is 3, expected an object"),
    ],
)
def test_a_wrong_results_file_is_named(tmp_path, data, text):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BadInput, match=rf"results\.json: {text}"):
        results.load(path)


# --- tables


def cells(markdown):
    """The rows of a Markdown table, without the line below the head."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("|-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def timed(one, times, reference, void=None):
    """A run with the timing fields of turns of `times`, ms each, against those of the reference in the same turns."""
    of, base = ({phase: [*values] for phase in ("end_to_end", "cpu")} for values in (times, reference))
    ratios = {"to": "a", **latency_stats.ratios(of, base)}
    return changed(one, **latency_stats.summarise(of, 1) | {"ratio": ratios, "void": void})


def turns(factor, slow=()):
    """Twelve turns of 30 ms times `factor`; those in `slow` take three times as long."""
    return [30.0 * factor * (3 if turn in slow else 1) for turn in range(12)]


def test_the_table_has_accuracy_speed_and_size():
    first = turns(1)
    runs = [
        timed(run(repeatability=[0.5, 0.7], localization_error=[1, None], n_matches=[100, 200]), first, first),
        timed(
            run("w8a8", repeatability=[0.4, 0.6], localization_error=[None, None], n_matches=[1, 2]),
            turns(1 / 3),
            first,
        ),
        run("w8a8", "torch", repeatability=[0.4, 0.6], localization_error=[1, 3], n_matches=[1, 2]),
    ]
    assert cells(report.table(runs)) == [
        ["model", "scheme", "backend", "repeat.", "loc. px", "p50 ms", "speed", "MB"],
        ["wren", "fp32", "ort-cpu", "0.600", "1.000", "30.0", "1.00x [1.00, 1.00]", "1.50"],
        ["wren", "w8a8", "ort-cpu", "0.500", "-", "10.0", "3.00x [3.00, 3.00]", "1.50"],
        ["wren", "w8a8", "torch", "0.500", "2.000", "-", "-", "1.50"],
    ]
    assert report.foot(runs) == (
        "speed: times as fast as the first row in the same turn; the median, and its 95 % bootstrap interval over turns"
    )
    assert report.foot(runs[2:]) == ""


def test_the_speed_is_the_ratio_within_turns_and_not_of_two_medians():
    """The machine is slow for a while, which begins within a turn: 7 slow turns of the first, 6 of the second."""
    first, second = turns(1, slow=range(5, 12)), turns(2 / 3, slow=range(6, 12))
    one, other = (timed(run(repeatability=[0.5]), times, first) for times in (first, second))
    assert one.p50 / other.p50 == pytest.approx(2.25)
    assert other.ratio.end_to_end.value == pytest.approx(1 / 1.5, abs=1e-4)
    assert cells(report.table([one, other]))[2][-2] == "1.50x [1.50, 1.50]"
    few = timed(run(repeatability=[0.5]), second[:9], first[:9])
    assert cells(report.table([one, few]))[2][-2] == "1.50x interval: n/a (9 turns)"


def test_void_rows_say_why_below_the_table():
    first = turns(1)
    runs = [
        timed(run(repeatability=[0.5]), first, first),
        timed(run("w8a8", repeatability=[0.4]), first, first, "busy"),
    ]
    page = report.page(runs)
    assert "30.0 void" in page
    assert (
        page.count("- wren w8a8 ort-cpu: void: busy\n1 of 2 runs void: stop what else runs here and repeat the co") == 1
    )
    assert page.index("- wren w8a8 ort-cpu: void") < page.index("with 95 % interval")


def test_few_pairs_have_no_interval():
    one = run(repeatability=[0.608], localization_error=[None])
    ten = run(repeatability=[0.5] * 12, localization_error=[None] * 3 + [1.0] * 9)
    assert cells(report.averages([one]))[1] == ["wren fp32 ort-cpu", "all", "1", "0.608 interval: n/a (1 pairs)", "-"]
    whole, views = cells(report.averages([ten]))[1:]
    assert whole[3:] == ["0.500 [0.500, 0.500]", "1.000 interval: n/a (9 pairs)"]
    assert views[1:] == ["v", *whole[2:]]
    ten.pairs[:2] = [replace(pair, sequence="i_0") for pair in ten.pairs[:2]]
    assert [row[1:4] for row in cells(report.averages([ten]))[1:]] == [
        ["all", "12", "0.500 [0.500, 0.500]"],
        ["i", "2", "0.500 interval: n/a (2 pairs)"],
        ["v", "10", "0.500 [0.500, 0.500]"],
    ]


def test_runs_of_one_name_are_called_by_their_files():
    runs = [run(repeatability=[0.5]), run(repeatability=[0.6]), run("w8a8", repeatability=[0.7])]
    files = ("dice.N16.onnx", "jac.safetensors", "x.onnx")
    named = [replace(one, artifact=replace(one.artifact, file=file)) for one, file in zip(runs, files, strict=True)]
    told = told_apart(named)
    assert [one.artifact.model for one in told] == ["dice.N16", "jac", "wren"]
    assert [one.label for one in told] == ["dice.N16 fp32 ort-cpu", "jac fp32 ort-cpu", "wren w8a8 ort-cpu"]
    assert [one.artifact.model for one in named] == ["wren"] * 3
    assert told_apart(runs)[0].artifact.model == "wren", "an older results file has no names of files"


def test_drops_count_downwards_as_positive_whatever_the_metric():
    first = run(repeatability=[0.5, 0.7] * 10, localization_error=[1, None] * 10)
    second = run("w8a8", repeatability=[0.4, 0.6] * 10, localization_error=[1.5, 2] * 10)
    third = run("w4a8", repeatability=[0.6, 0.8] * 10, localization_error=[None, None] * 10)
    assert cells(report.drops([first, second, third])) == [
        ["drop from wren fp32 ort-cpu", "repeat.", "loc. px"],
        ["wren w8a8 ort-cpu", "+0.100 [+0.100, +0.100]", "+0.500 [+0.500, +0.500]"],
        ["wren w4a8 ort-cpu", "-0.100 [-0.100, -0.100]", "-"],
    ]


def test_verdicts_as_a_table():
    bad, few = judge(OLD, run(repeatability=[0.5, 0.6] * 5), max_drop=0.01), run(repeatability=[0.6, 0.7])
    assert cells(report.verdicts([judge(OLD, OLD), bad, judge(few, few)])) == [
        ["gate", "run", "metric", "reference", "new", "drop", "bound", "limit", "pairs"],
        ["pass", "wren fp32 ort-cpu kp2d", "repeatability", "0.6500", "0.6500", "+0.0000", "+0.0000", "0.0000", "10"],
        ["FAIL", "wren fp32 ort-cpu kp2d", "repeatability", "0.6500", "0.5500", "+0.1000", "+0.1000", "0.0100", "10"],
        ["undecided", "wren fp32 ort-cpu kp2d", "repeatability", "0.6500", "0.6500", "+0.0000", "-", "0.0000", "2"],
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_has_columns_of_its_own_metrics(protocol):
    metrics = {name: [0.5] for name in (*PROTOCOLS[protocol].metrics, *PROTOCOLS[protocol].aggregates)}
    head, row = cells(report.table([run(protocol=protocol, **metrics)]))
    assert len(head) == len(row) > 8
    assert {"M.score", "mma@3", "corner px", "median deg", "mIoU"} & set(head)


# --- real runs


@pytest.fixture(scope="module")
def pairs():
    return open_dataset("procedural:2")


def evaluate(artifact, pairs, cache=None, protocol="kp2d"):
    return bench(Variant(artifact, "ort-cpu"), pairs, "procedural:2", PROTOCOLS[protocol], cache=cache)


def test_a_run_repeats_and_has_the_documented_fields(tiny, pairs, tmp_path):
    artifact = tiny()
    first, second = (evaluate(artifact, pairs) for _ in range(2))
    assert first.pairs == second.pairs
    assert [pair.name for pair in first.pairs] == [(p.sequence, p.name) for p in pairs]
    assert {name for pair in first.pairs for name in pair.extra} == {*PROTOCOLS["kp2d"].metrics}
    assert first.artifact.sha256 == artifact.sha256
    assert (first.provider, first.latency_ms) == ("CPUExecutionProvider", None)
    assert first.summary["n_keypoints0"] == mean([p.extra["n_keypoints0"] for p in first.pairs])
    assert first.counts["repeatability"] == len(pairs)
    assert set(first.by_split) == {p.sequence[0] for p in pairs}
    assert results.load(results.save(tmp_path / "r.json", [first])) == [first]
    assert "protocol kp2d v1" in report.page([first, second])


def test_features_are_predicted_once(tiny, pairs, tmp_path, monkeypatch):
    artifact, calls, network = tiny(), [], OrtSession.run
    monkeypatch.setattr(OrtSession, "run", lambda self, image: calls.append(1) or network(self, image))
    first = evaluate(artifact, pairs, tmp_path / "cache")
    pictures = len({p.key for pair in pairs for p in (pair.first, pair.second)})
    assert len(calls) == pictures
    assert evaluate(artifact, pairs, tmp_path / "cache").pairs == first.pairs
    assert len(calls) == pictures
    assert evaluate(tiny(row="superpoint"), pairs, tmp_path / "cache").pairs != first.pairs
    assert len(calls) == 2 * pictures


@pytest.mark.parametrize("protocol", ["kp2d", "mma"])
def test_workers_give_the_same_numbers_in_the_same_order(tiny, protocol, tmp_path):
    rule, seen = PROTOCOLS[protocol], []
    chain = pairwise(open_dataset("procedural:5"))
    pairs = [pair for one, other in chain for pair in (one, replace(other, first=one.first))]
    alone = bench(Variant(tiny(), "ort-cpu"), pairs, "p", rule)
    told = lambda *report: seen.append(report)  # noqa: E731
    several = bench(Variant(tiny(), "ort-cpu"), pairs, "p", rule, workers=3, cache=tmp_path / "cache", progress=told)
    assert several.pairs == alone.pairs
    assert several.summary == alone.summary
    assert [done for done, _, _ in seen] == [*range(len(pairs) + 1)]


@pytest.mark.parametrize("kept", [0, 1, 100, 1000, -30])
def test_a_damaged_cache_is_predicted_again(tiny, pairs, tmp_path, kept):
    artifact = tiny()
    first = evaluate(artifact, pairs[:1], tmp_path / "cache")
    files = [*tmp_path.glob("cache/*/*.npz")]
    assert len(files) == 2
    for path in files:
        path.write_bytes(path.read_bytes()[:kept])
    assert evaluate(artifact, pairs[:1], tmp_path / "cache").pairs == first.pairs


@pytest.mark.parametrize(
    ("row", "protocol", "least"),
    [("kp2dtiny-s-coral", "kp2d-tiny", 0.7), ("kp2dtiny-s-coral", "kp2d", 0.0), ("wren", "kp2d-tiny", 0.0)],
)
def test_a_threshold_of_the_protocol_is_for_networks_that_it_is_of(tiny, pairs, tmp_path, row, protocol, least):
    extractor = Variant(tiny(row=row), "ort-cpu").open()
    rule, picture = PROTOCOLS[protocol], pairs[0].first
    found, _ = Predictor(extractor, rule, tmp_path)(picture)
    again, _ = Predictor(extractor, rule, tmp_path)(picture)
    every = extractor(rule.prepare(picture.load(), extractor.model.channels)[0])
    assert 0 < (every.scores > 0.7).sum() < len(every) or row == "wren"
    for features in (found, again):
        np.testing.assert_array_equal(features.keypoints, every.keypoints[every.scores > least])


def test_protocols_that_prepare_a_picture_alike_share_its_features(tiny, pairs, tmp_path):
    extractor, picture, found = Variant(tiny(), "ort-cpu").open(), pairs[0].first, []
    fixed = PROTOCOLS["kp2d-fixed"]
    assert picture.load().shape[:2] == fixed.size
    for rule in (PROTOCOLS["mma"], fixed, replace(fixed, size=(120, 160))):
        for _ in range(2):  # the second time by its note
            found.append(Predictor(extractor, rule, tmp_path)(picture)[0])
    assert (len([*tmp_path.glob("*/*.json")]), len([*tmp_path.glob("*/*.npz")])) == (3, 2)
    for features in found[1:4]:
        np.testing.assert_array_equal(features.descriptors, found[0].descriptors)
    assert found[4].size == found[5].size == (160, 120)


def test_features_that_other_code_predicted_are_predicted_again(tiny, pairs, tmp_path, monkeypatch):
    artifact = tiny()
    evaluate(artifact, pairs[:1], tmp_path / "cache")
    monkeypatch.setattr(predict, "versions", lambda module: {"code of lf": "changed"})
    evaluate(artifact, pairs[:1], tmp_path / "cache")
    assert len([*tmp_path.glob("cache/*")]) == 2


def test_pictures_that_calibrated_the_file_are_refused(tiny, pairs):
    artifact = tiny()
    used = {"files": [{"name": "photo.png", "sha256": pairs[1].first.digest}]}
    leaked = replace(artifact, card=artifact.card.step(made={"command": "quantize", "calibration": used}))
    with pytest.raises(
        BadInput, match=rf"was calibrated on photo\.png, which is {pairs[1].first.key} of the benchmark; qu"
    ):
        evaluate(leaked, pairs)
    evaluate(leaked, pairs[:1])


def test_views_of_pictures_that_calibrated_the_file_are_refused(tiny, pairs):
    artifact = tiny()
    shown = replace(pairs[1].first, digest="of the view", source="of the photo")
    used = {"files": [{"name": "photo.png", "sha256": "of the photo"}]}
    leaked = replace(artifact, card=artifact.card.step(made={"command": "quantize", "calibration": used}))
    with pytest.raises(BadInput, match=rf"was calibrated on photo\.png, which is {shown.key} of the benchmark"):
        evaluate(leaked, [replace(pairs[1], first=shown)])


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        (
            "kp2d",
            "takes 48x64 only, protocol kp2d evaluates at 240x320; export it again with `size=240x320` or without `",
        ),
        (
            "mma",
            "takes 48x64 only, protocol mma evaluates at the native size of every image; export it again without",
        ),
    ],
)
def test_a_file_of_another_size_is_refused(tiny, pairs, protocol, text):
    with pytest.raises(UsageError, match=text):
        evaluate(tiny(size=(48, 64)), pairs, protocol=protocol)


def test_another_size_of_the_input_is_part_of_a_run_and_of_its_name(tiny, pairs, tmp_path):
    whole, small = (
        bench(Variant(tiny(), "ort-cpu", size=size), pairs, "procedural:2", PROTOCOLS["kp2d"], cache=tmp_path / "cache")
        for size in (None, (120, 160))
    )
    assert (whole.input_size, small.input_size) == (None, [120, 160])
    assert small.summary["n_keypoints0"] < whole.summary["n_keypoints0"], "fewer cells, and no features of the other"
    fixed = bench(Variant(tiny(size=(120, 160)), "ort-cpu", size=(120, 160)), pairs, "p", PROTOCOLS["kp2d"])
    assert fixed.pairs == small.pairs
    assert [gate.label(one) for one in (whole, small)] == [
        "wren fp32 ort-cpu kp2d",
        "wren fp32 ort-cpu kp2d at 120x160",
    ]
    assert "drop from wren fp32 ort-cpu " in (page := report.page([whole, small]))
    assert "| wren fp32 ort-cpu at 120x160 |" in page


@pytest.mark.parametrize(("row", "radius"), [("wren", 9), ("kp2dtiny-s-coral", 4)])
def test_suppression_is_part_of_a_run_and_of_its_name(network, pairs, tmp_path, row, radius):
    artifact = network(row, (240, 320))
    plain, apart = (
        bench(Variant(artifact, "ort-cpu", nms=nms), pairs, "procedural:2", PROTOCOLS["kp2d"], cache=tmp_path / "cache")
        for nms in (None, radius)
    )
    assert (plain.nms, apart.nms) == (None, radius)
    assert gate.label(apart) == f"{row} fp32 ort-cpu kp2d nms {radius}"
    assert f"| {row} fp32 ort-cpu nms {radius} |" in report.page([plain, apart])
    found = Variant(artifact, "ort-cpu", nms=radius).open()(pairs[0].first.load())
    at = found.keypoints.round()
    distance = np.abs(at[:, None] - at).max(2) + np.eye(len(at)) * 99
    assert len(at) > 3
    assert distance.min() > radius - 5 * (row == "wren"), "wren moves its points by up to two pixels afterwards"
    assert len(found) < len(Variant(artifact, "ort-cpu").open()(pairs[0].first.load()))


def test_a_protocol_of_every_size_has_none_to_go_back_to(tiny, pairs):
    with pytest.raises(UsageError, match="`size`: protocol mma evaluates at the native size of every image; leave it"):
        bench(Variant(tiny(), "ort-cpu", size=(120, 160)), pairs, "procedural:2", PROTOCOLS["mma"])


def test_files_meet_the_engines_that_run_them(tiny):
    a, b = tiny("a.onnx"), tiny("b.onnx")
    checkpoint = replace(a, path=a.path.with_suffix(".safetensors"))
    assert pair_up([checkpoint, a, b], ["torch", "ort-cpu"]) == [(checkpoint, "torch"), (a, "ort-cpu"), (b, "ort-cpu")]
    with pytest.raises(UsageError, match=r"backend torch runs \.safetensors, .+ files; none was given"):
        pair_up([a], ["ort-cpu", "torch"])
    with pytest.raises(UsageError, match=r"a\.onnx: none of the backends torch runs it; add one of: ort-cpu, ort-cuda"):
        pair_up([checkpoint, a], ["torch"])
    with pytest.raises(UsageError, match="unknown backend 'ort'"):
        pair_up([a], ["ort"])


def test_a_suite_times_every_variant_in_turns(tiny):
    seen = []
    runs = suite(
        [tiny("a.onnx"), tiny("b.onnx")],
        ["ort-cpu"],
        "procedural:1",
        "kp2d",
        repeats=2,
        progress=lambda *report: seen.append(report),
    )
    for one in runs:
        phases = [getattr(one.latency_ms, name) for name in ("preprocess", "network", "postprocess", "end_to_end")]
        assert all(phase.n == 2 and 0 < phase.p50 <= phase.p99 for phase in phases)
        assert 0 < one.load_ms < one.cold_start_ms
        assert one.peak_rss_bytes > 10e6
    assert runs[0].pairs == runs[1].pairs
    assert all(done <= total for done, total, _ in seen)


def test_points_come_from_a_baseline_only(tiny):
    with pytest.raises(UsageError, match="unknown baseline 'wren'; known: sift, sift-1000, rootsift, orb, akaze"):
        Variant(tiny(), "ort-cpu", "wren").open()


def test_a_latency_worker_that_dies_says_why(tmp_path):
    gone = Variant(Artifact(tmp_path / "none.onnx", Card("wren", {}, (1, None, None))), "ort-cpu")
    words = r"the latency worker stopped: .*none\.onnx: no such file; expected an ONNX model"
    with pytest.raises(LfError, match=words):
        latency.measure([gone], np.zeros((48, 64), np.uint8), PROTOCOLS["kp2d"], threads=1, repeats=1)
