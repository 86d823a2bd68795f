"""Commands that quantize export a checkpoint in a process of its own, which behaves as if it were not there."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lf.core import BadInput, BadModel, ConversionFailed, GateFailed, Unavailable
from lf.export import apart, export
from lf.models.resolve import resolve

pytest.importorskip("onnxscript")

SCRIPT = """
import sys
from pathlib import Path
from lf.studies.float_onnx import float_onnx_of

with float_onnx_of("wren", Path("kept"), lambda checkpoint: print(checkpoint.path.name)) as made:
    print(made.path.name)
print([name for name in ("torch", "onnxscript", "sympy") if name in sys.modules])
"""  # a plain script: no `if __name__ == "__main__"`


def test_a_script_gets_the_same_file_and_no_torch(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "wren.safetensors\nwren.onnx\n[]\n"), done.stderr
    assert done.stderr == "wren.safetensors is exported to ONNX first\nits float ONNX file: kept/wren.onnx\n"
    own = export(resolve("wren"), "onnx", tmp_path / "wren.onnx").path
    assert (tmp_path / "kept" / "wren.onnx").read_bytes() == own.read_bytes()


COMMAND = """
import sys
sys.argv = ["lf", "quantize", "weights.pth", "--scheme", "w4"]
from lf.cli import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""


def test_an_error_is_the_same_line_with_the_same_exit_code(tmp_path):
    (tmp_path / "weights.pth").write_text("no checkpoint")
    done = subprocess.run([sys.executable, "-c", COMMAND], cwd=tmp_path, capture_output=True, text=True)
    with pytest.raises(BadInput) as expected:
        resolve(tmp_path / "weights.pth")
    assert (done.returncode, done.stdout) == (BadInput.exit_code, "")
    assert done.stderr == f"lf: {expected.value}\n".replace(f"{tmp_path}/", "")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


class Peculiar(Exception):
    """An error that pickle makes, but cannot read."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize(
    "error",
    [
        GateFailed("differs"),
        Unavailable("not here"),
        BadModel("map a is not finite", Path("a.pth"), "use another"),
        ModuleNotFoundError("no onnx", name="onnx"),
        OSError(28, "No space left on device", "a.onnx"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_arrive_as_they_are(error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(apart, "steps", fail)
    answers = io.BytesIO()
    apart.serve("wren", Path(), answers)
    found = pickle.loads(answers.getvalue())
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
    for name in ("name", "filename", "strerror"):
        assert getattr(found, name, None) == getattr(error, name, None)


def test_errors_that_cannot_be_sent_keep_class_and_text():
    found = apart.portable(Peculiar("a", "b"))
    assert (type(found), str(found)) == (RuntimeError, "Peculiar: a and b")


def test_a_process_that_is_killed_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "python").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with (
        pytest.raises(ConversionFailed, match="ended with exit code -9 before it was done"),
        apart.opened("w", tmp_path),
    ):
        pytest.fail("nothing was opened")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds child processes in /proc")
def test_an_interruption_leaves_no_process_and_no_file(tmp_path, number):
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "lf", "quantize", "wren", "--scheme", "w4"],
        cwd=tmp_path / "here",
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever started the tests may ignore it
    )
    with process:
        assert process.stderr.readline() == "wren.safetensors is exported to ONNX first\n"
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        time.sleep(1)
        process.send_signal(number)
        said = process.stderr.read()
    assert _ends(child)
    assert list((tmp_path / "here").iterdir()) == []
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert said.startswith("lf: ")
        assert said.endswith("; nothing half-written is left, the same command resumes or starts again\n")
        assert said.count("\n") == 1
        assert list((tmp_path / "temporary").iterdir()) == []


def _ends(process):
    """Wait until a process is gone, or only waits to be collected."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False
