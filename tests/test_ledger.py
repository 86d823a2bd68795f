"""Ledgers of long work: resume with the same identity, otherwise an error that names the difference, or a restart."""

from __future__ import annotations

import json

import pytest

from lf.core import BadInput, LfError, UsageError, ledger

REMEDY = "choose another folder"
IDENTITY = {"model": "wren", "size": (240, 320), "settings": {"top_k": 100, "nms": 4}, "code of lf": "12ab"}


def resume(path, identity=IDENTITY, mismatch="refuse", **options):
    return ledger.resume(path, identity, mismatch, remedy=REMEDY, **options)


@pytest.fixture
def path(tmp_path):
    resume(tmp_path / "deep" / "work.json").write(rows={"a": 1})
    return tmp_path / "deep" / "work.json"


def test_work_goes_on(path):
    again = resume(path)
    assert (again.begun, again.content) == (True, {"rows": {"a": 1}})
    again.write(rows={"a": 2})
    assert resume(path).content == {"rows": {"a": 2}}
    assert json.loads(path.read_text())["identity"] == {**IDENTITY, "size": [240, 320]}
    assert [*path.parent.iterdir()] == [path], "no temporary file stays"


def test_nothing_is_written_before_the_work(tmp_path):
    fresh = resume(tmp_path / "work.json")
    assert (fresh.begun, fresh.content) == (False, {})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "swift"}, "model: was wren, now swift"),
        ({"size": (120, 160)}, "size: was [240, 320], now [120, 160]"),
        ({"settings": {"top_k": 5}}, "settings.top_k: was 100, now 5; settings.nms: was 4, now none"),
        ({"settings": None}, 'settings: was {"top_k": 100, "nms": 4}, now none'),
        ({"more": "x" * 64}, f"more: was none, now {'x' * 37}..."),
        (
            {"model": "r2d2", "size": None, "code of lf": "34cd", "more": True},
            "model: was wren, now r2d2; size: was [240, 320], now none; code of lf: was 12ab, now 34cd; and 1 more",
        ),
    ],
)
def test_work_that_was_made_otherwise_is_refused_or_begun_anew(path, changed, said):
    before, now = path.read_bytes(), {**IDENTITY, **changed}
    with pytest.raises(UsageError) as error:
        resume(path, now)
    assert str(error.value) == f"{path}: was made with other settings ({said}); {REMEDY}"
    with pytest.raises(UsageError, match=r"^the folder: was made with other settings"):
        resume(path, now, work="the folder")
    anew = resume(path, now, "restart")
    assert (anew.begun, anew.content) == (False, {})
    assert path.read_bytes() == before


def test_what_may_differ(path):
    now = {**IDENTITY, "code of lf": "34cd"}
    assert resume(path, now, ignore=["code of lf"]).begun
    with pytest.raises(UsageError, match="model"):
        resume(path, {**now, "model": "swift"}, ignore=["code of lf"])


def test_of_long_lists_the_places_that_differ_are_named():
    was, now = ({"photos": [f"photo {index}.png" for index in range(count)]} for count in (5, 6))
    assert [str(found) for found in ledger.differences(was, now)] == ["photos.5: was none, now photo 5.png"]
    assert not ledger.differences(was, was)
    assert [found.key for found in ledger.differences({"a": []}, {"a": {}})] == ["a"]


@pytest.mark.parametrize("text", ["", "[]", "hello", '{"identity": {', '{"schema": 2, "identity": {}}'])
def test_damaged_files_are_refused_with_a_remedy_or_begun_anew(path, text):
    path.write_text(text)
    with pytest.raises(BadInput, match=f"expected what an earlier run of this command wrote; {REMEDY}$"):
        resume(path)
    assert not resume(path, mismatch="restart").begun


def test_files_of_earlier_versions_go_on(tmp_path):
    """Earlier files held only the identity, or the identity under another name."""
    path = tmp_path / "work.json"
    path.write_text(json.dumps(IDENTITY))
    assert (resume(path).begun, resume(path).content) == (True, {})
    path.write_text(json.dumps({"of": IDENTITY, "rows": [1]}))
    assert (resume(path, before="of").begun, resume(path, before="of").content) == (True, {"rows": [1]})
    path.write_text(json.dumps({"of": {**IDENTITY, "model": "swift"}}))
    with pytest.raises(UsageError, match="model: was swift, now wren"):
        resume(path, before="of")


def test_a_key_is_one_for_each_identity():
    assert ledger.key(IDENTITY) == ledger.key(dict(reversed(IDENTITY.items())))
    assert len({ledger.key(IDENTITY), ledger.key({**IDENTITY, "model": "swift"})}) == 2


def test_a_value_that_is_no_number_is_not_kept(path):
    before = path.read_bytes()
    with pytest.raises((LfError, ValueError)):
        resume(path).write(rows=float("nan"))
    assert path.read_bytes() == before
