"""lf extract over many images: memory is constant, and it resumes after a kill; runs scripts/load_extract.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IMAGES = os.environ.get("LF_LOAD", "6000")  # 100000 takes about half an hour


@pytest.mark.slow
@pytest.mark.alone
def test_memory_and_throughput_stay(tiny):
    model = tiny("fast.onnx", "wren", (48, 64)).path
    words = [sys.executable, "-m", "scripts.load_extract", model, "--images", IMAGES]
    found = json.loads(subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout)
    assert (found["code"], found["features"]) == (0, int(IMAGES))
    memory, pace = found["second"]["resident_mib"], found["second"]["images_per_cpu_s"]
    assert memory[-1] - memory[1] < 50, memory  # the first tenth has the imports in it
    assert pace[-1] > 0.8 * pace[1], pace
    assert found["restart_s"] < 10, found
