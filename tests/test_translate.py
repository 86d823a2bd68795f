"""Errors name parameters; the command spells them as options."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

from lf.cli import app
from lf.cli.translate import translate

ROOT = Path(__file__).resolve().parents[1] / "lf"


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


def calls():
    """Every command that a text outside the command's own folder advises, such as `export(CHECKPOINT, to=onnx)`."""
    for path in sorted(ROOT.rglob("*.py")):
        if path.parent.name != "cli":
            tree = ast.parse(path.read_text())
            documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            texts = (written(node) for node in ast.walk(tree) if id(node) not in documents)
            for text in texts:
                for found in re.findall(r"`[a-z_][\w.]*\([^`]*\)`", text):
                    yield path.relative_to(ROOT).as_posix(), found


def written(node):
    """The text of a string constant or an f-string, with X for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.mark.parametrize(("file", "call"), sorted({*calls()}))
def test_what_an_error_advises_to_type_parses(file, call):
    command = typer.main.get_command(app)
    verb, *words = translate(call, command).split(" ")[1:]
    while verb in getattr(command, "commands", {}):
        command = command.commands[verb]
        if hasattr(command, "commands"):
            verb, *words = words
    command.make_context(verb, words)  # raises where an option is unknown or an argument is missing
