"""Third parties add rows: one file or folder and one entry point for each kind of thing, without a change in lf."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lf.core.registry import GROUPS

PLUGIN = """
import cv2
import numpy as np
from dataclasses import replace
from lf.benchmarks import PROTOCOLS
from lf.data import Pair, warps
from lf.models import MODELS
from lf.quantize.schemes import SCHEMES
from lf.runtimes import BACKENDS

MODEL = replace(MODELS["sift"], options={**MODELS["sift"].options, "nfeatures": 50}, about="fifty points")
BACKEND = replace(BACKENDS["opencv"], about="OpenCV under another name")
SCHEME = replace(SCHEMES["w8a8"], about="w8a8 under another name")
PROTOCOL = replace(PROTOCOLS["kp2d"].vary(k=100), name="kp2d-100")

def shapes(where, wanted):
    return warps.drawn(int(where or 2), wanted.seed)
"""
POINTS = """
[lf.models]
sift-50 = lf_plugin:MODEL
[lf.backends]
opencv-too = lf_plugin:BACKEND
[lf.schemes]
w8a8-too = lf_plugin:SCHEME
[lf.datasets]
shapes = lf_plugin:shapes
[lf.protocols]
kp2d-100 = lf_plugin:PROTOCOL
"""


# a package with a network, a file type that a backend of its own runs, an export target, a training method

NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F

class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image):
        cells = F.pixel_unshuffle(image, 8)
        return torch.cat([cells * self.scale, torch.zeros_like(cells[:, :1])], 1), F.normalize(cells)

def build():
    return Blocks()

def adopt(state):
    return ("blocks", state) if {*state} == {"scale"} else None
"""
FILES = """
import json
import numpy as np
from lf.core import SessionInfo, files
from lf.formats import model_file

def export(artifact, out, **options):
    from lf.models import checkpoint
    scale = checkpoint.network(artifact).scale.item()
    step = {"command": "export", "parent": artifact.sha256, "options": {"to": "blk"}, "versions": {}}
    return model_file.save(out, json.dumps(scale).encode(), artifact.card.step(made=step))

class Session:
    info = SessionInfo("blocks", np.__version__, "cpu", 1)

    def __init__(self, artifact):
        data = files.read_bytes(artifact.path, "a blocks file")
        self.scale = json.loads(data[: data.index(b"PK")])

    def run(self, image):
        b, _, h, w = image.shape
        cells = image.reshape(b, h // 8, 8, w // 8, 8).transpose(0, 2, 4, 1, 3).reshape(b, 64, h // 8, w // 8)
        unit = cells / np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-12)
        return {"detector": np.pad(cells * self.scale, ((0, 0), (0, 1), (0, 0), (0, 0))), "descriptor": unit}

def open_session(artifact, threads):
    return Session(artifact)
"""
ROWS = """
from lf.export import Target
from lf.formats import cards
from lf.models import MODELS
from lf.models.row import Model
from lf.runtimes import Backend

MODEL = Model(
    module="lf_blocks.network",
    channels=1,
    multiple=8,
    heads=MODELS["wren"].heads,
    decode=MODELS["wren"].decode,
    describe=MODELS["wren"].describe,
    settings={**MODELS["wren"].settings, "threshold": 0.001},
    about="the pixels of every cell",
    parameters=1,
)
CODEC = cards.appended("a blocks file")
BACKEND = Backend("lf_blocks.files", "numpy", "", (".blk",), "blocks in numpy", codec=CODEC)
TARGET = Target("lf_blocks.files", ".blk", "blocks", codec=CODEC)
"""
RECIPE = """
from lf.train import Recipe

RECIPE = Recipe(
    model="blocks",
    method="lf_blocks.method",
    about="the scale becomes 2",
    steps=3,
    batch=2,
    size=(32, 32),
    lr=0.5,
    warmup=0,
    pictures=4,
    picture_size=48,
    bf16=False,
    settings={"goal": 2.0},
)
"""
METHOD = """
class Method:
    extra = None
    images = 1

    def __init__(self, recipe, pictures, device):
        self.recipe, self.pictures = recipe, pictures

    def state(self):
        return {}

    def restore(self, state):
        pass

    def begin_step(self, step, network):
        pass

    def loss(self, network, dice):
        batch = self.pictures.take(dice.integers(len(self.pictures)))
        dice.data_ready()
        loss = (network(batch)[0][:, :64].mean() / batch.mean() - self.recipe.settings["goal"]) ** 2
        return loss, {"scale": network.scale.detach()}
"""
BLOCKS = """
[lf.models]
blocks = lf_blocks:MODEL
[lf.backends]
blocks = lf_blocks:BACKEND
[lf.exports]
blocks = lf_blocks:TARGET
[lf.recipes]
blocks = lf_blocks.recipes:RECIPE
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Run a program beside an installed package with rows of its own: exit code, stdout, stderr."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "lf_plugin-1.0.dist-info"
    info.mkdir()
    (folder / "lf_plugin.py").write_text(PLUGIN)
    (folder / "lf_blocks").mkdir()
    files = {"__init__": ROWS, "network": NETWORK, "files": FILES, "recipes": RECIPE, "method": METHOD}
    for name, text in files.items():
        (folder / "lf_blocks" / f"{name}.py").write_text(text)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lf-plugin\nVersion: 1.0\n")

    def run(words, points):
        (info / "entry_points.txt").write_text(points)
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=folder)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def command(site):
    """Run lf beside that package: exit code, stdout, stderr."""
    return lambda *words, points=POINTS: site([sys.executable, "-m", "lf.cli", *words], points)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("models",), "sift-50"),
        (("doctor",), "opencv-too"),
        (("bench", "--help"), "kp2d-100"),
        (("quantize", "--help"), "w8a8-too"),
        (("bench", "sift", "--backend", "opencv", "--data", "none:1"), "shapes"),
    ],
)
def test_rows_of_plugins_are_listed(command, words, expected):
    code, said, error = command(*words)
    assert expected in said + error
    assert code == (2 if "none:1" in words else 0)


def test_rows_of_plugins_work(command):
    words = (
        "bench",
        "sift",
        "--backend",
        "opencv-too",
        "--data",
        "shapes:2",
        "--protocol",
        "kp2d-100",
        "--repeats",
        "0",
    )
    code, said, error = command(*words)
    assert (code, error) == (0, "")
    assert "opencv-too" in said
    assert "kp2d-100" in said


DRIVER = """
import contextlib, io, json, os, sys
from lf.cli import main

told = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["lf", *words]
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main()
        except SystemExit as left:
            told.append([left.code, out.getvalue(), error.getvalue()])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def together(site):
    """Run several command lines in one process, which imports torch once; exit code, stdout and stderr of each."""

    def run(points, *lines):
        words = json.dumps([[*map(str, line)] for line in lines])
        code, text, error = site([sys.executable, "-c", DRIVER, words], points)
        assert code == 0, error
        told = [tuple(each) for each in json.loads(text)]
        assert len(told) == len(lines)
        return told

    return run


def test_a_scheme_of_a_plugin_is_written_and_evaluated(together, tiny, drawn_photos, tmp_path):
    parent, made = tiny().path, tmp_path / "tiny.small.onnx"
    quantized, evaluated = together(
        POINTS,
        ("quantize", parent, "--scheme", "w8a8-too", "--images", drawn_photos, "--limit", "2", "-o", made),
        ("bench", made, "--data", "shapes:1", "--repeats", "0"),
    )
    assert quantized[:2] == (0, f"{made}\n"), quantized
    assert evaluated[0] == 0, evaluated
    assert "| w8a8-too |" in " ".join(evaluated[1].split())


@pytest.fixture(scope="module")
def blocks(together, tmp_path_factory):
    """Output of each command for a plug-in's network, from training to a benchmark in its own file type."""
    folder = tmp_path_factory.mktemp("run")
    weights, onnx, own, public = (folder / name for name in ("blocks.safetensors", "b.onnx", "b.blk", "public.pth"))
    torch.save({"state_dict": {"scale": torch.full((1,), 3.0)}}, public)
    lines = {
        "train": ("train", "blocks", "--out", folder),
        "trained": ("inspect", weights, "--json"),
        "public": ("inspect", public, "--json"),
        "onnx": ("export", weights, "--to", "onnx", "-o", onnx),
        "own": ("export", weights, "--to", "blocks", "-o", own),
        "card": ("inspect", own, "--json"),
        "bench": ("bench", weights, onnx, own, "--data", "procedural:1", "--repeats", "0", "--json"),
    }
    told = dict(zip(lines, together(BLOCKS, *lines.values()), strict=True))
    assert {name: (code, error) for name, (code, _, error) in told.items()} == dict.fromkeys(lines, (0, ""))
    return {name: text for name, (_, text, _) in told.items()}


def test_a_training_method_of_a_plugin_trains(blocks):
    assert blocks["train"].endswith("blocks.safetensors\n")
    made = json.loads(blocks["trained"])["made"][0]["options"]
    assert (made["method"], made["settings"]) == ("lf_blocks.method", {"goal": 2.0})


def test_a_network_of_a_plugin_is_recognised_in_a_public_checkpoint(blocks):
    assert json.loads(blocks["public"])["model"] == "blocks"


def test_an_export_target_of_a_plugin_writes_a_file_with_a_card(blocks):
    card = json.loads(blocks["card"])
    assert [step["command"] for step in card["made"]] == ["train", "export"]


def test_a_file_with_a_new_suffix_runs_in_the_backend_of_its_plugin(blocks):
    runs = json.loads(blocks["bench"])["runs"]
    assert [run["backend"] for run in runs] == ["torch", "ort-cpu", "blocks"]
    scores = [[pair["repeatability"] for pair in run["pairs"]] for run in runs]
    assert scores[0] == scores[1] == scores[2]


def test_contributing_lists_the_groups_of_entry_points():
    page = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text()
    assert {group for group in GROUPS if f"| `{group}` |" in page} == {*GROUPS}


def test_the_help_names_rows_of_plugins(together):
    verbs = ("export", "bench", "train", "models")
    for verb, (code, text, _) in zip(
        verbs, together(BLOCKS, *((verb, "--help") for verb in verbs[:3]), ("models",)), strict=True
    ):
        assert code == 0
        assert "blocks" in text, verb


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("sift = lf_plugin:MODEL", "there is a row 'sift' already; give it another name"),
        ("other = lf_plugin:SCHEME", "it is a Scheme; expected a Model"),
        ("other = lf_plugin:NOTHING", "AttributeError: module 'lf_plugin' has no attribute 'NOTHING'"),
        ("other = no_such_module:ROW", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_broken_plugin_is_one_line_and_the_command_goes_on(command, row, fault):
    code, said, error = command("models", points=f"[lf.models]\n{row}\n")
    assert code == 0
    assert "superpoint" in said
    name, _, value = row.partition(" = ")
    assert error == f"warning: plug-in lf.models:{name} ({value}) is left out: {fault}\n"
