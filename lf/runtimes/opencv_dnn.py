"""Run ONNX files in OpenCV's DNN module, which needs no further package."""

from __future__ import annotations

import threading
from typing import Any

import cv2
import numpy as np

from lf.core import Array, Artifact, BadInput, SessionInfo, Unavailable, UsageError, files, one_line
from lf.core.console import quiet
from lf.formats.int4 import widened

CV: Any = cv2  # its type stubs are of one version
OLDEST = 5  # major version; the importer of 4 was not compared with the other engines


class OpenCvDnnSession:
    """One network. OpenCV's number of threads is a setting of the process, so every run sets it."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Read `artifact`; quantized layers are computed in float32 on the grid of their levels.

        Raises:
            Unavailable: this OpenCV has no such engine.
            BadInput: not a model that OpenCV can read.
            UsageError: OpenCV would compute the model wrongly.
        """
        if artifact.card.features:  # its Loop gives NaN
            raise UsageError(
                f"{artifact.path}: OpenCV cannot run a decode in the graph; give it the file with raw heads"
            )
        there, detail = examine()
        if not there:
            raise Unavailable(f"{detail}; type: pip install -U opencv-contrib-python-headless")
        try:
            data = widened(files.read_bytes(artifact.path, "an ONNX model"))
            with quiet():  # it also writes its errors to stderr
                self._network = CV.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
        except (cv2.error, ValueError, IndexError) as error:
            raise BadInput(f"{artifact.path}: OpenCV cannot load it: {one_line(error, 300)}") from error
        self._path, self._input = artifact.path, artifact.card.input
        self._outputs = list(artifact.card.outputs)
        self._threads, self._turn = threads, threading.Lock()
        self.info = SessionInfo("opencv-dnn", cv2.__version__, "cpu", threads)

    def run(self, image: Array) -> dict[str, Array]:
        """See `lf.core.Session`; B = 1.

        Raises:
            BadInput: other channels or another size than the file's: OpenCV would compute without an error.
        """
        wanted = (1, *self._input)
        if image.ndim != 4 or any(side not in (None, given) for side, given in zip(wanted, image.shape, strict=True)):
            shape = ", ".join("any" if side is None else str(side) for side in wanted)
            raise BadInput(f"{self._path}: takes one image, ({shape}); got {image.shape}")
        try:
            with self._turn:  # a network has one input and one set of outputs for all threads
                cv2.setNumThreads(self._threads)
                self._network.setInput(np.ascontiguousarray(image, np.float32))
                maps = self._network.forward(self._outputs)
        except cv2.error as error:
            raise BadInput(f"{self._path}: OpenCV cannot run it on {image.shape}: {one_line(error, 300)}") from error
        return dict(zip(self._outputs, maps, strict=True))


def examine() -> tuple[bool, str]:
    """Check for `lf doctor` whether this OpenCV has the engine; also return its version."""
    here = f"OpenCV {cv2.__version__}"
    if int(cv2.__version__.split(".")[0]) < OLDEST or not hasattr(cv2, "dnn"):
        return False, f"this {here} is too old, or without its dnn module: expected {OLDEST} or newer"
    return True, here


def open_session(artifact: Artifact, threads: int) -> OpenCvDnnSession:
    """Open an ONNX file; see `OpenCvDnnSession`."""
    return OpenCvDnnSession(artifact, threads)
