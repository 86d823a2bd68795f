"""Run checkpoints in PyTorch through torch.compile."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import Artifact, SessionInfo, Unavailable, one_line
from lf.models import MODELS
from lf.runtimes.pytorch import TorchSession

FIRST = (240, 320)  # H, W in px of the picture that is compiled for; cut to what a network takes
NEEDED = "#include <Python.h>\n#include <omp.h>\n"  # by the code that Inductor writes


class CompiledSession(TorchSession):
    """A network compiled for pictures of any size when it is opened; the number of threads is the process's.

    Inductor asserts what it assumed of a size, and compiles once more at the first picture that breaks it: far smaller
    or far larger than `FIRST`. Two sessions of one network and one number of threads share their code.
    """

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Load the checkpoint and compile it, which takes a quarter of a minute or more where it is not cached.

        Raises:
            Unavailable: no C++ compiler that works, or it cannot compile this.
            BadInput: see `lf.models.checkpoint.network`.
        """
        there, detail = examine()
        if not there:
            raise Unavailable(f"{detail}, or type: `backend=torch`")
        super().__init__(artifact, threads)
        torch, row = self._torch, MODELS[artifact.card.model]
        options: dict[str, Any] = {"cpp.threads": threads, "compile_threads": 1}  # the latter: no processes that stay
        self._network = torch.compile(self._network, fullgraph=True, dynamic=True, options=options)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # torch of itself
                self.run(np.zeros((1, row.channels, *row.fitted(FIRST)), np.float32))
        except RuntimeError as error:  # of its front end, of its back end, and of the compiler
            why = one_line(error, 300)
            raise Unavailable(f"torch.compile cannot compile {artifact.path}: {why}; type: `backend=torch`") from error
        self.info = SessionInfo("torch.compile", torch.__version__, "cpu", threads)


def examine() -> tuple[bool, str]:
    """Whether Inductor's compiler is here and finds what it needs; for `lf doctor`. torch is not imported."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    include = f"-I{sysconfig.get_path('include')}"
    command = [compiler, "-fsyntax-only", "-fopenmp", include, "-x", "c++", "-"]
    try:
        done = subprocess.run(command, input=NEEDED, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"no C++ compiler {compiler} ({error}): install g++, or name another in CXX"
    if done.returncode:
        line = next((line for line in done.stderr.splitlines() if "error" in line), f"status {done.returncode}")
        return False, f"{compiler} lacks what compiled code needs ({line}): install g++ and Python's headers"
    return True, f"compiled by {Path(compiler).name}"


def open_session(artifact: Artifact, threads: int) -> CompiledSession:
    """Compile a checkpoint; see `CompiledSession`."""
    return CompiledSession(artifact, threads)
