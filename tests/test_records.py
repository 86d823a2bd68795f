"""Typed records: files of schema 1 load and are written back as they were, damaged ones are named by file and field."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lf.benchmarks.report import tables
from lf.benchmarks.report.header import header
from lf.benchmarks.run import gate, results
from lf.benchmarks.run.names import told_apart
from lf.benchmarks.run.record import Run
from lf.core import BadInput, Card, UsageError, fingerprint
from lf.core.records import Record

FILES = Path(__file__).parent / "records"  # made by lf as it was before its records had types


def test_a_card_of_schema_1_is_written_back_as_it_was():
    text = (FILES / "card.json").read_text().strip()
    card = Card.from_json(text, "card.json")
    assert card.to_json() == text
    train, export, quantize = card.made
    assert [step.command for step in card.made] == ["train", "export", "quantize"]
    assert (train.parent, export.opset, quantize.integer_convolutions) == (None, 18, 10)
    assert [photo.name for photo in quantize.calibration.files] == ["2.png", "0.png", "1.png"]
    assert (quantize.kept_float, quantize.warnings) == (["detector.1"], [])


def changed(data, path, value):
    """A copy of parsed JSON with another value at a path of keys; `...` removes it."""
    data = json.loads(json.dumps(data))
    *before, last = path
    inner = data
    for key in before:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (["made", 0], "train", r"made\[0\] is 'train', expected an object"),
        (["made", 1, "command"], ..., r"made\[1\]\.command is missing, expected text"),
        (["made", 2, "warnings"], [3], r"made\[2\]\.warnings\[0\] is 3, expected text"),
        (["made", 2, "bits"], {"trunk.0": 4.5}, r"made\[2\]\.bits\.trunk\.0 is 4\.5, expected a whole number"),
        (["made", 2, "opset"], True, r"made\[2\]\.opset is True, expected a whole number"),
        (["made", 2, "calibration"], 5, r"made\[2\]\.calibration is 5, expected an object"),
        (["made", 2, "calibration", "files", 1, "sha256"], ..., r"files\[1\]\.sha256 is missing, expected text"),
    ],
)
def test_a_damaged_step_of_a_card_is_named(path, value, text):
    data = changed(json.loads((FILES / "card.json").read_text()), path, value)
    with pytest.raises(BadInput, match=rf"x\.onnx: its embedded card is damaged \(.*{text}\); make the file again"):
        Card.from_json(json.dumps(data), "x.onnx")


def test_a_results_file_of_schema_1_is_written_back_as_it_was(tmp_path):
    runs = results.load(FILES / "results.json")
    assert results.save(tmp_path / "again.json", runs).read_bytes() == (FILES / "results.json").read_bytes()
    assert [run.label for run in told_apart(runs)] == [
        "wren w8a8 ort-cpu at 120x160",
        "wren fp32 torch at 120x160",
    ]
    assert [gate.label(run) for run in runs] == [
        "wren w8a8 ort-cpu kp2d-fixed at 120x160",
        "wren fp32 torch kp2d-fixed at 120x160",
    ]
    assert header(runs[0]) == (
        "protocol kp2d-fixed v1 (e20c998aef5f), inliers by opencv>=4.12, procedural:3 3 pairs (a74179817d14), "
        "Intel(R) Xeon(R) Processor, 1 thread(s), lf 0.1.0 (installed package)"
    )
    quantized = [line for line in tables.page(runs).splitlines() if line.startswith("| wren  | w8a8 ")]
    assert [cell.strip() for cell in quantized[0].split("|")[1:-1]] == [
        *("wren", "w8a8", "ort-cpu", "0.565", "1.357", "0.250", "0.717", "0.933", "0.533"),
        *("11.2 void", "1.00x interval: n/a (2 turns)", "0.51"),
    ]
    assert runs[1].drop(runs[0], "repeatability").drop == pytest.approx(-0.0019, abs=1e-4)


def test_keys_of_a_later_lf_survive_a_results_file(tmp_path):
    data = json.loads((FILES / "results.json").read_text())
    for path, value in {("colour",): {"of": 1}, ("environment", "room"): "cold", ("pairs", 1, "new@1"): 0.5}.items():
        data = changed(data, ["runs", 1, *path], value)
    (tmp_path / "a.json").write_text(json.dumps(data))
    again = results.save(tmp_path / "b.json", results.load(tmp_path / "a.json"))
    assert json.loads(again.read_text()) == data


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (["backend"], ..., r"runs\[1\]\.backend is missing, expected text"),
        (["summary"], [0.5], r"runs\[1\]\.summary is \[0\.5\], expected an object"),
        (["summary", "mma@3"], "high", r"runs\[1\]\.summary\.mma@3 is 'high', expected a number"),
        (["artifact", "scheme"], ..., r"runs\[1\]\.artifact\.scheme is missing, expected text"),
        (["artifact", "bytes"], 1.5, r"runs\[1\]\.artifact\.bytes is 1\.5, expected a whole number"),
        (["artifact", "made", 0, "command"], 3, r"runs\[1\]\.artifact\.made\[0\]\.command is 3, expected text"),
        (["environment", "threads"], "two", r"runs\[1\]\.environment\.threads is 'two', expected a whole number"),
        (["pairs"], "many", r"runs\[1\]\.pairs is 'many', expected a list, each an object"),
        (["pairs", 2], 3, r"runs\[1\]\.pairs\[2\] is 3, expected an object"),
        (["pairs", 2, "pair"], ..., r"runs\[1\]\.pairs\[2\]\.pair is missing, expected text"),
        (["pairs", 2, "mma@3"], "high", r"runs\[1\]\.pairs\[2\]\.mma@3 is 'high', expected a number"),
        (["latency_ms", "end_to_end", "p50"], None, r"latency_ms\.end_to_end\.p50 is None, expected a number"),
        (["ratio", "network", "interval"], 1, r"runs\[1\]\.ratio\.network\.interval is 1, expected a list"),
    ],
)
def test_a_damaged_results_file_is_named_with_the_field(tmp_path, path, value, text):
    data = changed(json.loads((FILES / "results.json").read_text()), ["runs", 1, *path], value)
    (tmp_path / "r.json").write_text(json.dumps(data))
    with pytest.raises(BadInput, match=rf"r\.json: .*{text}") as caught:
        results.load(tmp_path / "r.json")
    assert "\n" not in str(caught.value)


def test_the_same_runs_in_another_order_are_the_same_results(tmp_path, capsys):
    runs = results.load(FILES / "results.json")
    path = results.save(tmp_path / "r.json", runs)
    results.refuse_others(path, [run.measured for run in reversed(runs)])
    assert "holds the same runs and is replaced" in capsys.readouterr().err
    for other in (runs[:1], [runs[0], runs[0]], [*runs, runs[0]], [runs[0], replace(runs[1], nms=4)]):
        with pytest.raises(UsageError, match=r"r\.json: holds other runs \(wren w8a8 ort-cpu at 120x160; wren fp32"):
            results.refuse_others(path, [run.measured for run in other])


def test_runs_of_other_pairs_have_no_drop():
    first, second = results.load(FILES / "results.json")
    with pytest.raises(BadInput, match=r"^wren fp32 torch at 120x160: its pairs are not those of the reference; evalu"):
        replace(second, pairs=second.pairs[:2]).drop(first, "repeatability")


def test_a_run_is_named_by_what_was_asked_for():
    run = replace(results.load(FILES / "results.json")[0], keypoints="sift", nms=4)
    assert run.label == "wren at sift w8a8 ort-cpu at 120x160 nms 4"
    assert run.named("scheme", "cut", "settings", "backend", "threads") == "w8a8 at 120x160 nms 4 ort-cpu 1t"
    assert isinstance(run, Run)
    assert gate.label(run) == "wren at sift w8a8 ort-cpu kp2d-fixed at 120x160 nms 4"


@dataclass(frozen=True, kw_only=True)
class Inner(Record):
    size: list[int] | None = None


@dataclass(frozen=True, kw_only=True)
class Outer(Record):
    name: str
    share: float = 0.0
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    "data",
    [
        {"name": "a"},
        {"colour": {"of": [1, None]}, "name": "a", "share": 1},
        {"inner": {"size": None, "colour": "blue"}, "share": 0.0, "name": "a", "extra": 1, "order": 2},
    ],
)
def test_a_record_is_written_with_the_keys_that_it_had_in_their_order(data):
    assert json.dumps(Outer.from_dict(data, "a.json").to_dict()) == json.dumps(data)


def test_what_is_changed_is_written_and_what_still_has_its_default_is_not():
    record = Outer.from_dict({"colour": "blue", "name": "a"}, "a.json")
    assert replace(record, share=0.5).to_dict() == {"colour": "blue", "name": "a", "share": 0.5}
    assert Outer(name="b").to_dict() == {"name": "b"}
    assert record == replace(record, order=())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], r"a\.json: it is \[\], expected an object"),
        ({}, r"a\.json: name is missing, expected text"),
        ({"name": "a", "share": True}, r"a\.json: share is True, expected a number"),
        ({"name": "a", "inner": None}, r"a\.json: inner is None, expected an object"),
        ({"name": "a", "inner": {"size": [1, None]}}, r"a\.json: inner\.size\[1\] is None, expected a whole number"),
        ({"name": "a", "inner": {"size": "b" * 99}}, r"a\.json: inner\.size is 'b{56}\.\.\., expected a list"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(data, text):
    with pytest.raises(BadInput, match=text):
        Outer.from_dict(data, "a.json")


def test_a_checkout_names_its_commit(monkeypatch, tmp_path):
    def git(*words):
        return subprocess.run(["git", "-C", str(tmp_path), *words], capture_output=True, text=True, check=True).stdout

    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert results.commit() is None
    git("init", "-q")
    git("-c", "user.name=a", "-c", "user.email=b@c", "commit", "-q", "--allow-empty", "-m", "first")
    name = git("rev-parse", "--short=12", "HEAD").strip()
    assert results.commit() == name
    (tmp_path / "changed").touch()
    assert results.commit() == f"{name}+"


def test_the_folder_of_the_checkout_is_the_one_that_holds_the_package():
    assert (fingerprint.FOLDER / "lf" / "__init__.py").is_file()
    assert results.FOLDER == fingerprint.FOLDER
