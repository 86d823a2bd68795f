"""BACKENDS: one row per engine that can run an artifact, and `extract`, the one path from image to keypoints."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lf.core import Artifact, Session, Unavailable, UsageError, pick


@dataclass(frozen=True)
class Backend:
    """An engine.

    Attributes:
        module: file in `lf.runtimes` with `open_session(artifact, threads, **options) -> Session`, which raises
            Unavailable when what was asked for is not what would run.
        package: what must be importable.
        extra: `pip install "lf[extra]"` brings it.
        suffixes: model files it runs.
        about: one line for `lf doctor`.
    """

    module: str
    package: str
    extra: str
    suffixes: tuple[str, ...]
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        """Whether its package can be imported; says nothing of devices."""
        return importlib.util.find_spec(self.package) is not None


CHECKPOINTS = (".safetensors", ".pth", ".pt", ".tar")

BACKENDS: dict[str, Backend] = {
    "torch": Backend("pytorch", "torch", "torch", CHECKPOINTS, "PyTorch eager, float32, on the CPU"),
    "ort-cpu": Backend(
        "ort",
        "onnxruntime",
        "ort",
        (".onnx",),
        "ONNX Runtime, CPUExecutionProvider",
        {"provider": "CPUExecutionProvider"},
    ),
    "ort-cuda": Backend(
        "ort",
        "onnxruntime",
        "ort-gpu",
        (".onnx",),
        "ONNX Runtime, CUDAExecutionProvider, never falling back to the CPU",
        {"provider": "CUDAExecutionProvider"},
    ),
    "opencv": Backend("opencv", "cv2", "", (".card",), "the baselines that OpenCV brings: SIFT, RootSIFT, ORB, AKAZE"),
}


def open_session(artifact: Artifact, backend: str, threads: int = 1) -> Session:
    """Open a model file in an engine.

    Raises:
        UsageError: unknown backend, or one that does not run this kind of file.
        Unavailable: the engine, its provider or its device is not there.
        BadInput: the engine refuses the file.
    """
    row = pick(BACKENDS, backend, "backend")
    if artifact.path.suffix not in row.suffixes:
        takes = ", ".join(row.suffixes)
        raise UsageError(f"{artifact.path}: backend {backend} runs {takes}; make such a file with lf export")
    if not row.installed:
        raise Unavailable(f'backend {backend} needs the package {row.package}; type: pip install "lf[{row.extra}]"')
    session: Session = importlib.import_module(f"lf.runtimes.{row.module}").open_session(
        artifact, threads, **row.options
    )
    return session
