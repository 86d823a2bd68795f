"""A file that is made of another: written whole with its step in the card, or not at all."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from lf import __version__
from lf.core import Artifact, Card, GateFailed
from lf.formats import model_file
from lf.formats.derive import Draft, derive

CARD = Card(
    "wren", {"origin": "a test", "sha256": "0", "licence": "MIT"}, (1, None, None), made=({"command": "train"},)
)


def network(bias=0):
    """An ONNX file with one integer convolution of that bias."""
    floats = onnx.TensorProto.FLOAT
    values = {"w": np.zeros((1, 1, 1, 1), np.int8), "b": np.array([bias], np.int32)}
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    node = onnx.helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z", "b"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, floats, [1, 1, 4, 4]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    return onnx.helper.make_model(graph).SerializeToString()


@pytest.fixture
def source(tmp_path):
    return model_file.save(tmp_path / "source.onnx", network(), CARD)


@pytest.fixture
def aside(tmp_path, monkeypatch):
    """Folder of temporary folders."""
    folder = tmp_path / "aside"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def draft(compare=lambda made: {}, data=None, **card):
    made = replace(CARD, **card)
    return Draft(data or network(), made, {"to": "onnx"}, {"onnx": "1"}, compare, {"opset": 18})


def test_the_card_says_how_the_file_was_made(source, aside, tmp_path):
    seen = []

    def compare(made: Artifact):
        seen.append(made)
        assert model_file.load(made.path).card == made.card, "what is compared carries its card"
        return {"parity": {"pictures": 8}}

    def convert(folder: Path):
        assert folder.parent == aside
        (folder / "on the way").write_text("")
        return draft(compare)

    made = derive(source, tmp_path / "out.onnx", "export", convert)
    expected = {
        "command": "export",
        "options": {"to": "onnx"},
        "parent": source.sha256,
        "versions": {"lf": __version__, "onnx": "1"},
        "opset": 18,
    }
    assert [artifact.card.made[-1].to_dict() for artifact in seen] == [expected]
    assert list(made.card.made[-1].to_dict().items()) == [*expected.items(), ("parity", {"pictures": 8})]
    assert model_file.load(tmp_path / "out.onnx") == made
    assert not [*aside.iterdir()], "nothing stays in the temporary folder"


def test_nothing_is_written_of_a_file_that_differs(source, aside, tmp_path):
    def compare(made):
        raise GateFailed("it differs")

    out = tmp_path / "out.onnx"
    out.write_text("what was there")
    with pytest.raises(GateFailed, match="it differs"):
        derive(source, out, "export", lambda folder: draft(compare))
    assert out.read_text() == "what was there"
    assert not [*aside.iterdir()]


def test_a_bias_that_overflows_is_refused_before_the_comparison(source, aside, tmp_path):
    wrong = draft(pytest.fail, network(2**31 - 1), scheme="w8a8")
    with pytest.raises(GateFailed) as error:
        derive(source, tmp_path / "out.onnx", "quantize", lambda folder: wrong)
    assert str(error.value) == (
        f"{source.path}: the int32 bias b reaches 2147483647, expected at most 1073741824: its convolution would "
        "overflow; nothing was written, quantize the float file again"
    )
    assert not (tmp_path / "out.onnx").exists()
    derive(source, tmp_path / "float.onnx", "export", lambda folder: draft(data=network(2**31 - 1)))
