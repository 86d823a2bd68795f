"""Quantization starts from checkpoints and names of shipped weights as well: they are exported first."""

from __future__ import annotations

from lf.export import export
from lf.formats import model_file
from lf.models.resolve import resolve


def test_a_name_gives_what_its_export_gives(lf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, error = lf("quantize", "wren", "--scheme", "w4", "-o", tmp_path / "q" / "a.onnx")
    assert (code, said) == (0, f"{tmp_path / 'q' / 'a.onnx'}\n")
    between = tmp_path / "q" / "wren.onnx"
    assert error == f"wren.safetensors is exported first: {between}\n"
    made = between.stat().st_mtime_ns
    own = export(resolve("wren"), "onnx", tmp_path / "own.onnx")
    assert between.read_bytes() == own.path.read_bytes()
    assert lf("quantize", own.path, "--scheme", "w4", "-o", tmp_path / "b.onnx")[0] == 0
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "q" / "a.onnx").read_bytes()
    assert lf("quantize", "wren", "--scheme", "fp16", "-o", tmp_path / "q" / "c.onnx")[0] == 0
    assert between.stat().st_mtime_ns == made, "it is used again"
    assert model_file.load(tmp_path / "q" / "c.onnx").card.scheme == "fp16"
