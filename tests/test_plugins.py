"""Third parties add rows: one file and one entry point, without a change in lf."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Run lf beside an installed package with rows of its own: exit code, stdout, stderr."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "lf_plugin-1.0.dist-info"
    info.mkdir()
    (folder / "lf_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lf-plugin\nVersion: 1.0\n")

    def run(*words, points=POINTS):
        (info / "entry_points.txt").write_text(points)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}
        done = subprocess.run([sys.executable, "-m", "lf.cli", *words], capture_output=True, text=True, env=env)
        return done.returncode, done.stdout, done.stderr

    return run


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
