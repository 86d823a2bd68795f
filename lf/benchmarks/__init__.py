"""METRICS: name -> what a number means. PROTOCOLS: name -> how it is made; values compare within one protocol only."""

from __future__ import annotations

from dataclasses import dataclass

from lf.benchmarks.metrics import INLIER_MASK, Ransac
from lf.benchmarks.protocols import (
    CROP,
    NATIVE,
    SQUEEZE,
    Protocol,
    kp2d_score,
    mma_score,
    superpoint_score,
)
from lf.data.hpatches import OVERSIZE


@dataclass(frozen=True)
class Metric:
    """unit: of the value, "" for a share. higher_is_better: None where neither is. about: one line, for reports."""

    unit: str
    higher_is_better: bool | None
    about: str


METRICS: dict[str, Metric] = {
    "repeatability": Metric("", True, "share of points in both views with a point of the other image within 3 px"),
    "localization_error": Metric("px", False, "mean distance of those repeated points, in the second image"),
    "n_keypoints0": Metric("points", None, "points of the first image"),
    "n_keypoints1": Metric("points", None, "points of the second image"),
    "n_matches": Metric("matches", None, "mutual nearest neighbours"),
    "mean_corner_error": Metric("px", False, "mean distance of the corners under true and estimated homography"),
    "correctness@1": Metric("", True, "homography estimated with a mean corner error of at most 1 px"),
    "correctness@3": Metric("", True, "homography estimated with a mean corner error of at most 3 px"),
    "correctness@5": Metric("", True, "homography estimated with a mean corner error of at most 5 px"),
    "n_inliers": Metric("matches", None, "matches within 3 px of the estimated homography"),
    "matching_score": Metric("", True, "share of points matched rightly; superpoint: RANSAC inliers, can exceed 1"),
    "nn_map": Metric("", True, "average precision of matches against their own RANSAC model, not the truth"),
    **{f"mma@{t}": Metric("", True, f"share of mutual matches within {t} px of the truth") for t in range(1, 16)},
}

_HOMOGRAPHY_METRICS = (
    "repeatability",
    "localization_error",
    "n_keypoints0",
    "n_keypoints1",
    "n_matches",
    "mean_corner_error",
    "correctness@1",
    "correctness@3",
    "correctness@5",
    "n_inliers",
    "matching_score",
)

_KP2D = {
    "k": 300,
    "repeatability_px": 3.0,
    "matching_px": 3.0,
    "correctness_px": (1, 3, 5),
    "ransac": Ransac(threshold=3.0, iterations=5000, confidence=0.995),
}

PROTOCOLS: dict[str, Protocol] = {
    "superpoint": Protocol(
        name="superpoint",
        version=1,
        size=(240, 320),
        geometry=CROP,
        scorer=superpoint_score,
        params={
            "k": 1000,
            "repeatability_px": 3.0,
            "correctness_px": (1, 3, 5),
            "ransac": Ransac(threshold=3.0, iterations=2000, confidence=0.995),
            "ap": "two_way",
        },
        metrics=(*_HOMOGRAPHY_METRICS, "nn_map"),
        inlier_mask=INLIER_MASK,
    ),
    "kp2d": Protocol(
        name="kp2d",
        version=1,
        size=(240, 320),
        geometry=SQUEEZE,
        scorer=kp2d_score,
        params=_KP2D,
        metrics=_HOMOGRAPHY_METRICS,
        inlier_mask=INLIER_MASK,
    ),
    "kp2d-640": Protocol(
        name="kp2d-640",
        version=1,
        size=(480, 640),
        geometry=SQUEEZE,
        scorer=kp2d_score,
        params={**_KP2D, "k": 1000},
        metrics=_HOMOGRAPHY_METRICS,
        inlier_mask=INLIER_MASK,
    ),
    "mma": Protocol(
        name="mma",
        version=1,
        size=None,
        geometry=NATIVE,
        scorer=mma_score,
        params={"k": None, "thresholds_px": tuple(range(1, 16))},
        metrics=("n_keypoints0", "n_keypoints1", "n_matches", *(f"mma@{t}" for t in range(1, 16))),
        without=OVERSIZE,
    ),
}
