"""Features, cards and table lookup: what they check, and what they say when it does not hold."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lf import core
from lf.core import (
    Artifact,
    BadInput,
    Card,
    Features,
    GateFailed,
    LfError,
    Unavailable,
    UsageError,
    console,
    hint,
    pick,
)
from lf.core.progress import Bar, Stage, span
from lf.models import MODELS

CARD = Card(
    "wren",
    {"origin": "a test", "sha256": "00ff", "licence": "Apache-2.0"},
    (1, 240, None),
    scheme="w8a8",
    outputs={"detector": (65, 8), "descriptor": (64, 8)},
    made=({"command": "export", "options": {"opset": 18}},),
)
GOOD = {"keypoints": np.zeros((3, 2)), "scores": np.zeros(3), "descriptors": np.zeros((3, 4)), "size": (320, 240)}


@pytest.mark.parametrize(
    ("error", "code"), [(LfError, 1), (UsageError, 2), (GateFailed, 3), (Unavailable, 4), (BadInput, 5)]
)
def test_exit_codes_are_the_documented_ones(error, code):
    assert error("text").exit_code == code
    assert issubclass(error, LfError)


# --- features


def test_features_are_contiguous_float32():
    features = Features(**{**GOOD, "keypoints": np.arange(6).reshape(2, 3).T, "scales": [1, 2, 3]})
    for array in (features.keypoints, features.scores, features.descriptors, features.scales):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
    assert len(features) == 3


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ({"keypoints": np.zeros((3, 3))}, r"do not fit together: keypoints \(3, 3\), .* expected \(N, 2\), \(N,\), "),
        ({"keypoints": np.zeros((2, 2))}, "do not fit together"),
        ({"keypoints": np.zeros(())}, "do not fit together"),
        ({"scores": np.zeros((3, 1))}, r"scores \(3, 1\)"),
        ({"descriptors": np.zeros((4, 3))}, r"descriptors \(4, 3\)"),
        ({"descriptors": np.zeros(3)}, r"need descriptors \(N, D\)"),
        ({"scales": np.zeros(2)}, r"scales \(N,\) or None"),
        (
            {"keypoints": np.full((3, 2), np.nan)},
            "^the array of keypoints holds a non-finite value, expected finite numbers$",
        ),
        ({"scores": np.array([1, np.inf, 0])}, "the array of scores holds a non-finite value"),
        ({"descriptors": np.full((3, 4), -np.inf)}, "the array of descriptors holds a non-finite value"),
    ],
)
def test_features_that_do_not_fit_are_refused(broken, text):
    with pytest.raises(LfError, match=text):
        Features(**{**GOOD, **broken})


@given(st.lists(st.integers(0, 3), max_size=12), st.one_of(st.none(), st.integers(0, 14)))
def test_top_is_a_stable_sort(scores, k):
    n = len(scores)
    features = Features(np.arange(2 * n).reshape(n, 2), scores, np.arange(n)[:, None], (9, 9), np.arange(n))
    best = sorted(range(n), key=lambda i: (-scores[i], i))[:k]
    top = features.top(k)
    assert top.scales.tolist() == top.descriptors[:, 0].tolist() == best
    assert top.scores.tolist() == [scores[i] for i in best]
    assert top.keypoints.tolist() == [[2 * i, 2 * i + 1] for i in best]


@pytest.mark.parametrize("index", [[2, 0], [True, False, True], np.array([], int)])
def test_take_keeps_rows_and_size(index):
    features = Features(np.arange(6).reshape(3, 2), np.arange(3), np.eye(3), (7, 5))
    taken = features.take(np.array(index))
    assert np.array_equal(taken.keypoints, features.keypoints[np.array(index)])
    assert (taken.size, taken.scales) == ((7, 5), None)


# --- tables


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ort-cup", "unknown backend 'ort-cup'; did you mean 'ort-cpu'? known: torch, ort-cpu"),
        ("zzz", "unknown backend 'zzz'; known: torch, ort-cpu"),
        ("", "unknown backend ''; known: torch, ort-cpu"),
    ],
)
def test_pick_says_what_there_is(name, text):
    table = {"torch": 1, "ort-cpu": 2}
    assert pick(table, "torch", "backend") == 1
    with pytest.raises(UsageError) as caught:
        pick(table, name, "backend")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mma", "did you mean one of 'mma@1' ... 'mma@10'? "),  # the family, not the name of the nearest spelling
        ("mm", "did you mean one of 'mma@1' ... 'mma@10'? "),
        ("mma@0.5", "did you mean one of 'mma@1' ... 'mma@10'? "),
        ("MMA@1", "did you mean 'mma@1'? "),
        ("h_auc", "did you mean 'h_auc@1' or 'h_auc@5'? "),
        ("h_auc_dlt@3", "did you mean 'h_auc_dlt@5'? "),
        ("hauc@5", "did you mean 'h_auc@5'? "),
        ("kp2d-64", "did you mean 'kp2d-640'? "),
        ("kp2", "did you mean 'kp2d'? "),  # its variants are left out
        ("kp3d", "did you mean 'kp2d'? "),
        ("repeat", "did you mean 'repeatability'? "),
        ("repeatability@3", "did you mean 'repeatability'? "),
        ("mma@", "did you mean one of 'mma@1' ... 'mma@10'? "),
        ("m", ""),
        ("", ""),
        ("zzz", ""),
    ],
)
def test_near_names(name, text):
    numbered = [f"mma@{i}" for i in range(1, 11)]
    known = ["repeatability", *numbered, "h_auc@1", "h_auc@5", "h_auc_dlt@5", "kp2d", "kp2d-640", "kp2d-640-fixed"]
    assert hint(name, known) == text


# --- cards


@pytest.mark.parametrize("card", [CARD, Card("wren", {}, (3, None, None)), CARD.step(scheme="w8a16")])
def test_a_card_survives_its_text(card):
    text = card.to_json()
    assert Card.from_json(text, "here") == card
    assert "\n" not in text


def test_a_card_of_a_later_lf_of_the_same_schema_is_read():
    text = json.dumps({**CARD.to_dict(), "colour": "blue"})
    assert Card.from_json(text, "here") == CARD


def test_a_step_is_appended_and_nothing_else_changes():
    step = CARD.step(scheme="w8a8-tensor", made={"command": "quantize"})
    assert [made.command for made in step.made] == ["export", "quantize"]
    assert replace(step, scheme=CARD.scheme, made=CARD.made) == CARD


@pytest.mark.parametrize(("given", "size"), [((1, 4, 6), (4, 6)), ((1, None, 6), None), ((1, None, None), None)])
def test_size_is_fixed_only_when_both_sides_are(given, size):
    assert replace(CARD, input=given).size == size


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "one"},
        {"schema": float("inf")},
        {"schema": None},
        {"model": 3},
        {"weights": "mine"},
        {"input": [1, 240]},
        {"input": 3},
        {"input": [1, "high", "wide"]},
        {"outputs": {"detector": 65}},
        {"outputs": [65]},
        {"outputs": {"detector": ["many", 8]}},
        {"made": 5},
        {"made": ["export"]},
        {"scheme": None},
    ],
    ids=str,
)
def test_a_damaged_card_is_named(change):
    with pytest.raises(BadInput, match=r"x\.onnx: its embedded card is damaged \(.+\); make the file again"):
        Card.from_json(json.dumps({**CARD.to_dict(), **change}), "x.onnx")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", '{"schema": 1}', "[" * 100_000])
def test_what_is_no_card_is_named(text):
    with pytest.raises(BadInput, match=r"x\.onnx: its embedded card is damaged"):
        Card.from_json(text, "x.onnx")


@pytest.mark.parametrize(("changes", "schema"), [({}, 1), ({"refine": "quadratic"}, 2), ({"network": {"a": 1}}, 2)])
def test_a_card_that_an_older_lf_would_misread_has_a_newer_schema(changes, schema):
    card = CARD.step(**changes)
    assert (card.schema, json.loads(card.to_json())["schema"]) == (schema, schema)
    assert Card.from_json(card.to_json(), "f") == card
    assert card.step(refine="", network={}).schema == 1


def test_a_newer_schema_asks_for_a_newer_lf():
    text = json.dumps({**CARD.to_dict(), "schema": core.CARD_SCHEMA + 1})
    with pytest.raises(BadInput, match=r"x\.onnx: its card has schema 3, this lf reads up to 2; upgrade lf"):
        Card.from_json(text, "x.onnx")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.sampled_from([*CARD.to_dict()]), json_values)
def test_no_value_in_a_card_raises_anything_else(name, value):
    try:
        card = Card.from_json(json.dumps({**CARD.to_dict(), name: value}), "x.onnx")
    except BadInput:
        return
    assert Card.from_json(card.to_json(), "again") == card
    assert isinstance(card.model in MODELS, bool)  # hashable
    assert card.size is None or all(isinstance(side, int) for side in card.size)


def test_an_artifact_knows_its_bytes(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"abc")
    artifact = Artifact(path, CARD)
    assert artifact.bytes == 3
    assert artifact.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


def test_progress_without_a_terminal_is_a_line_now_and_then(capfd, monkeypatch):
    monkeypatch.delenv("LF_PROGRESS")
    clock = iter([0.0, 5.0, 10.0, 20.0, 41.0])
    monkeypatch.setattr("lf.core.progress.time.monotonic", lambda: next(clock))
    with console.progress() as progress:
        for done, text in ((1, "too early"), (2, "first"), (3, "too soon"), (8, "second")):
            progress(done, 10, text)
    assert capfd.readouterr().err == "2/10 (20 %), 40 s left: first\n8/10 (80 %), 10 s left: second\n"


def test_the_time_left_counts_from_where_a_stage_begins():
    stage = Stage()
    for now, done in ((0.0, 0), (100.0, 1), (200.0, 2)):
        stage.report(now, done, 2, "slow")
    assert not stage.left(200.0)
    stage.report(210.0, 0, 10, "fast")  # another total
    assert stage.left(210.0) is None
    stage.report(212.0, 2, 10, "fast")
    assert stage.left(212.0) == 8.0
    stage.report(220.0, 10, 10, "fast")
    stage.report(300.0, 0, 10, "as many again")
    stage.report(303.0, 1, 10, "as many again")
    assert stage.left(303.0) == 27.0


def test_the_time_left_leaves_out_what_was_done_before_a_resume():
    stage = Stage()
    stage.report(50.0, 9_001, 10_000, "step")
    assert stage.left(50.0) is None
    stage.report(60.0, 9_101, 10_000, "step")
    assert stage.left(60.0) == pytest.approx(89.9)


def test_reports_out_of_order_begin_no_stage():
    stage = Stage()
    begun = [stage.report(float(now), done, 9, "") for now, done in enumerate((0, 1, 3, 2, 5, 4, 6))]
    assert begun == [True, *[False] * 6]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (7100, "118 min"), (11_100, "3 h 5 min")]
)
def test_a_time_is_told_for_people(seconds, text):
    assert span(seconds) == text


def test_work_that_reports_nothing_is_told_of(capfd, monkeypatch):
    monkeypatch.delenv("LF_PROGRESS")
    monkeypatch.setattr("lf.core.progress.FIRST", 0.05)
    monkeypatch.setattr("lf.core.progress.EVERY", 0.1)
    monkeypatch.setattr(console, "task", "lf export")
    with console.progress() as progress:
        told = _until(lambda: capfd.readouterr().err)
        assert re.fullmatch(r"(lf export: working, 0 s so far\n)+", told)
        progress(1, 3, "converting")
        told = _until(lambda: capfd.readouterr().err)
        assert re.fullmatch(r"(lf export: working, 0 s so far\n)*(1/3 \(33 %\): converting\n)+", told)
        progress(3, 3, "converted")
        capfd.readouterr()
        assert _until(lambda: capfd.readouterr().err).startswith("lf export: working, 0 s so far; last: converted\n")
    capfd.readouterr()
    time.sleep(0.15)
    assert capfd.readouterr().err == ""


def _until(read):
    """Call `read` until it returns something."""
    for _ in range(500):
        if text := read():
            return text
        time.sleep(0.01)
    raise AssertionError("nothing was said")


def test_a_bar_starts_afresh_with_each_stage():
    class Rich:
        def __init__(self):
            self.calls = []

        def add_task(self, text, total):
            return 7

        def reset(self, task, **given):
            self.calls.append(("reset", given["completed"], given["total"]))

        def update(self, task, **given):
            self.calls.append(("update", given["completed"], given["total"]))

    rich = Rich()
    bar = Bar(rich, "lf bench")
    for done, total in ((0, 2), (1, 2), (0, 2), (1, 2), (1, 5)):
        bar(done, total, "")
    assert [name for name, *_ in rich.calls] == ["reset", "update", "reset", "update", "reset"]
