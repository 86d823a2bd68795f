"""Baselines: the detectors of OpenCV, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lf.models.opencv.decode import points
from lf.models.row import Model

_STRONGEST = {"detector": "SIFT", "contrastThreshold": 1e-5}  # keeps every extremum; protocols take the strongest
_BASELINES: dict[str, tuple[int, Mapping[str, Any], str]] = {  # length of a descriptor, detector, description
    "sift": (128, _STRONGEST, "SIFT of OpenCV, contrast threshold 1e-5, as in the papers"),
    "sift-1000": (
        128,
        {"detector": "SIFT", "nfeatures": 1000},
        "SIFT of OpenCV with its defaults and 1000 features",
    ),
    "rootsift": (
        128,
        {**_STRONGEST, "root": True},
        "SIFT with the square roots of its L1-normalised descriptors (RootSIFT, CVPR 2012)",
    ),
    "orb": (
        256,
        {"detector": "ORB", "nfeatures": 1000},
        "ORB by OpenCV, 1000 features; its bits as +-1, so that dot products order as Hamming distances",
    ),
    "akaze": (486, {"detector": "AKAZE"}, "AKAZE by OpenCV where it has it (4, or 5 with contrib); bits as in orb"),
    "sift-default": (128, {"detector": "SIFT"}, "SIFT of OpenCV with its defaults, as in PoSFeat's use_sift"),
}


def _baseline(length: int, options: Mapping[str, Any], about: str) -> Model:
    return Model(
        module=None,
        options=options,
        channels=1,
        multiple=1,
        heads={"points": (4 + length, 1)},
        decode=points,
        settings={},
        about=about,
        parameters=0,
        code_licence="Apache-2.0",
    )


ROWS: dict[str, Model] = {name: _baseline(*row) for name, row in _BASELINES.items()}
