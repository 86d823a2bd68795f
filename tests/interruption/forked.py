"""Run a command of lf in a forked process: start it, send it a signal, wait for its end."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LATEST = 600.0  # s after which a command hangs
MODULES = (
    *("torch", "onnx", "onnxruntime", "cv2", "pycolmap", "safetensors.torch", "lf.cli", "lf.studies.sweep"),
    *(
        "lf.studies.training",
        "lf.studies.budget_search",
        "lf.studies.extract",
        "lf.train.label_photos",
        "lf.train.loop",
    ),
    *("lf.benchmarks.sfm.reconstruct", "lf.export", "lf.models.checkpoint", "lf.quantize.write.ort"),
)


@dataclass(frozen=True)
class Ended:
    """End of a run: exit code, -N for a signal N; output; duration in seconds."""

    code: int
    said: str
    seconds: float

    @property
    def clean(self) -> bool:
        """True if it ended with a result or a one-line error, without a traceback."""
        return "Traceback" not in self.said and "internal error" not in self.said


def load() -> None:
    """Import once what the commands import; nothing is computed here, as threads would not survive a fork."""
    for name in MODULES:
        importlib.import_module(name)


class Running:
    """A command of lf in a process of its own."""

    def __init__(self, words: Sequence[str], said: Path, before: Callable[[], object] = lambda: None) -> None:
        """Start it; stdout and stderr go to the file `said`; `before` is called in the process first."""
        self._said, self._began = said, time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _child(words, said, before)

    def kill(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float = LATEST) -> Ended | None:
        """Wait for the end of the run; None if it still runs after `seconds`."""
        last = time.monotonic() + seconds
        while time.monotonic() < last:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                text = self._said.read_text(errors="replace")
                return Ended(os.waitstatus_to_exitcode(status), text, time.monotonic() - self._began)
            time.sleep(0.002)
        return None

    def end(self) -> Ended:
        """Wait for the end; a command that hangs is killed."""
        ended = self.wait()
        if ended is None:
            self.kill(signal.SIGKILL)
            ended = self.wait()
            assert ended
            return Ended(ended.code, f"internal error: hangs\n{ended.said}", ended.seconds)
        return ended


def run(words: Sequence[str], said: Path, before: Callable[[], object] = lambda: None) -> Ended:
    """Run a command to its end."""
    return Running(words, said, before).end()


def jumping(seed: int) -> None:
    """Have the clock of this process jump by up to a year at every look, back and forth."""
    rng, true, exact = random.Random(seed), time.time, time.time_ns
    time.time = lambda: true() + rng.uniform(-3e7, 3e7)
    time.time_ns = lambda: exact() + rng.randrange(-(3 * 10**16), 3 * 10**16)


def _child(words: Sequence[str], said: Path, before: Callable[[], object]) -> None:
    """Run `lf WORDS` in the child process; it never returns."""
    code = 70
    try:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        before()
        sys.argv = ["lf", *words]
        from lf.cli import main

        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
