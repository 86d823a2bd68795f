"""Latency: what its statistics say of known times, a worker that is none, RAPL from a folder, and one real run."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.report import latency_table, tables
from lf.benchmarks.run import gate, results
from lf.benchmarks.run.gate import Gate
from lf.benchmarks.run.names import references
from lf.benchmarks.run.record import Run
from lf.benchmarks.run.suite import latencies
from lf.benchmarks.timing import energy, latency
from lf.benchmarks.timing import latency_stats as stats
from lf.benchmarks.timing.record import Drift, Ratio, Timing, WarmUp
from lf.core import BadInput, Card, LfError, UsageError
from lf.data import open_dataset
from lf.extraction import agreement
from lf.extraction.variant import Variant
from lf.formats import model_file
from lf.models import MODELS
from lf.models.resolve import resolve
from lf.runtimes import open_session, ort
from scripts import (
    compare_batches,
    compare_evaluation,
    compare_exports,
    compare_extract,
    compare_peak,
    compare_speed,
    turns,
)

PHASES = ("preprocess", "network", "postprocess", "end_to_end", "cpu")
KP2D = PROTOCOLS["kp2d"]


def times(whole, cpu=None):
    return {phase: list(whole) for phase in PHASES[:-1]} | {"cpu": list(whole if cpu is None else cpu)}


@pytest.fixture
def lf(lf):
    """Run `lf bench` in this process: exit code, stdout, stderr."""
    return lambda *words, command="bench": lf(command, *words)


# --- statistics


def test_percentiles_of_a_ramp():
    assert stats.percentiles([*range(101)]) == {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "n": 101}


@pytest.mark.parametrize(
    ("values", "change", "steady"),
    [
        ([10.0] * 30, 0, True),
        ([10.0] * 10 + [99.0] * 10 + [10.4] * 10, 0.04, True),  # the middle says nothing
        ([10.0] * 10 + [10.5] * 10 + [11.0] * 10, 0.1, False),
        ([20.0] * 10 + [15.0] * 10 + [10.0] * 10, -0.5, False),
        ([10.0] * 9 + [500.0] + [10.0] * 20, 0, True),  # one turn is no drift
    ],
)
def test_a_drift_is_found_from_the_first_third_to_the_last(values, change, steady):
    found = stats.drift(values)
    assert found == {"first_third_ms": values[0], "last_third_ms": values[-1], "change": pytest.approx(change)}
    assert stats.steady(values) is steady
    assert stats.summarise(times(values), 1)["stationary"] is steady


def test_five_turns_are_too_few_to_tell_a_drift():
    assert stats.drift([1.0, 2, 3, 4, 5]) is None
    assert stats.steady([1.0, 2, 3, 4, 5]) is None
    assert stats.steady([1.0, 1, 1, 1, 1, 1]) is True


@pytest.mark.parametrize(
    ("share", "threads", "on_cpu", "says"),
    [
        (1.0, 1, True, None),
        (0.96, 1, True, None),
        (0.71, 1, True, "CPU time is 71% of wall time: the machine was busy"),
        (0.71, 1, False, None),  # it waited for its device
        (0.71, 2, True, "CPU time is 71% of wall time: the machine was busy"),  # not even one of them computed
        (1.2, 2, True, None),  # they wait for each other
        (1.95, 2, True, None),
        (1.95, 1, True, "CPU time is 195% of wall time: more than 1 thread(s) computed"),
        (1.95, 1, False, "CPU time is 195% of wall time: more than 1 thread(s) computed"),
    ],
)
def test_a_run_is_void_where_cpu_and_wall_time_disagree(share, threads, on_cpu, says):
    assert stats.void(share, threads, on_cpu) == says
    found = stats.summarise(times([100.0] * 6, [100 * share] * 6), threads, on_cpu)
    assert (found["void"], found["cpu_share"]) == (says, share)
    assert found["cpu_ms"]["p50"] == 100 * share
    assert "cpu" not in found["latency_ms"]
    assert found["samples_ms"]["cpu"] == [100 * share] * 6


@pytest.mark.parametrize("provider", ["CPUExecutionProvider", "cpu", "CPU f32", "XNNPACK", "CPU"])
def test_engines_that_compute_on_the_processor(provider):
    assert latency._on_cpu(provider)
    assert not latency._on_cpu("CUDAExecutionProvider")
    assert not latency._on_cpu("edgetpu")


def test_ratios_are_of_the_same_turn():
    """The machine gets ten times slower and noisy, for both alike: the ratio keeps its value, and its interval is sure.

    The turns' noise is 2 % of each; 1.2533 is the standard error of a median over that of a mean.
    """
    rng = np.random.default_rng(0)
    machine = np.linspace(10, 100, 400) * rng.uniform(1, 3, 400)
    reference = (machine * rng.normal(1, 0.02, 400)).tolist()
    values = (0.25 * machine * rng.normal(1, 0.02, 400)).tolist()
    found = stats.ratio(values, reference)
    low, high = found.interval
    assert low < 0.25 < high
    assert found.value == pytest.approx(0.25, rel=0.01)
    assert high - low == pytest.approx(2 * 1.96 * 1.2533 * 0.25 * 0.02 * 2**0.5 / 400**0.5, rel=0.4)
    assert stats.ratio(reference, values).value == pytest.approx(1 / found.value, rel=0.001)


def test_a_ratio_to_what_the_clock_cannot_measure_is_none():
    assert stats.ratio([1.0, 2.0], [0.0, 1.0]) is None
    assert stats.ratio([], []) is None
    assert stats.ratio([3.0, 6.0] * 5, [1.0, 2.0] * 5) == Ratio(value=3, interval=[3, 3])
    assert stats.ratio([3.0, 6.0], [1.0, 2.0]) == Ratio(value=3), "two turns have no interval"


@pytest.mark.parametrize(
    ("ratio", "turns", "said", "speed"),
    [
        ({"value": 0.66, "interval": [0.65, 0.68]}, 30, "0.66 [0.65, 0.68]", "1.52x [1.47, 1.54]"),
        ({"value": 2.0, "interval": [2.0, 2.5]}, 30, "2.00 [2.00, 2.50]", "0.50x [0.40, 0.50]"),
        ({"value": 0.5, "interval": None}, 2, "0.50 interval: n/a (2 turns)", "2.00x interval: n/a (2 turns)"),
        ({"value": 0.0, "interval": None}, 2, "0.00 interval: n/a (2 turns)", "-"),
        (None, 30, "-", "-"),
    ],
)
def test_a_ratio_is_written_in_one_way(ratio, turns, said, speed):
    fields = {"ratio": {"to": "a", "end_to_end": ratio}, "latency_ms": {"end_to_end": {"p50": 1.0, "n": turns}}}
    timing = Timing.from_dict(fields, "test")
    assert stats.said(timing, "end_to_end") == stats.written(timing.ratio.end_to_end, turns) == said
    assert stats.speed(timing) == speed
    assert stats.said(Timing(), "end_to_end") == stats.speed(Timing()) == "-"


# --- energy


def rapl(root, zone, name, count, most=1000):
    folder = root / zone
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in {"name": name, "energy_uj": count, "max_energy_range_uj": most}.items():
        (folder / file).write_text(f"{value}\n")


def test_energy_is_of_packages_and_survives_the_end_of_the_count(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0", 100)
    rapl(tmp_path, "intel-rapl:0:0", "core", 50)
    rapl(tmp_path, "intel-rapl:1", "package-1", 990)
    rapl(tmp_path, "intel-rapl:2", "psys", 7)
    before = energy.read(tmp_path)
    assert before == {"intel-rapl:0": (100, 1000), "intel-rapl:1": (990, 1000)}
    rapl(tmp_path, "intel-rapl:0", "package-0", 350)
    rapl(tmp_path, "intel-rapl:1", "package-1", 5)
    assert energy.joules(before, energy.read(tmp_path)) == pytest.approx((250 + 15) / 1e6)


def test_energy_that_cannot_be_read_is_none(tmp_path):
    assert energy.read(tmp_path / "none") == {}
    rapl(tmp_path, "intel-rapl:0", "package-0", 100)
    rapl(tmp_path, "intel-rapl:1", "package-1", "?")  # half of a machine is no figure
    assert energy.read(tmp_path) == {}
    assert energy.joules({}, {}) is None
    assert energy.joules({"intel-rapl:0": (1, 9)}, {}) is None


# --- the turns, with workers that are none


class Worker:
    """Answers like a worker that takes `wall(turn)` ms, computing all the time but for `idle` of it."""

    def __init__(self, name, asked, wall, idle=0.0, provider="CPUExecutionProvider", joules=None):
        self.name, self.asked, self.wall, self.idle, self.provider = name, asked, wall, idle, provider
        self.joules, self.turn, self.stdin, self.stdout = joules, -1, self, self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def flush(self):
        pass

    def write(self, text):
        if text.strip():
            self.question = text
            self.asked.append((self.name, text))

    def readline(self):
        self.turn += 1
        if not self.turn:
            return json.dumps({"provider": self.provider, "import_ms": 1.0, "load_ms": 2.0, "cold_start_ms": 3.0})
        if self.question == "end":
            return json.dumps({"peak_rss_bytes": 10, "operators": None, "provider_share": None})
        wall = self.wall(self.turn)
        taken = {**dict.fromkeys(PHASES, wall), "cpu": wall * (1 - self.idle)}
        return json.dumps({"ms": taken, "energy_j": self.joules})


@pytest.fixture
def raced(tiny, monkeypatch):
    """(workers by name, ...) -> what `measure` says of them, and who was asked in which order."""

    def race(*made, repeats=6, reference=0, threads=1):
        asked = []
        workers = {name: Worker(name, asked, **how) for name, how in made}
        there = iter(workers.values())
        monkeypatch.setattr(latency, "_worker", lambda job, threads: next(there))
        variants = [Variant(tiny(f"{name}.onnx"), "ort-cpu") for name in workers]
        image = np.zeros((48, 64), np.uint8)
        found = latency.measure(variants, image, KP2D, threads=threads, repeats=repeats, reference=reference)
        return found, [name for name, text in asked if text == "run"]

    return race


def test_turns_alternate_and_warm_up_ends_when_all_are_steady(raced):
    """`b` falls until its turn 12, and 11 with 12 are still 10 % above 20: the six turns from 12 to 17 are steady."""
    (a, b), asked = raced(
        ("a", {"wall": lambda turn: 10.0}), ("b", {"wall": lambda turn: 20.0 + 4 * max(0, 12 - turn)}), repeats=8
    )
    turns = a.warm_up.turns
    assert asked == ["a", "b"] * (turns + 8)
    assert a.warm_up == b.warm_up == WarmUp(turns=17, stationary=True)
    assert (a.stationary, b.stationary) == (True, True)
    assert b.samples_ms["end_to_end"] == [20.0] * 8
    assert b.ratio.to == "a"
    assert b.ratio.end_to_end == b.ratio.cpu == Ratio(value=2, interval=None)
    assert (a.void, a.energy_j, a.peak_rss_bytes) == (None, None, 10)


def test_warm_up_ends_in_any_case_and_says_so(raced):
    (a, b), _ = raced(("a", {"wall": lambda turn: 10.0}), ("b", {"wall": lambda turn: 1.1**turn}), repeats=9)
    assert a.warm_up == WarmUp(turns=latency.LONGEST, stationary=True)
    assert b.warm_up == WarmUp(turns=latency.LONGEST, stationary=False)
    assert (a.stationary, b.stationary) == (True, False)
    assert b.drift.change == pytest.approx(1.1**6 - 1, abs=1e-3)


def test_a_busy_machine_voids_what_runs_on_the_processor(raced):
    found, _ = raced(
        ("a", {"wall": lambda turn: 10.0, "idle": 0.3}),
        ("b", {"wall": lambda turn: 10.0, "idle": 0.3, "provider": "CUDAExecutionProvider"}),
        ("c", {"wall": lambda turn: 5.0, "joules": 0.25}),
        reference=2,
    )
    assert [bool(run.void) for run in found] == [True, False, False]
    assert [run.energy_j for run in found] == [None, None, 0.25]
    assert [run.ratio.end_to_end.value for run in found] == [2, 2, 1]
    assert [run.ratio.cpu.value for run in found] == [1.4, 1.4, 1]
    assert found[0].ratio.to == "c"


def test_names_are_as_short_as_they_can_be(tiny, tmp_path):
    a, b = Variant(tiny("a.onnx"), "ort-cpu"), Variant(tiny("b.w8a8.onnx"), "ort-cpu")
    assert references([a, b]) == ["a", "b.w8a8"]
    assert references([a, Variant(a.artifact, "openvino")]) == ["a@ort-cpu", "a@openvino"]
    assert references([a, a]) == [f"{tmp_path}/a.onnx@ort-cpu"] * 2


# --- real runs


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two baselines, on one photo: runs, and the folder they were written to."""
    import cv2

    from lf.models.resolve import resolve

    folder = tmp_path_factory.mktemp("latency")
    cv2.imwrite(str(folder / "photo.png"), next(agreement.drawn((90, 120), 1)))
    names = [resolve("sift"), resolve("orb")]
    return latencies(names, ["opencv"], "kp2d", photo=folder, repeats=10, reference="orb", out=folder), folder


def test_a_run_without_pairs_has_the_documented_fields(measured):
    runs, folder = measured
    assert runs == results.load(folder / "latency.json")
    for run in runs:
        assert (run.dataset, run.pairs, run.summary) == ("photo.png", [], {})
        assert run.image_size == [240, 320]
        assert {name: len(values) for name, values in run.samples_ms.items()} == dict.fromkeys(PHASES, 10)
        assert all(value == round(value, 4) for values in run.samples_ms.values() for value in values)
        assert run.p50 == stats.percentiles(run.samples_ms["end_to_end"])["p50"]
        assert run.ratio.to == "orb"
        assert (run.operators, run.provider_share) == (None, None)
        assert run.peak_rss_bytes > 10e6
        assert 0 < run.load_ms < run.cold_start_ms
    assert runs[1].ratio.network == Ratio(value=1, interval=[1, 1])


def test_the_table_marks_what_is_void(measured):
    runs = [replace(run, void=None, stationary=True, energy_j=None) for run in measured[0]]
    assert "void" not in latency_table.page(runs)
    text = latency_table.page(
        [
            replace(runs[0], void="CPU time is 50% of wall time: the machine was busy", energy_j=1.25),
            replace(runs[1], stationary=False, drift=Drift(change=0.25)),
        ]
    )
    head, _, first, second = [line for line in text.splitlines() if line.startswith("|")]
    assert len(head) == len(first) == len(second)
    assert "] void |" in first
    assert "void" not in second
    assert "- sift fp32 opencv: void: CPU time is 50% of wall time: the machine was busy" in text
    assert "1.25 J per extraction" in text
    assert "- orb fp32 opencv: not stationary: +25% from the first to the last third" in text
    assert text.endswith("1 of 2 runs void: stop what else runs here and repeat the command")


def test_the_export_is_what_github_action_benchmark_takes(measured):
    entries = latency_table.github([replace(run, void="the machine was busy") for run in measured[0]])
    assert [entry["name"] for entry in entries] == [
        f"{model} fp32 opencv, 1 thread(s), kp2d: {what}"
        for model in ("sift", "orb")
        for what in ("end_to_end", "network", "cold start", "peak RSS")
    ]
    for entry in entries:
        assert {"name", "unit", "value"} <= entry.keys() <= {"name", "unit", "value", "range", "extra"}
        assert isinstance(entry["value"], float)
        assert all(isinstance(entry[name], str) for name in entry.keys() - {"value"})
        assert "void: the machine was busy" in entry["extra"]
    assert entries[0]["value"] == measured[0][0].p50


def test_results_without_pairs_are_no_accuracy(measured):
    with pytest.raises(BadInput, match=r"a gate applies to no run: .+ sift fp32 opencv kp2d"):
        gate.compare(measured[0][:1], measured[0][:1], [Gate("repeatability", 0.1)])


def test_older_results_are_still_read_and_judged(measured, tmp_path):
    new = ("cpu_ms", "cpu_share", "void", "stationary", "drift", "samples_ms", "ratio", "energy_j", "warm_up")
    of = {
        **measured[0][0].to_dict(),
        "pairs": [{"sequence": f"v_{n}", "pair": "1_2", "repeatability": 0.5} for n in range(10)],
    }
    of["summary"] = {"repeatability": 0.5}
    older = {name: value for name, value in of.items() if name not in (*new, "operators", "provider_share")}
    (tmp_path / "old.json").write_text(json.dumps({"schema": 1, "runs": [older]}))
    (read,) = results.load(tmp_path / "old.json")
    of = Run.from_dict(of, "test")
    (verdict,) = gate.compare([read], [of], [Gate("repeatability", 0.0)])
    assert verdict.passed
    assert "void" not in tables.table([read, replace(of, void=None)])
    assert " void " in tables.table([read, replace(of, void="busy")])
    assert [line.split("|")[-3].strip() for line in tables.table([read, of]).splitlines()[2:]] == ["-", stats.speed(of)]


def test_the_command_times_two_engines_files_in_turns(lf, tiny, tmp_path):
    words = (tiny("a.onnx"), tiny("b.onnx", row="superpoint"))
    paths = [artifact.path for artifact in words]
    chart = tmp_path / "chart.json"
    code, said, noted = lf(*paths, "--repeats", 2, "--json", "--github-benchmark", chart, command="time")
    a, b = json.loads(said)["runs"]
    assert code == 0
    assert a["dataset"] == b["dataset"] == "a drawn picture"
    assert a["dataset_digest"] == b["dataset_digest"]
    assert a["provider_share"] == {"CPUExecutionProvider": 1}
    assert all(run["operators"]["Conv"] == len(run["artifact"]["outputs"]) for run in (a, b))
    assert a["stationary"] is None
    assert len(json.loads(chart.read_text())) == 8
    assert f"wrote {chart}" in noted
    assert ("runs void" in noted) == any(run["void"] for run in (a, b))


def test_the_census_is_of_the_optimised_graph(tiny):
    """A ReLU behind each convolution is in the file, and not in what ONNX Runtime runs."""
    import onnx

    artifact = tiny(row="superpoint")
    model = onnx.load(artifact.path)
    heads = [output.name for output in model.graph.output]
    for name, node in zip(heads, model.graph.node, strict=True):
        node.output[0] = f"{name}.raw"
    model.graph.node.extend([onnx.helper.make_node("Relu", [f"{name}.raw"], [name]) for name in heads])
    artifact.path.write_bytes(model.SerializeToString())
    found = ort.census(artifact, 1, np.zeros((1, 1, 64, 96), np.float32), "CPUExecutionProvider")
    assert "Relu" not in found["operators"]
    assert sum(number for name, number in found["operators"].items() if "Conv" in name) == len(heads) == 2
    assert found["provider_share"] == {"CPUExecutionProvider": 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data", "procedural:3"], "No such option: --data"),
        (["--repeats", "0"], "Invalid value for '--repeats'"),
        (["--reference", "shift"], "unknown reference 'shift'; did you mean 'sift'? known: sift"),
        (["--size", "240x320", "--protocol", "mma"], "--size: protocol mma evaluates at the native size of"),
        (["--size", "240"], "--size 240: expected HEIGHTxWIDTH in pixels, for example --size 240x320"),
    ],
)
def test_options_that_do_not_fit_are_refused(lf, words, says):
    code, said, noted = lf("sift", "--backend", "opencv", *words, command="time")
    assert (code, said) == (2, "")
    assert says in noted


def test_a_photo_that_is_none_is_named(lf, tmp_path):
    code, said, noted = lf("sift", "--backend", "opencv", "--photo", tmp_path / "none.png", command="time")
    assert (code, said) == (5, "")
    assert "none.png" in noted
    assert noted.count("\n") == 1


def test_a_worker_that_dies_says_why(tiny):
    artifact = tiny(size=(48, 64))
    artifact.path.write_bytes(b"no model")
    with pytest.raises(LfError, match=r"the latency worker stopped: .*tiny\.onnx"):
        latency.measure([Variant(artifact, "ort-cpu")], np.zeros((48, 64), np.uint8), KP2D, threads=1, repeats=1)
    with pytest.raises(UsageError, match="unknown protocol"):
        latencies([artifact], ["ort-cpu"], "kp2")


# --- in one process


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ("superpoint-small", 1),
        pytest.param("r2d2", 0, marks=pytest.mark.slow),
        pytest.param("kp2dtiny-s-coral", 2, marks=pytest.mark.slow),
    ],
)
def test_the_published_forward_takes_turns_with_ours(row, place, network, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = network(row)
    checkpoint = exported.path.with_suffix(".safetensors")
    made = compare_exports.published(resolve(str(checkpoint)), tmp_path / "published.onnx", (64, 96))
    image = np.random.default_rng(0).random((1, MODELS[row].channels, 64, 96), np.float32)
    session = onnxruntime.InferenceSession(made.path.read_bytes(), providers=["CPUExecutionProvider"])
    descriptors = session.run(None, {session.get_inputs()[0].name: image})[place]
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)  # everywhere, as published
    table = compare_exports.compare(checkpoint, exported.path, [], 1, repeats=2).splitlines()
    assert [line.split("|")[1].strip() for line in (table[0], *table[2:])] == ["64x96", "as published", f"{row}.onnx"]


@pytest.mark.parametrize("integer", [False, True])
def test_a_chain_that_measures_the_peak_has_the_operations_that_are_counted(integer, tmp_path):
    pytest.importorskip("onnxruntime")
    model = compare_peak.chain(4, (8, 12), integer)
    assert compare_peak.operations(model, (8, 12)) == compare_peak.LAYERS * 2 * (4 * 8 * 12) * (4 * 3 * 3)
    made = model_file.save(tmp_path / "a.onnx", model.SerializeToString(), Card("chain", {}, (4, 8, 12)))
    found = ort.census(made, 1, np.zeros((1, 4, 8, 12), np.float32), "CPUExecutionProvider")["operators"]
    assert found.get("QLinearConv", 0) == (compare_peak.LAYERS if integer else 0)


def test_operations_are_those_of_the_size_that_is_timed(network):
    parent = network("superpoint-small", None)
    onnx = pytest.importorskip("onnx")
    small, large = (compare_peak.operations(onnx.load(parent.path), size) for size in ((64, 96), (128, 192)))
    assert large == 4 * small > 0


def test_shares_of_the_peak_are_of_the_fastest_chain_of_the_same_kind(network, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(compare_peak, "CHAINS", ((4, (8, 8)), (8, (8, 8))))
    found = compare_peak.rates([network("superpoint-small").path], "ort-cpu", 1, repeats=2)
    assert [rate.integer for rate in found] == [False, False, False, True, True]
    ms = np.ones(10)
    rows = [("net", False, 5), ("slow", False, 8), ("fast", False, 10), ("eight", True, 40)]
    made = [compare_peak.Rate(name, integer, count, ms) for name, integer, count in rows]
    lines = compare_peak.table(made, 1).splitlines()[2:]
    assert [line.split("|")[-2].strip() for line in lines] == [
        "0.50 [0.50, 0.50]",
        "0.80 [0.80, 0.80]",
        "the peak",
        "the peak",
    ]


def test_a_whole_evaluation_is_timed_on_data_in_the_layout_of_hpatches(tiny, tmp_path):
    pytest.importorskip("onnxruntime")
    root = compare_evaluation.draw(tmp_path, 2)
    pairs = open_dataset(str(root))
    assert [pair.name for pair in pairs] == [f"1_{k}" for k in range(2, 7)] * 2
    assert [np.allclose(pair.homography, np.eye(3)) for pair in pairs] == [True] * 5 + [False] * 5, "i_, then v_"
    assert pairs[0].first.load().shape == (*compare_evaluation.SIZE, 3)
    made = tiny()
    head, _, line = compare_evaluation.compare([str(made.path)], root, 1, repeats=1).splitlines()
    assert head.split("|")[1].strip() == "1 worker(s)"
    assert [line.split("|")[at].strip() for at in (1, -2)] == ["tiny.onnx", "1.00 interval: n/a (1 turns)"]
    made.path.write_bytes(b"nothing")
    with pytest.raises(LfError, match="tiny"):
        compare_evaluation.evaluate(str(made.path), root, 1)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a", "b", "--threads=2"], (["a", "b"], {"threads": "2"})),
        (["a"], (["a"], {})),
        ([], None),
        (["a", "b", "c"], None),
        (["a", "--thread=2"], None),
        (["a", "--threads"], None),
    ],
)
def test_what_is_typed_behind_a_comparison(monkeypatch, words, found):
    monkeypatch.setattr(turns.sys, "argv", ["compare", *words])
    usage = "compare FILE [FILE] [--threads=1]"
    if found:
        assert turns.typed(usage, 1, 2) == found
    else:
        with pytest.raises(UsageError, match=r"type: python -m scripts\.compare FILE"):
            turns.typed(usage, 1, 2)


USAGE = "type: python -m scripts."
COMPARISONS = [
    ("compare_speed --help", 0, f"{USAGE}compare_speed"),
    ("compare_peak -h", 0, f"{USAGE}compare_peak FILE.onnx ... [--backend=ort-cpu] [--threads=1]"),
    ("compare_speed x", 2, f"{USAGE}compare_speed"),
    ("compare_speed --repeats=1", 2, f"{USAGE}compare_speed"),
    ("compare_exports wren", 2, f"{USAGE}compare_exports CHECKPOINT EXPORTED.onnx"),
    ("compare_exports wren {tiny} --threads=x", 2, "--threads=x: expected a number from 1 on, for example --threads=1"),
    ("compare_exports {tiny} {tiny}", 2, "tiny.onnx: expected a checkpoint of one of these families"),
    ("compare_peak {damaged} --threads=0", 2, "--threads=0: expected a number from 1 on"),
    ("compare_peak {damaged}", 5, "damaged.onnx: not an ONNX model, or a truncated one"),
    ("compare_peak wren.safetensors", 5, "wren.safetensors: no such file"),
    ("compare_peak {tiny} --backend=ort", 2, "unknown backend 'ort'; did you mean one of 'ort-"),
    ("compare_decode {tiny} {tiny}", 2, "expected raw heads and features (lf export --cut features)"),
    ("compare_decode {tiny} nosuch.onnx", 5, "nosuch.onnx: no such file; expected an ONNX model"),
    ("compare_extract {tiny} {empty}", 5, "empty: holds no image; expected files with one of"),
    ("compare_extract {tiny} {empty} --workers=-1", 2, "--workers=-1: expected a number from 1 on"),
    ("compare_batches nosuch.onnx", 5, "nosuch.onnx: no such file; expected an ONNX model"),
    ("compare_batches {tiny} --threads=0", 2, "--threads=0: expected a number from 1 on"),
    ("compare_evaluation {tiny} nosuch.onnx", 5, "nosuch.onnx: no such file"),
    ("compare_evaluation {tiny} --data={empty} --workers=1.5", 2, "--workers=1.5: expected a number"),
]


@pytest.mark.parametrize(("line", "code", "text"), COMPARISONS, ids=[line for line, *_ in COMPARISONS])
def test_a_comparison_says_what_is_wrong_as_the_command_does(line, code, text, tiny, tmp_path, monkeypatch, capfd):
    pytest.importorskip("onnxruntime")
    (tmp_path / "damaged.onnx").write_bytes(tiny().path.read_bytes()[:1000])
    (tmp_path / "empty").mkdir()
    places = {name.partition(".")[0]: tmp_path / name for name in ("tiny.onnx", "damaged.onnx", "empty")}
    name, *words = line.format(**places).split()
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setattr(compare_evaluation.procedural, "draw", lambda *given: pytest.fail("it draws before it looks"))
    try:
        runpy.run_path(str(Path(turns.__file__).with_name(f"{name}.py")), run_name="__main__")
        left = 0
    except SystemExit as error:
        left = error.code
    out, err = capfd.readouterr()
    said, silent = (err, out) if code else (out, err)
    assert (left, silent, said.count("\n")) == (code, "", 1), said
    assert text in said
    assert said.startswith("lf: " if code else USAGE)


def test_batches_are_of_the_same_network_and_give_equal_maps(tiny, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(compare_batches, "SIZE", (64, 96))
    monkeypatch.setattr(compare_batches, "TURNS", 2)
    artifact = tiny()
    with pytest.raises(BadInput, match="cannot run it on"):
        open_session(artifact, "ort-cpu", 1).run(np.zeros((2, 1, 64, 96), np.float32))
    spent, equal = compare_batches.measure(artifact, "ort-cpu", 1)
    assert spent.shape == (2, len(compare_batches.BATCHES), 2)
    assert (spent > 0).all()
    assert equal == [True] * len(compare_batches.BATCHES)
    assert compare_batches.main([str(artifact.path)], {}).count("| yes") == len(compare_batches.BATCHES)


def test_a_ratio_is_that_within_a_turn():
    slow, fast = np.array([2.0, 40, 8] * 4), np.array([1.0, 20, 4] * 4)
    assert turns.times(slow, fast) == "2.00 [2.00, 2.00]"
    assert turns.times(slow[:3], fast[:3]) == "2.00 interval: n/a (3 turns)"
    assert turns.times(np.array([1.0]), np.array([0.0])) == "-"


def test_scripts_divide_within_a_turn_too(monkeypatch):
    """If the machine becomes slow within a turn, the ratio of two medians would be 2.25; the tables show 1.5."""
    slow, fast = [30.0] * 5 + [90.0] * 7, [20.0] * 6 + [60.0] * 6
    assert np.median(slow) / np.median(fast) == 2.25
    line = compare_speed.table([compare_speed.Timing("a", fast, slow)]).splitlines()[2]
    assert line.split("|")[-2].strip() == "1.50 [1.50, 1.50]"
    ways = {name: [compare_extract.Turn(ms, 2 * ms) for ms in of] for name, of in (("bare", slow), ("all", fast))}
    line = compare_extract.table(ways).splitlines()[3]
    assert [cell.strip() for cell in line.split("|")[-3:-1]] == ["1.50 [1.50, 1.50]"] * 2
    taken = iter([compare_evaluation.Taken(1.0, each) for both in zip(slow, fast, strict=True) for each in both])
    monkeypatch.setattr(compare_evaluation, "evaluate", lambda *given: next(taken))
    line = compare_evaluation.compare(["a", "b"], Path(), 1, repeats=12).splitlines()[3]
    assert line.split("|")[-2].strip() == "1.50 [1.50, 1.50]"
