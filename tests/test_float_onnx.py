"""Quantization starts from checkpoints and names of shipped weights as well: they are exported first."""

from __future__ import annotations

from pathlib import Path

import pytest

from lf.export import export, parity, to_onnx
from lf.formats import model_file
from lf.models.resolve import resolve
from lf.quantize.write import checks

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("few_pictures")
FIRST = "wren.safetensors is exported to ONNX first\n"


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture(autouse=True)
def traced(kept, monkeypatch, same_process):
    """Names of what was exported, in this process; the tracing, which takes longest, is done once for all tests."""
    trace, seen = to_onnx.trace, []

    def once(artifact, size, opset):
        seen.append(artifact.path.name)
        if (key := (artifact.sha256, size)) not in kept:
            kept[key] = trace(artifact, size, opset)
        copy = onnx.ModelProto()
        copy.CopyFrom(kept[key])
        return copy

    monkeypatch.setattr(to_onnx, "trace", once)
    monkeypatch.setattr(parity, "FREE_SIZES", ((64, 96), (96, 72)))
    return seen


@pytest.fixture
def own(tmp_path):
    return export(resolve("wren"), "onnx", tmp_path / "own" / "wren.onnx").path


def test_a_name_gives_what_its_export_gives(lf, tmp_path, own, traced):
    between = tmp_path / "q" / "wren.onnx"
    code, said, error = lf("quantize", "wren", "--scheme", "w4", "-o", tmp_path / "q" / "a.onnx")
    assert (code, said) == (0, f"{tmp_path / 'q' / 'a.onnx'}\n")
    assert error == f"{FIRST}its float ONNX file: {between}\n"
    assert between.read_bytes() == own.read_bytes()
    assert lf("quantize", own, "--scheme", "w4", "-o", tmp_path / "b.onnx")[0] == 0
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "q" / "a.onnx").read_bytes()

    del traced[:]
    found = lf("quantize", "wren", "--scheme", "w4", "-o", tmp_path / "q" / "c.onnx")
    assert found == (0, f"{tmp_path / 'q' / 'c.onnx'}\n", FIRST), "the same network is there"
    assert traced == ["wren.safetensors"], "which is found out by another export, not believed"
    assert (tmp_path / "q" / "c.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("kind", ["text", "link", "older"])
def test_what_is_there_is_not_overwritten(lf, tmp_path, own, kind):
    """An existing file that older code exported differently from the same checkpoint is not used as the export."""
    there = tmp_path / "wren.onnx"
    if kind == "older":
        old = model_file.load(own)
        model = onnx.load(own)
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Softplus"
        model_file.save(there, model.SerializeToString(), old.card)
    else:
        there.write_text("mine") if kind == "text" else there.symlink_to(tmp_path / "nowhere")
    before = there.read_bytes() if kind != "link" else there.readlink()
    code, said, error = lf("quantize", "wren", "--scheme", "w4", "-o", tmp_path / "a.onnx")
    assert (code, said) == (0, f"{tmp_path / 'a.onnx'}\n")
    assert error == f"{FIRST}{there} is another file and stays; the float ONNX file of this run is not kept\n"
    assert before == (there.read_bytes() if kind != "link" else there.readlink())
    assert lf("quantize", own, "--scheme", "w4", "-o", tmp_path / "b.onnx")[0] == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_cards_that_differ_in_a_figure_are_of_one_network(lf, tmp_path, own):
    """A study resumes by the sha256 of the file, so a last digit of another machine must not change it."""
    there, old = tmp_path / "wren.onnx", model_file.load(own)
    model_file.save(there, own.read_bytes(), old.card.step(made={"command": "note"}))
    before = there.read_bytes()
    assert lf("quantize", "wren", "--scheme", "w4", "-o", tmp_path / "a.onnx")[2] == FIRST
    assert there.read_bytes() == before
    parent = model_file.load(tmp_path / "a.onnx").card.made[-1].parent
    assert parent == model_file.load(there).sha256 != old.sha256


def test_a_slower_file_is_compared_with_no_temporary_one(lf, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "time_ratio", lambda parent, made: 1.5)
    error = lf("quantize", "wren", "--scheme", "w4", "-o", tmp_path / "a.onnx")[2]
    assert f"warning: {tmp_path / 'a.onnx'} takes 1.5 times as long as wren.onnx here" in error
    assert "lf-export" not in error


def test_the_output_may_have_the_name_of_the_export(lf, tmp_path):
    out = tmp_path / "wren.onnx"
    code, said, error = lf("quantize", "wren", "--scheme", "w4", "-o", out)
    assert (code, said) == (0, f"{out}\n")
    assert error == f"{FIRST}{out} is another file and stays; the float ONNX file of this run is not kept\n"
    assert model_file.load(out).card.scheme == "w4"


def test_the_output_is_not_what_it_is_made_from(lf, tmp_path, own):
    found = lf("quantize", "wren", "--scheme", "w4", "-o", own)
    said = f"{FIRST}lf: {own}: is the input file; choose another path with -o\n"
    assert found == (2, "", said)


NEEDS = "lf: scheme w8a8 needs calibration images; type: --images DIR"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("quantize",), 2, NEEDS),
        (("quantize", "--scheme", "w9"), 2, "lf: unknown scheme 'w9'"),
        (("quantize", "--scheme", "w4", "--bits", "a=5"), 2, "lf: a=5: scheme w4 knows layers with"),
        (("quantize", "--scheme", "w4", "-o", "a.tflite"), 2, "lf: a.tflite: writer ort makes .onnx files"),
        (("quantize", "--scheme", "w4", "--for", "tflite"), 2, "lf: --for tflite knows no scheme w4"),
        (("quantize", "--images", "nowhere"), 5, "lf: nowhere"),
        (("quantize", "--images", ".", "--calibration", "mxe"), 2, "lf: unknown calibration 'mxe'"),
        (("sensitivity", "--out", "out"), 2, NEEDS),
        (("sensitivity", "--out", "out", "--scheme", "fp16"), 2, "lf: scheme fp16 has no levels to study"),
        (("search", "--scheme", "w8a8", "--max-drop", "mma@3=1"), 2, NEEDS),
        (("search", "--scheme", "w4", "--max-drop", "mma@3"), 2, "lf: --max-drop mma@3: expected METRIC=NUMBER"),
    ],
)
def test_options_are_checked_before_the_export(lf, tmp_path, monkeypatch, traced, words, code, text):
    monkeypatch.chdir(tmp_path)
    found = lf(words[0], "wren", *words[1:])
    assert found[:2] == (code, "")
    assert found[2].startswith(text)
    assert traced == []
    assert list(Path().iterdir()) == []


def test_what_only_the_file_tells_names_the_checkpoint_and_leaves_nothing(lf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, error = lf("quantize", "wren", "--scheme", "w4", "--bits", "trunc=8")
    assert (code, said) == (2, "")
    assert error.startswith(f"{FIRST}lf: {resolve('wren').path}: has no head or convolution 'trunc'; known: ")
    assert list(Path().iterdir()) == []


def test_sensitivity_and_search_go_on(lf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ("--data", "procedural:2", "--scheme", "w4")
    first = lf("search", "wren", *data, "--max-drop", "mma@3=1", "-o", "a.onnx")
    assert first[:2] == (0, "a.onnx\n")
    assert "its float ONNX file: wren.onnx\n" in first[2]
    before = Path("a.search/search.json").read_bytes()
    assert lf("search", "wren", *data, "--max-drop", "mma@3=1", "-o", "a.onnx")[0] == 0
    assert Path("a.search/search.json").read_bytes() == before
