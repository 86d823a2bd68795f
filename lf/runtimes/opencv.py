"""OpenCV's detectors with the interface of a network."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from lf.core import Array, Artifact, SessionInfo, Unavailable, pick
from lf.models import MODELS

CV: Any = cv2  # its type stubs do not cover the differences between 4 and 5


def _make(detector: str, **arguments: Any) -> Any:
    homes: tuple[Any, ...] = (CV, getattr(CV, "xfeatures2d", None))
    for home in homes:
        if hasattr(home, f"{detector}_create"):
            return getattr(home, f"{detector}_create")(**arguments)
    raise Unavailable(
        f"this OpenCV {cv2.__version__} has no {detector}, which left its main package in 5; "
        "type: pip uninstall opencv-python opencv-python-headless && pip install opencv-contrib-python-headless"
    )


def _numbers(descriptors: Array, root: bool) -> Array:
    """Convert descriptors: bits to +-1; numbers unchanged, or as square roots of their shares (RootSIFT)."""
    if descriptors.dtype == np.uint8:
        return np.unpackbits(descriptors, axis=1).astype(np.float32) * 2 - 1
    if root:
        return np.asarray(np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-12)))
    return descriptors


class OpenCvSession:
    """One detector. OpenCV's number of threads is a setting of the process."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Make the detector.

        Raises:
            Unavailable: this build of OpenCV does not have it.
        """
        known = {name: row for name, row in MODELS.items() if row.module is None}
        row = pick(known, artifact.card.model, "OpenCV detector")
        options = {"root": False, **row.options}
        self._root = options.pop("root")
        self._detector = _make(**options)
        self._threads = threads
        self._length = row.length
        self.info = SessionInfo("opencv", cv2.__version__, "cpu", threads)

    def run(self, image: Array) -> dict[str, Array]:
        """Run on (1, 1, H, W) float32 in [0, 1]: {"points": (1, 4 + D, 1, N)}; see `lf.models.opencv.decode.points`."""
        cv2.setNumThreads(self._threads)
        grey = np.round(image[0, 0] * 255).astype(np.uint8)
        found, descriptors = self._detector.detectAndCompute(grey, None)
        rows = np.zeros((len(found), 4 + self._length), np.float32)
        if found:
            rows[:, :4] = [(*point.pt, point.size, point.response) for point in found]
            numbers = _numbers(descriptors, self._root)
            rows[:, 4:] = numbers[:, : self._length]  # AKAZE pads its last byte with zeros
        return {"points": rows.T[None, :, None]}


def open_session(artifact: Artifact, threads: int) -> OpenCvSession:
    """Open a baseline; see `OpenCvSession`."""
    return OpenCvSession(artifact, threads)
