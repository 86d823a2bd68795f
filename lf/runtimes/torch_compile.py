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

FIRST = (240, 320)  # H, W in px of the first compiled size; cropped to the network's multiple
NEEDED = "#include <Python.h>\n#include <omp.h>\n"  # includes of the code that Inductor writes


class CompiledSession(TorchSession):
    """A network that is compiled for all image sizes when opened. The number of threads is a setting of the process.

    Inductor checks its assumptions about sizes, and compiles again at the first image that violates them: far smaller
    or far larger than `FIRST`. Sessions with the same network and number of threads share their code.
    """

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Load the checkpoint and compile it, which takes 15 s or more if it is not cached.

        Raises:
            Unavailable: no working C++ compiler, or it cannot compile the network.
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
        except RuntimeError as error:  # errors of its front end, its back end and the compiler
            why = one_line(error, 300)
            raise Unavailable(f"torch.compile cannot compile {artifact.path}: {why}; type: `backend=torch`") from error
        self.info = SessionInfo("torch.compile", torch.__version__, "cpu", threads)


def examine() -> tuple[bool, str]:
    """Check for `lf doctor`, without importing torch, whether Inductor's compiler works and finds its headers."""
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
