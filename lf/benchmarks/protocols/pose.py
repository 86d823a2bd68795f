"""Relative pose from matches with PoseLib or OpenCV's USAC, and the errors of an estimate.

Section 8 of docs/concepts/protocols.md.

Matches are (M, 2) px, x then y, pixel centres at integers. A pose takes the first camera to the second,
`x1 = R x0 + t`, with t known up to its length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any, NamedTuple

import cv2
import numpy as np

from lf.benchmarks.protocols.matching import mutual
from lf.benchmarks.protocols.metrics import Ransac
from lf.benchmarks.protocols.protocol import Scores
from lf.core import Array, Features, Unavailable, pick
from lf.core.packages import pip
from lf.data.cameras import RelativePose, direction_angle, rays, rotation_angle

LEAST = 5  # matches that determine an essential matrix
FAILED = 180.0  # degrees, error of a pair without an estimate
CV: Any = cv2  # its type stubs know only some of the forms of recoverPose


class Estimate(NamedTuple):
    """pose: (3, 4) float64 [R | t] with a unit t, or None where none is found. inliers: (M,) bool, all False then."""

    pose: Array | None
    inliers: Array


class Errors(NamedTuple):
    """Errors in degrees: rotation, direction of the translation without its sign, and the larger of both."""

    rotation: float
    translation: float
    pose: float


def poselib(points0: Array, points1: Array, K0: Array, K1: Array, ransac: Ransac) -> Estimate:
    """Five points in LO-RANSAC, then a robust refinement of the pose over all inliers (PoseLib's defaults).

    Raises:
        Unavailable: PoseLib is not installed.
    """
    try:
        import poselib as library
    except ImportError as error:
        raise Unavailable(f"protocol pose needs the package poselib; type: {pip('pose')}") from error
    nothing = Estimate(None, np.zeros(len(points0), bool))
    if len(points0) < LEAST:
        return nothing
    focal = _focal(K0, K1)
    camera = {"model": "SIMPLE_PINHOLE", "width": 1, "height": 1, "params": [focal, 0.0, 0.0]}
    scaled = (rays(points, K) * focal for points, K in ((points0, K0), (points1, K1)))
    settings = {
        "max_epipolar_error": ransac["threshold"],
        "max_iterations": ransac["iterations"],
        "success_prob": ransac["confidence"],
    }
    found, info = library.estimate_relative_pose(*scaled, camera, camera, settings, {})
    inliers = np.array(info["inliers"], dtype=bool)
    pose = np.column_stack([found.R, found.t])
    length = np.linalg.norm(pose[:, 3])
    if np.count_nonzero(inliers) < LEAST or not np.isfinite(pose).all() or not length:
        return nothing
    pose[:, 3] /= length
    return Estimate(pose, inliers)


def usac(points0: Array, points1: Array, K0: Array, K1: Array, ransac: Ransac) -> Estimate:
    """Estimate the essential matrix by OpenCV's MAGSAC, and take the pose with most inliers before both cameras."""
    nothing = Estimate(None, np.zeros(len(points0), bool))
    if len(points0) < LEAST:
        return nothing
    directions = [rays(points, K) for points, K in ((points0, K0), (points1, K1))]
    limit = ransac["threshold"] / _focal(K0, K1)
    essential, mask = CV.findEssentialMat(
        *directions, np.eye(3), cv2.USAC_MAGSAC, ransac["confidence"], limit, ransac["iterations"]
    )
    if essential is None or essential.shape[0] < 3:
        return nothing
    best = max(
        (
            CV.recoverPose(each, *directions, np.eye(3), mask=mask.copy())
            for each in np.split(essential, len(essential) // 3)
        ),
        key=lambda found: found[0],
    )
    _, rotation, translation, front = best
    return Estimate(np.hstack([rotation, translation]), front.ravel() > 0)


ESTIMATORS: dict[str, Callable[[Array, Array, Array, Array, Ransac], Estimate]] = {"poselib": poselib, "usac": usac}


def estimate_in_orders(
    points0: Array, points1: Array, truth: RelativePose, ransac: Ransac, estimator: str, orders: int
) -> list[Estimate]:
    """Estimate from the matches in their order, and from `orders - 1` fixed shuffles of them (Q5)."""
    estimate = pick(ESTIMATORS, estimator, "estimator of poses")
    stored, rng = np.arange(len(points0)), np.random.default_rng(0)
    every = [stored, *(rng.permutation(stored) for _ in range(orders - 1))]
    return [estimate(points0[order], points1[order], truth.K0, truth.K1, ransac) for order in every]


def errors(truth: RelativePose, estimate: Array | None) -> Errors:
    """Return the errors of an estimate (3, 4); FAILED for None. The sign of the translation does not count."""
    if estimate is None:
        return Errors(FAILED, FAILED, FAILED)
    rotation = rotation_angle(truth.rotation, estimate[:, :3])
    angle = direction_angle(truth.translation, estimate[:, 3])
    translation = min(angle, 180 - angle)
    return Errors(rotation, translation, max(rotation, translation))


def area(found: Sequence[float], limit: float) -> float:
    """Return the area under the recall curve up to `limit`, divided by `limit`: the mean of max(0, 1 - e / limit)."""
    return float(np.mean(np.maximum(0, 1 - np.asarray(found) / limit)))


def accuracy(found: Sequence[float], limits: Sequence[float]) -> float:
    """Return mAA: the mean over `limits` of the share of errors up to that limit, degrees."""
    return float(np.mean([np.mean(np.asarray(found) <= limit) for limit in limits]))


def pose_score(
    f0: Features,
    f1: Features,
    truth: RelativePose,
    *,
    k: int | None,
    estimator: str,
    ransac: Ransac,
    orders: int,
    auc_deg: Sequence[float],
    maa_deg: Sequence[float],
) -> Scores:
    """Section 8. `estimator` is a row of ESTIMATORS; errors are medians over the orders of the matches."""
    best0, best1 = f0.top(k), f1.top(k)
    i, j = mutual(best0.descriptors, best1.descriptors, "l2")
    matched = best0.keypoints[i], best1.keypoints[j]
    estimates = estimate_in_orders(*matched, truth, ransac, estimator, orders)
    off = [errors(truth, each.pose) for each in estimates]
    found = [each.pose for each in off]
    return {
        "n_keypoints0": len(f0),
        "n_keypoints1": len(f1),
        "n_matches": len(i),
        "n_inliers": mean(int(np.count_nonzero(each.inliers)) for each in estimates),
        "rotation_error": median(each.rotation for each in off),
        "translation_error": median(each.translation for each in off),
        "pose_error": median(found),
        **{f"pose_auc@{limit:g}": area(found, limit) for limit in auc_deg},
        f"pose_maa@{max(maa_deg):g}": accuracy(found, maa_deg),
    }


def _focal(K0: Array, K1: Array) -> float:
    """Return one focal length for both cameras, px, that converts pixels to angles."""
    return float(np.mean([K[i, i] for K in (K0, K1) for i in (0, 1)]))
