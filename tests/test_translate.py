"""Errors name parameters; the command spells them as options."""

from __future__ import annotations

import pytest
import typer

from lf.cli import app
from lf.cli.translate import translate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`size`: expected two numbers", "--size: expected two numbers"),
        ("type: `scheme=w8a16`", "type: --scheme w8a16"),
        ("leave out `size`, `opset`", "leave out --size, --opset"),
        ("type: `export(CHECKPOINT, to=onnx)`", "type: lf export CHECKPOINT --to onnx"),
        ("type: `quantize(M.onnx, writer=tflite, images=DIR)`", "type: lf quantize M.onnx --for tflite --images DIR"),
        ("type: `export(M.onnx, half=True)`", "type: lf export M.onnx --half"),
        ("type: `data.list(DIR)`", "type: lf data list DIR"),
        ("type: `init=CHECKPOINT`", "type: --set init=CHECKPOINT"),
        ("`change=size=64x`: expected", "--set size=64x: expected"),
        ("choose another `output`", "choose another -o"),
        ("choose another `out`", "choose another --out"),
        ("`nonsense` stays", "`nonsense` stays"),
        ("nothing in backticks", "nothing in backticks"),
    ],
)
def test_parameters_become_options(text, expected):
    assert translate(text, typer.main.get_command(app)) == expected
