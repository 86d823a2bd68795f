"""Detectors of OpenCV behind the same seam as a network: image in, one map of points out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from lf.core import Array, Artifact, SessionInfo, Unavailable, pick
from lf.models import MODELS

FEATURES = 1000  # of those that take no more


CV: Any = cv2  # its type stubs miss what differs between 4 and 5


def _sift() -> Any:
    return CV.SIFT_create(contrastThreshold=1e-5)  # every extremum; protocols take the strongest


def _akaze() -> Any:
    homes: tuple[Any, ...] = (CV, getattr(CV, "xfeatures2d", None))
    for home in homes:
        if hasattr(home, "AKAZE_create"):
            return home.AKAZE_create()
    raise Unavailable(
        f"this OpenCV {cv2.__version__} has no AKAZE, which left its main package in 5; "
        "type: pip uninstall opencv-python opencv-python-headless && pip install opencv-contrib-python-headless"
    )


def _root(descriptors: Array) -> Array:
    return np.asarray(np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-12)))


def _bits(descriptors: Array) -> Array:
    return np.unpackbits(descriptors, axis=1).astype(np.float32) * 2 - 1


DETECTORS: dict[str, tuple[Callable[[], Any], Callable[[Array], Array]]] = {
    "sift": (_sift, np.asarray),
    "sift-1000": (lambda: CV.SIFT_create(FEATURES), np.asarray),
    "rootsift": (_sift, _root),
    "orb": (lambda: CV.ORB_create(FEATURES), _bits),
    "akaze": (_akaze, _bits),
}


class OpenCvSession:
    """One detector; OpenCV's number of threads is the process's."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Make the detector.

        Raises:
            Unavailable: this build of OpenCV does not have it.
        """
        make, self._convert = pick(DETECTORS, artifact.card.model, "OpenCV detector")
        self._detector = make()
        self._threads = threads
        self._length = MODELS[artifact.card.model].heads["points"][0] - 4
        self.info = SessionInfo("opencv", cv2.__version__, "cpu", threads)

    def run(self, image: Array) -> dict[str, Array]:
        """(1, 1, H, W) float32 in [0, 1] -> {"points": (1, 4 + D, 1, N)}; see `lf.models.decode.points`."""
        cv2.setNumThreads(self._threads)
        grey = np.round(image[0, 0] * 255).astype(np.uint8)
        found, descriptors = self._detector.detectAndCompute(grey, None)
        rows = np.zeros((len(found), 4 + self._length), np.float32)
        if found:
            rows[:, :4] = [(*point.pt, point.size, point.response) for point in found]
            rows[:, 4:] = self._convert(descriptors)[:, : self._length]  # AKAZE fills its last byte up with zeros
        return {"points": rows.T[None, :, None]}


def open_session(artifact: Artifact, threads: int) -> OpenCvSession:
    """Open a baseline; see `OpenCvSession`."""
    return OpenCvSession(artifact, threads)
