"""Typed records: files of schema 1 load and are written back as they were, damaged ones are named by file and field."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lf.core import BadInput, Card
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
