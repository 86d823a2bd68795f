"""`lf report`: one self-contained page, with sentences that agree with the intervals."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.protocols.summary import overview
from lf.benchmarks.report import ci, web
from lf.benchmarks.report.web import charts, groups, svg, verdict
from lf.benchmarks.run import gate, results
from lf.benchmarks.run.record import Run
from lf.cli import app
from lf.core import UsageError

PAIRS = 40
ROOT = Path(__file__).parents[1]


def run(scheme="fp32", backend="ort-cpu", *, change=0.0, spread=0.0, pairs=PAIRS, time=1.0, size=4_000_000, **changes):
    """A run with a repeatability that differs from the float run by `change`, scattered by `spread`."""
    scatter = np.linspace(-spread, spread, pairs)
    records = [
        {
            "sequence": f"{'iv'[n % 2]}_scene{n // 4}",
            "pair": f"1_{n % 4 + 2}",
            "repeatability": 0.6 + change + float(scatter[n]),
            "localization_error": 1.0,
            "correctness@1": float(n % 3 == 0),
            "correctness@3": float(n % 3 > 0),
            "correctness@5": 1.0,
            "matching_score": 0.4,
            "mean_corner_error": float(n % 7),
            "n_matches": 100.0,
        }
        for n in range(pairs)
    ]
    rule = PROTOCOLS["kp2d-fixed"]
    times = {"p50": 10.0 * time, "p90": 11.0 * time, "n": 30}
    document = {
        "artifact": {
            "model": "wren",
            "scheme": scheme,
            "weights": {"origin": "x", "sha256": "a" * 64, "licence": "MIT"},
            "input": [1, 240, 320],
            "file": f"wren.{scheme}.onnx",
            "sha256": hashlib.sha256(scheme.encode()).hexdigest(),
            "bytes": size,
        },
        "backend": backend,
        "provider": backend,
        "protocol": rule.name,
        "protocol_digest": rule.digest,
        "dataset": "procedural:20",
        "dataset_digest": "d" * 64,
        "environment": {"cpu": "a processor", "threads": 1, "cores": 2, "os": "Linux", "versions": {"lf": "0.2"}},
        "latency_ms": {"end_to_end": times},
        "ratio": {"to": "wren.fp32", "end_to_end": {"value": time, "interval": [time * 0.9, time * 1.1]}},
        "pairs": records,
        **overview(records, rule.aggregates),
    }
    return Run.from_dict({**document, **changes}, "a test", "runs[0]")


class Links(HTMLParser):
    """Addresses that a page asks for, and the tags it opens and does not close."""

    VOID = ("meta", "link", "input", "img", "circle", "rect", "polygon", "path", "line", "br")

    def __init__(self):
        super().__init__()
        self.asked, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.asked += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.asked += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("change", "spread", "pairs", "state"),
    [
        (-0.001, 0.0, PAIRS, verdict.WITHIN),
        (+0.050, 0.0, PAIRS, verdict.WITHIN),
        (-0.050, 0.0, PAIRS, verdict.BEYOND),
        (-0.006, 0.015, PAIRS, verdict.LOSES),
        (-0.002, 0.200, PAIRS, verdict.OPEN),
        (-0.001, 0.0, 9, verdict.OPEN),
    ],
)
def test_a_sentence_says_what_the_interval_proves(change, spread, pairs, state):
    reference, other = run(pairs=pairs), run("w8a8", change=change, spread=spread, pairs=pairs)
    [group], _ = groups.grouped([reference, other])
    [sentence] = verdict.sentences(group, {"repeatability": 0.005})
    assert [finding.state for finding in sentence.findings] == [state]
    assert sentence.state == state


def test_the_sentence_names_drop_interval_speed_and_size():
    [group], _ = groups.grouped([run(), run("w8a8", change=-0.05, time=0.25, size=1_300_000)])
    [sentence] = verdict.sentences(group)
    said = " ".join(sentence.parts)
    assert "It loses repeatability +0.050 [+0.050, +0.050], more than the 0.005 that is tolerated." in said
    assert "4.00 times as fast as wren fp32 ort-cpu." in said
    assert "4.00 to 1.30 MB." in said


def test_times_of_a_busy_machine_are_not_compared():
    busy = run("w8a8", time=0.25, void="the machine was busy")
    [group], _ = groups.grouped([run(), busy])
    [sentence] = verdict.sentences(group)
    assert "times as fast" not in " ".join(sentence.parts)


def test_the_float_run_of_the_same_backend_is_the_reference_where_there_is_one():
    torch, ort, small = run(backend="torch"), run(), run("w8a8")
    [group], _ = groups.grouped([torch, ort, small])
    assert [of and of.backend for of in group.references] == [None, None, "ort-cpu"]
    other = run("w8a8", artifact={**small.artifact.to_dict(), "weights": {"sha256": "b" * 64}})
    [group], _ = groups.grouped([torch, other])
    assert group.references == (None, None)


def test_a_run_without_times_takes_those_of_lf_time():
    untimed = replace(run("w8a8"), latency_ms=None, ratio=replace(run().ratio, to="", end_to_end=None))
    timing = replace(run("w8a8", time=0.5), pairs=[], image_size=[480, 640])
    [group], timed = groups.grouped([untimed, timing])
    assert len(timed) == 1
    assert group.runs[0].ratio.end_to_end.value == 0.5


@pytest.mark.parametrize("other", [{"protocol_digest": "another"}, {"backend": "openvino"}, {"threshold": 0.5}])
def test_times_of_another_measurement_are_not_taken(other):
    untimed = replace(run("w8a8"), latency_ms=None, ratio=replace(run().ratio, to="", end_to_end=None))
    timing = replace(run("w8a8", time=0.5, **other), pairs=[], image_size=[480, 640])
    [group], _ = groups.grouped([untimed, timing])
    assert group.runs[0].ratio.end_to_end is None


def test_a_float_run_of_another_threshold_is_no_reference():
    [group], _ = groups.grouped([run(threshold=0.5), run("w8a8")])
    assert group.references == (None, None)


def test_a_protocol_without_columns_has_no_headline():
    assert verdict.headline(groups.Group((run(summary={"other": 0.5}),), (None,))) == ""


def test_runs_of_other_data_are_another_group():
    found, _ = groups.grouped([run(), run(dataset_digest="e" * 64)])
    assert len(found) == 2


def test_the_front_joins_what_nothing_beats():
    runs = [run(time=1.0), run("w8a8", time=0.5, change=-0.1), run("w4a8", time=0.7, change=-0.2)]
    assert [one.artifact.scheme for one in charts.front(runs, "repeatability")] == ["w8a8", "fp32"]


def test_scales_put_values_where_they_belong():
    scale = svg.Scale(1, 100, 0, 200, log=True)
    assert [scale(value) for value in (1, 10, 100, 1000)] == pytest.approx([0, 100, 200, 200])
    assert svg.Scale(0, 1, 0, 100).ticks() == pytest.approx([0, 0.5, 1.0])
    low, high = svg.around([2.0, 2.0])
    assert low < 2 < high


def test_the_page_is_whole_in_itself(tmp_path):
    evil = run("w8a8", change=-0.01, dataset="<script>alert(1)</script>")
    out = web.write([run(dataset="<script>alert(1)</script>"), evil], tmp_path / "r.html")
    page = out.read_text()
    links = Links()
    links.feed(page)
    assert not links.open
    assert [link for link in links.asked if not link.startswith(("#", "data:"))] == []
    assert "<script>alert(1)" not in page
    assert len(page) < web.MOST_BYTES


def test_the_command_reads_files_and_folders_and_writes_one_page(tmp_path):
    results.save(tmp_path / "a" / "results.json", [run(), run("w8a8", change=-0.001)])
    timed = replace(run("w8a8", time=0.3), pairs=[], image_size=[480, 640], summary={}, counts={}, intervals={})
    results.save(tmp_path / "t.json", [timed])
    out = tmp_path / "r.html"
    got = CliRunner().invoke(app, ["report", str(tmp_path / "a"), str(tmp_path / "t.json"), "-o", str(out)])
    assert got.exit_code == 0, got.output
    page = out.read_text()
    assert "Within the tolerated drops" in page
    assert '<h2 id="times">' in page


def test_gates_are_shown_with_their_answers(tmp_path):
    results.save(tmp_path / "ref.json", [run("w8a8")])
    results.save(tmp_path / "new.json", [run("w8a8", change=-0.2)])
    (tmp_path / "gates.toml").write_text('[[gate]]\nmetric = "repeatability"\nmax_drop = 0.01\n')
    words = ["report", str(tmp_path / "new.json"), "--reference", str(tmp_path / "ref.json")]
    words += ["--gates", str(tmp_path / "gates.toml"), "-o", str(tmp_path / "r.html")]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert re.search(r'class="badge fail">FAIL', (tmp_path / "r.html").read_text())


def test_pictures_are_shown_until_the_page_is_full(tmp_path, monkeypatch):
    file = results.save(tmp_path / "results.json", [run()])
    with pytest.raises(UsageError, match="no images beside the results; make them first"):
        web.write([run()], tmp_path / "r.html", drawn=[file])
    folder = tmp_path / "pictures" / "1-wren"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    for name in ("worst-1", "best-1"):
        cv2.imwrite(str(folder / f"{name}-matches.png"), noise)
    page = web.write([run()], tmp_path / "r.html", drawn=[file]).read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    monkeypatch.setattr("lf.benchmarks.report.web.pair_pictures.BUDGET", 1)
    page = web.write([run()], tmp_path / "r.html", drawn=[file]).read_text()
    assert "2 more pictures would make the page too large" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "nowhere.json"], "no such file"),
        (["report", "."], "holds no results.json"),
        (["report", "results.json", "--gates", "g.toml"], "belong together"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    got = CliRunner().invoke(app, words)
    assert isinstance(got.exception, Exception)
    assert said in str(got.exception)
    assert json.dumps(str(got.exception)).count("\\n") == 0


def judged(tmp_path, change=-0.2, pairs=PAIRS):
    """Verdicts of one gate on a run that changed, and the file of the gate."""
    path = tmp_path / "gates.toml"
    path.write_text('[[gate]]\nmetric = "repeatability"\nmax_drop = 0.01\n')
    reference, new = run("w8a8", pairs=pairs), run("w8a8", change=change, pairs=pairs)
    return gate.compare([reference], [new], gate.load_gates(path)), path


@pytest.mark.parametrize(
    ("change", "pairs", "said"),
    [(-0.2, PAIRS, "::error file="), (-0.2, 5, "::warning file="), (0.0, PAIRS, None)],
)
def test_gates_that_fail_become_annotations(tmp_path, change, pairs, said):
    found, _ = judged(tmp_path, change, pairs)
    lines = ci.workflow_commands(found, Path("ci/gates,a.toml"))
    assert [line.startswith(said) for line in lines] == ([True] if said else [])
    if said:
        assert "file=ci/gates%2Ca.toml,title=repeatability of wren w8a8 ort-cpu kp2d-fixed::0.6000 -> " in lines[0]


def test_gates_become_a_junit_suite(tmp_path):
    found, _ = judged(tmp_path)
    suite = ElementTree.parse(ci.junit(found, tmp_path / "gates.xml")).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    [case] = suite
    assert case.get("classname") == "wren w8a8 ort-cpu kp2d-fixed"
    assert case.find("failure").get("type") == "FAIL"


def test_lf_compare_annotates_on_github_only(tmp_path, monkeypatch):
    results.save(tmp_path / "ref.json", [run("w8a8")])
    results.save(tmp_path / "new.json", [run("w8a8", change=-0.2)])
    _, path = judged(tmp_path)
    words = ["compare", str(tmp_path / "ref.json"), str(tmp_path / "new.json"), "--gates", str(path), "--json"]
    words += ["--report", str(tmp_path / "r.html"), "--junit", str(tmp_path / "j.xml")]
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert "::error" not in CliRunner().invoke(app, words).stderr
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    got = CliRunner().invoke(app, words)
    assert "::error file=" in got.stderr
    assert json.loads(got.stdout)["verdicts"]
    assert (tmp_path / "r.html").exists()
    assert (tmp_path / "j.xml").exists()


def test_the_steps_of_the_action_run(tmp_path):
    """The scripts of action.yml, but for the installation, as GitHub would run them."""
    steps = yaml.safe_load((ROOT / "action.yml").read_text())
    inputs = {name: str(row.get("default", "")) for name, row in steps["inputs"].items()}
    inputs |= {
        "models": "wren",
        "data": "procedural:12",
        "backend": "torch",
        "gates": "gates.toml",
        "reference": "r.json",
    }
    (tmp_path / "gates.toml").write_text('[[gate]]\nmetric = "repeatability"\nmax_drop = 0.01\n')
    scripts = [step for step in steps["runs"]["steps"] if "run" in step and step["name"] != "Install lf"]
    assert [step["name"] for step in scripts] == ["Benchmark", "Compare and report"]
    for number, step in enumerate(scripts):
        env = {name: re.sub(r"\$\{\{ inputs\.(\S+) \}\}", lambda m: inputs[m[1]], v) for name, v in step["env"].items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        made = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]],
            env={**os.environ, **env, "PATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        if number == 0:
            shutil.copy(tmp_path / "lf-results" / "results.json", tmp_path / "r.json")
    assert {"report.html", "gates.xml", "results.json"} <= {path.name for path in (tmp_path / "lf-results").iterdir()}
