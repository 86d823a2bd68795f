"""`auto`: which backend it chooses, what it says, what it keeps, and what it leaves out."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lf as api
from lf.core import BadInput, UsageError
from lf.core import cache as folders
from lf.extraction import agreement, auto, store
from lf.models.resolve import resolve
from lf.runtimes import BACKENDS, opencv_dnn, openvino

PICTURE = next(agreement.drawn((96, 128), 1))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path, measured_backend):
    monkeypatch.setenv("LF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def engines(monkeypatch):
    """(backend -> seconds of a run, changed maps) -> only these are installed, and take so long."""

    class Slowed:
        def __init__(self, session, seconds, change):
            self.info, self._session, self._seconds, self._change = session.info, session, seconds, change

        def run(self, image):
            time.sleep(self._seconds)
            return {name: self._change(value) for name, value in self._session.run(image).items()}

    def install(seconds, change=None):
        from lf.extraction import extractor

        opened = extractor.open_session
        monkeypatch.setattr(auto, "SECONDS", 0.2)
        for name, row in BACKENDS.items():
            package = row.package if name in seconds else "engine_of_the_moon"
            monkeypatch.setitem(BACKENDS, name, replace(row, package=package))

        def open_session(artifact, backend, threads):
            own = opened(artifact, "ort-cpu", threads)
            return Slowed(own, seconds[backend], (change or {}).get(backend, lambda value: value))

        monkeypatch.setattr(extractor, "open_session", open_session)

    return install


def chosen(artifact, picture=PICTURE, threads=1):
    return auto.choose(artifact, threads, lambda: picture)


def test_the_fastest_of_equal_output_is_chosen_and_kept(engines, tiny):
    engines({"ort-cpu": 0.02, "openvino": 0.01, "opencv-dnn": 0.08})
    first = chosen(tiny())
    assert (first.backend, first.fresh, first.size, first.kept) == ("openvino", True, (96, 128), "")
    assert 0.3 < first.ratios["openvino"] < 0.8
    assert first.left_out["opencv-dnn"].endswith("times the time of ort-cpu")
    assert str(first).startswith("openvino runs tiny.onnx: 0.")
    assert str(first).endswith(" times the time of ort-cpu, equal output (measured now, 96x128, 1 thread)")
    engines({"ort-cpu": 0.0, "openvino": 0.3, "opencv-dnn": 0.3})  # which the record does not ask
    again = chosen(tiny())
    assert (again.backend, again.fresh) == ("openvino", False)
    assert f"(measured on {again.measured}, 96x128, 1 thread)" in str(again)
    assert [record.backend for record in auto.records()] == ["openvino"]


def test_the_first_stays_where_none_is_clearly_faster(engines, tiny):
    engines({"ort-cpu": 0.01, "openvino": 0.015})
    found = chosen(tiny())
    assert found.backend == "ort-cpu"
    assert "ort-cpu runs tiny.onnx: none is clearly faster, openvino takes 1." in str(found)


@pytest.mark.parametrize(
    ("scheme", "change", "why"),
    [
        ("fp32", lambda value: value * np.float32(1.01), "differs by 0.01 of its largest value, more than 0.0001"),
        ("w8a8", lambda value: value * np.float32(1.5), "of its variance, more than 0.01"),
        ("fp32", lambda value: value * np.nan, "non-finite"),
        ("fp32", lambda value: value[..., 1:], "shape|is \\("),
    ],
)
def test_an_engine_that_gives_other_maps_is_left_out(engines, tiny, scheme, change, why):
    engines({"ort-cpu": 0.01, "openvino": 0.0}, {"openvino": change})
    artifact = tiny()
    found = chosen(replace(artifact, card=replace(artifact.card, scheme=scheme)))
    assert found.backend == "ort-cpu"
    assert re.search(why, found.left_out["openvino"])
    assert "no other could be compared (openvino: see lf doctor)" in str(found)


def test_an_engine_that_cannot_be_opened_is_left_out(tiny, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such\nlibrary")

    monkeypatch.setattr(openvino, "open_session", fail)
    monkeypatch.setattr(opencv_dnn, "open_session", fail)
    if not BACKENDS["openvino"].installed:
        pytest.skip("needs openvino")
    found = chosen(tiny())
    assert (found.backend, found.left_out["openvino"]) == ("ort-cpu", "no such library")


def test_the_first_is_never_replaced_where_it_fails(tiny):
    artifact = tiny()
    artifact.path.write_bytes(artifact.path.read_bytes().replace(b"Conv", b"Cnov"))
    with pytest.raises(BadInput, match="ONNX Runtime cannot load it"):
        chosen(artifact)


@pytest.mark.parametrize("change", ["threads", "pixels", "version", "file"])
def test_a_record_is_for_one_machine_file_size_and_version(engines, tiny, change, monkeypatch):
    engines({"ort-cpu": 0.001, "openvino": 0.0})
    chosen(tiny())
    artifact, picture, threads = tiny(), PICTURE, 1
    if change == "threads":
        threads = 2
    elif change == "pixels":
        picture = np.tile(PICTURE, (2, 2, 1))
    elif change == "file":
        artifact = tiny(row="superpoint")
    else:
        monkeypatch.setattr(auto, "cpu", lambda: ("another processor", ["amx_int8"]))
    assert chosen(artifact, picture, threads).fresh
    assert len(auto.records()) == 2


def test_a_damaged_record_is_measured_again(engines, tiny):
    engines({"ort-cpu": 0.001, "openvino": 0.0})
    chosen(tiny())
    (path,) = (folders.folder() / auto.FOLDER).iterdir()
    whole = json.loads(path.read_text())
    for text in ("{", json.dumps({**whole, "backend": "engine of the moon"}), json.dumps({**whole, "ratios": 3})):
        path.write_text(text)
        assert chosen(tiny()).fresh


def test_a_cache_that_cannot_be_written_is_said(engines, tiny, tmp_path):
    (tmp_path / "cache").write_text("a file")
    engines({"ort-cpu": 0.001, "openvino": 0.0})
    found = chosen(tiny())
    assert found.fresh
    assert "; not kept: " in str(found)


def test_candidates_are_installed_and_not_only_on_request(tiny):
    names = auto.candidates(tiny())
    assert names[0] == store.backend_for(tiny())
    assert {"openvino-bf16", "ort-tensorrt"}.isdisjoint(names)
    assert auto.candidates(resolve("wren")) == ["torch"]
    assert auto.candidates(resolve("orb")) == ["opencv"]


def test_one_candidate_needs_no_measurement():
    found = auto.choose(resolve("orb"), 1, lambda: pytest.fail("no image is needed"))
    assert str(found) == "opencv runs orb.card: no other backend for such files is installed"


@pytest.mark.parametrize("command", ["extract", "match", "live"])
def test_commands_say_which_and_why(lf, engines, tiny, drawn_photos, tmp_path, command):
    engines({"ort-cpu": 0.01, "openvino": 0.0})
    photo = next(iter(sorted(drawn_photos.iterdir())))
    words = {
        "extract": ("extract", tiny().path, drawn_photos, "--out", tmp_path / "out"),
        "match": ("match", photo, photo, "--model", tiny().path, "-o", tmp_path / "m.png"),
        "live": ("live", drawn_photos, "--model", tiny().path, "--out", tmp_path / "live"),
    }[command]
    code, _, err = lf(*words)
    assert code == 0, err
    assert "lf: openvino runs tiny.onnx: 0." in err
    assert lf(*words[:-2], *words[-2:], "--backend", "ort-cpu")[2].count("runs tiny.onnx") == 0 or command == "extract"


def test_a_checkpoint_says_how_to_make_a_faster_file(lf, drawn_photos, tmp_path):
    photo = next(iter(sorted(drawn_photos.iterdir())))
    checkpoint = tmp_path / "mine.safetensors"
    checkpoint.write_bytes(resolve("wren").path.read_bytes())
    for model in ("wren", checkpoint):
        words = ("extract", model, photo, "--out", tmp_path / "out" / Path(model).name)
        note = f"lf: torch runs {model}; an ONNX file is usually faster: lf export {model}\n"
        assert lf(*words)[::2] == (0, note)
        assert lf(*words, "--backend", "torch")[::2] == (0, "")
    assert lf("match", photo, photo, "--model", "orb", "-o", tmp_path / "m.png")[::2] == (0, "")


def test_extract_goes_on_with_the_backend_of_its_folder(lf, engines, tiny, drawn_photos, tmp_path):
    engines({"ort-cpu": 0.01, "openvino": 0.0})
    words = ("extract", tiny().path, drawn_photos, "--out", tmp_path / "out")
    assert lf(*words, "--backend", "ort-cpu")[0] == 0
    code, _, err = lf(*words)
    assert (code, err) == (0, f"lf: ort-cpu runs tiny.onnx: the features in {tmp_path / 'out'} are made with it\n")


def test_the_api_measures_on_the_first_image(engines, tiny, capfd):
    engines({"ort-cpu": 0.01, "openvino": 0.0})
    network = api.load(tiny().path)
    assert (network.backend, network.choice) == ("auto", None)
    network.extract(PICTURE)
    assert network.choice.backend == "openvino"
    assert capfd.readouterr().err == f"lf: {network.choice}\n"
    with pytest.raises(UsageError, match="unknown backend 'ortcpu'; did you mean 'ort-cpu'"):
        api.load(tiny().path, "ortcpu")


def test_bench_takes_auto_only_when_asked(lf, engines, tiny, tmp_path):
    engines({"ort-cpu": 0.01, "openvino": 0.0})
    words = ("bench", tiny().path, "--data", "procedural:2", "--repeats", 0, "--json")
    code, out, err = lf(*words)
    assert (code, json.loads(out)["runs"][0]["backend"], "runs tiny.onnx" in err) == (0, "ort-cpu", False)
    code, out, err = lf(*words, "--backend", "auto")
    assert (code, json.loads(out)["runs"][0]["backend"]) == (0, "openvino")
    assert "lf: openvino runs tiny.onnx: 0." in err


def test_doctor_shows_choices_and_what_was_left_out(engines, tiny, lf):
    engines({"ort-cpu": 0.001, "openvino": 0.0}, {"openvino": lambda value: value + 1})
    chosen(tiny())
    rows = [row for row in json.loads(lf("doctor", "--json")[1])["checks"] if row["name"] == "auto"]
    assert len(rows) == 1
    assert "ort-cpu runs tiny.onnx" in rows[0]["detail"]
    assert "openvino left out: map " in rows[0]["detail"]


def test_times_of_lf_tune_make_the_same_record(engines, tiny):
    engines({"ort-cpu": 0.0, "openvino": 0.0, "opencv-dnn": 0.0})
    assert auto.keep(tiny(), 1, PICTURE, {"ort-cpu": [2.0, 2.0]}) is None
    kept = auto.keep(tiny(), 1, PICTURE, {"ort-cpu": [2.0, 4.0, 2.0], "openvino": [1.0, 2.0, 1.5]})
    assert kept.left_out == {"opencv-dnn": "lf tune did not time it"}
    assert (kept.backend, kept.ratios["openvino"]) == ("openvino", 0.5)
    again = chosen(tiny())
    assert (again.backend, again.fresh) == ("openvino", False)


@pytest.mark.parametrize(
    ("system", "environment", "expected"),
    [
        ("linux", {"LF_CACHE": "/here"}, "/here"),
        ("linux", {"XDG_CACHE_HOME": "/xdg", "LF_CACHE": ""}, "/xdg/lf"),
        ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "", "LF_CACHE": ""}, "/h/.cache/lf"),
        ("darwin", {"HOME": "/h", "LF_CACHE": ""}, "/h/Library/Caches/lf"),
    ],
)
def test_the_cache_folder_is_that_of_the_system(monkeypatch, system, environment, expected):
    monkeypatch.setattr(folders.sys, "platform", system)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert folders.folder().as_posix() == expected
