"""Long commands that are killed make the same in the end: python -m tests.interruption, a few moments each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from interruption.commands import COMMANDS, content

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_makes_the_same(name):
    pytest.importorskip("pycolmap")
    words = ["--moments", os.environ.get("LF_MOMENTS", "3"), "--trouble", "--only", name]
    done = subprocess.run(
        [sys.executable, "-m", "tests.interruption", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_what_is_compared(tmp_path):
    """All values except times of day and speeds are compared."""

    def write(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return content(tmp_path)

    first = write("a.json", '{"time": "2026-01-01", "value": [{"steps_per_s": 3, "loss": 1}]}')
    assert write("a.json", '{"time": "2027-01-01", "value": [{"steps_per_s": 4, "loss": 1}]}') == first
    assert write("a.json", '{"time": "2026-01-01", "value": [{"steps_per_s": 3, "loss": 2}]}') != first
    before = write("t.md", "made 2026-11-29T14:04:29+00:00 by lf")
    assert write("t.md", "made 2026-11-29T14:04:15+00:00 by lf") == before
    assert write("t.md", "made 2026-11-29T14:04:15+00:00 by me") != before
    assert write(".a.json.x", "half") == content(tmp_path), "what a kill left of a write"
    assert "b.bin" in write("b.bin", "1")
