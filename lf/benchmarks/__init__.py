"""METRICS and PROTOCOLS of `lf bench`. Compare values of one protocol only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lf.benchmarks.protocols import segmentation
from lf.benchmarks.protocols.geometry import (
    AREA_SQUEEZE,
    CROP,
    NATIVE,
    SQUEEZE,
    SQUEEZE_BGR,
    SQUEEZE_BICUBIC,
    TRUE_CROP,
    TRUE_SQUEEZE,
)
from lf.benchmarks.protocols.homography import (
    auc_score,
    kp2d_score,
    mma_score,
    superpoint_score,
    superpoint_true_score,
)
from lf.benchmarks.protocols.metrics import INLIER_MASK, Ransac
from lf.benchmarks.protocols.pose import pose_score
from lf.benchmarks.protocols.protocol import Protocol
from lf.benchmarks.protocols.summary import MEAN, MEAN_ABOVE_0, MEDIAN, Aggregate, recall_area
from lf.data.hpatches import OVERSIZE


@dataclass(frozen=True)
class Metric:
    """unit: of the value, "" for a share. higher_is_better: None where neither is. about: one line, for reports."""

    unit: str
    higher_is_better: bool | None
    about: str


LEVELS = ((5.0, 10.0), (0.5, 5.0), (0.25, 2.0), (0.05, 0.5), (0.01, 0.1))  # m, degrees; the first three are Aachen's

METRICS: dict[str, Metric] = {
    "repeatability": Metric("", True, "share of points in both views with a point of the other image within 3 px"),
    "localization_error": Metric("px", False, "mean distance of those repeated points, in the second image"),
    "n_keypoints0": Metric("points", None, "points of the first image"),
    "n_keypoints1": Metric("points", None, "points of the second image"),
    "n_matches": Metric("matches", None, "mutual nearest neighbours"),
    "mean_corner_error": Metric("px", False, "mean distance of the corners under true and estimated homography"),
    "mean_corner_error_dlt": Metric("px", False, "the same, estimated from all matches without RANSAC"),
    "correctness@1": Metric("", True, "homography estimated with a mean corner error of at most 1 px"),
    "correctness@3": Metric("", True, "homography estimated with a mean corner error of at most 3 px"),
    "correctness@5": Metric("", True, "homography estimated with a mean corner error of at most 5 px"),
    "n_inliers": Metric("matches", None, "matches within 3 px of the estimated homography"),
    "matching_score": Metric(
        "", True, "share of keypoints matched correctly; superpoint: RANSAC inliers, can exceed 1"
    ),
    "nn_map": Metric("", True, "average precision of matches; superpoint: against their own RANSAC model"),
    **{
        f"h_auc@{t}": Metric("", True, f"area under the recall of corner errors up to {t} px, MAGSAC")
        for t in (1, 3, 5)
    },
    **{
        f"h_auc_dlt@{t}": Metric("", True, f"the same up to {t} px, from all matches without RANSAC") for t in (1, 3, 5)
    },
    "rotation_error": Metric("deg", False, "angle between true and estimated rotation; 180 without an estimate"),
    "translation_error": Metric("deg", False, "angle between true and estimated translation, without its sign"),
    "pose_error": Metric("deg", False, "the larger of both errors; in a run the median over the pairs"),
    **{f"pose_auc@{t}": Metric("", True, f"area under the recall of pose errors up to {t} deg") for t in (5, 10, 20)},
    "pose_maa@10": Metric("", True, "share of pose errors within a threshold, mean over 1, 2 .. 10 deg"),
    **{f"mma@{t}": Metric("", True, f"share of mutual matches within {t} px of the truth") for t in range(1, 16)},
    "miou": Metric("", True, "mean IoU: over the data set, of the classes that occur; segmentation-fork: per image"),
    "n_classes": Metric("classes", None, "number of classes in the mean IoU"),
    "pixel_accuracy": Metric("", True, "share of correct pixels"),
    "mean_accuracy": Metric("", True, "share of correct pixels of a class, mean over the classes of the truth"),
    "registered": Metric("", True, "image registered by COLMAP"),
    "n_observations": Metric("points", True, "keypoints of an image with a point of the model; 0 if not registered"),
    "track_length": Metric("images", True, "mean number of images that see the points of an image"),
    "reprojection_error": Metric("px", None, "mean reprojection error of the points of an image"),
    "camera_centre_error": Metric("mm", False, "distance of the camera centre from the truth, if the data is in m"),
    "camera_rotation_error": Metric("deg", False, "angle between the camera and the truth"),
    **{
        f"localised@{metres:g}m": Metric("", True, f"query within {metres:g} m and {degrees:g} degrees of the truth")
        for metres, degrees in LEVELS
    },
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

POSE_ORDERS = 5  # of PoseLib, whose refinement leaves a quarter of USAC's noise: docs/concepts/protocols.md, section 8
ORDERS = 20  # of the matches; the fixed protocols average RANSAC's results over them (Q5)

_SUPERPOINT = Protocol(
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
        "orders": 1,
        "ap": "two_way",
    },
    metrics=(*_HOMOGRAPHY_METRICS, "nn_map"),
    inlier_mask=INLIER_MASK,
    unscored=True,
)
_KP2D = Protocol(
    name="kp2d",
    version=1,
    size=(240, 320),
    geometry=SQUEEZE,
    scorer=kp2d_score,
    params={
        "k": 300,
        "repeatability_px": 3.0,
        "matching_px": 3.0,
        "correctness_px": (1, 3, 5),
        "ransac": Ransac(threshold=3.0, iterations=5000, confidence=0.995),
        "orders": 1,
    },
    metrics=_HOMOGRAPHY_METRICS,
    inlier_mask=INLIER_MASK,
)
_KP2D_640 = replace(_KP2D.vary(k=1000), name="kp2d-640", size=(480, 640))
_AUC = Protocol(
    name="auc",
    version=1,
    size=(240, 320),
    geometry=TRUE_SQUEEZE,
    scorer=auc_score,
    params={
        "k": 1000,
        "estimators": {"mean_corner_error": "USAC_MAGSAC", "mean_corner_error_dlt": "DLT"},
        "ransac": Ransac(threshold=3.0, iterations=10000, confidence=0.999),
    },
    metrics=("n_keypoints0", "n_keypoints1", "n_matches", "mean_corner_error", "mean_corner_error_dlt"),
    aggregates={
        f"{name}@{px}": Aggregate(of, recall_area(px))
        for name, of in (("h_auc", "mean_corner_error"), ("h_auc_dlt", "mean_corner_error_dlt"))
        for px in (1, 3, 5)
    },
)
_MMA = Protocol(
    name="mma",
    version=1,
    size=None,
    geometry=NATIVE,
    scorer=mma_score,
    params={"k": None, "thresholds_px": tuple(range(1, 16))},
    metrics=("n_keypoints0", "n_keypoints1", "n_matches", *(f"mma@{t}" for t in range(1, 16))),
    without=OVERSIZE,
)

_POSE = Protocol(
    name="pose",
    version=1,
    size=None,
    geometry=NATIVE,
    scorer=pose_score,
    params={
        "k": 2048,
        "estimator": "poselib",
        "ransac": Ransac(threshold=1.0, iterations=10000, confidence=0.9999),
        "orders": POSE_ORDERS,
        "auc_deg": (5, 10, 20),
        "maa_deg": tuple(range(1, 11)),
    },
    metrics=(
        "n_keypoints0",
        "n_keypoints1",
        "n_matches",
        "n_inliers",
        "rotation_error",
        "translation_error",
        "pose_error",
        "pose_auc@5",
        "pose_auc@10",
        "pose_auc@20",
        "pose_maa@10",
    ),
    aggregates={name: Aggregate(name, MEDIAN) for name in ("rotation_error", "translation_error", "pose_error")},
    truth="pose",
)
_SEGMENTATION = Protocol(
    name="segmentation",
    version=1,
    size=(240, 320),
    geometry=AREA_SQUEEZE,
    scorer=segmentation.score,
    params={},
    metrics=(),
    aggregates=segmentation.AGGREGATES,
    truth="classes",
)

PROTOCOLS: dict[str, Protocol] = {
    row.name: row
    for row in (
        _SUPERPOINT,
        replace(
            _SUPERPOINT,
            name="superpoint-fixed",
            geometry=TRUE_CROP,
            scorer=superpoint_true_score,
            params={**_SUPERPOINT.params, "matching_px": 3.0, "orders": ORDERS},
        ),
        _KP2D,
        _KP2D_640,
        replace(_KP2D, name="kp2d-bgr", geometry=SQUEEZE_BGR),
        replace(_KP2D_640, name="kp2d-640-bgr", geometry=SQUEEZE_BGR),
        replace(
            _KP2D.vary(k=1000),
            name="kp2d-tiny",
            version=2,
            geometry=SQUEEZE_BICUBIC,
            above={"kp2d": 0.7},
            aggregates={"repeatability": Aggregate("repeatability", MEAN_ABOVE_0)},
        ),
        replace(_KP2D.vary(orders=ORDERS), name="kp2d-fixed", geometry=TRUE_SQUEEZE),
        replace(_KP2D_640.vary(orders=ORDERS), name="kp2d-640-fixed", geometry=TRUE_SQUEEZE),
        replace(_KP2D.vary(orders=ORDERS), name="kp2d-88-fixed", size=(88, 88), geometry=TRUE_SQUEEZE),
        _MMA,
        _AUC,
        replace(_AUC, name="auc-640", size=(480, 640)),
        _POSE,
        replace(_POSE, name="pose-640", size=(480, 640), geometry=TRUE_SQUEEZE),
        replace(_POSE.vary(estimator="usac", orders=ORDERS), name="pose-usac"),
        _SEGMENTATION,
        replace(
            _SEGMENTATION,
            name="segmentation-fork",
            scorer=segmentation.fork,
            metrics=("miou", "pixel_accuracy", "mean_accuracy"),
            aggregates={},
        ),
    )
}


def aggregate(protocol: str, metric: str) -> Aggregate:
    """Return the aggregation of a metric over the pairs of a run; the mean for protocols that this lf does not know."""
    rows = PROTOCOLS[protocol].aggregates if protocol in PROTOCOLS else {}
    return rows.get(metric, Aggregate(metric, MEAN))
