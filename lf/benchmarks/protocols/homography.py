"""Metrics of pairs with a homography; section and Q numbers: docs/concepts/protocols.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np

from lf.benchmarks.protocols import metrics
from lf.benchmarks.protocols.matching import mutual, nearest
from lf.benchmarks.protocols.protocol import Scores
from lf.core import Array, Features


def _in_both_views(f0: Features, f1: Features, homography: Array, k: int | None) -> tuple[Array, Array]:
    """Return indices of the `k` best points of each image that are visible in the other, in ascending score order."""
    seen0, seen1 = metrics.shared_view(f0.keypoints, f1.keypoints, homography, f0.size)
    return metrics.best(f0.scores, k, seen0), metrics.best(f1.scores, k, seen1)


def _homography_scores(
    f0: Features,
    f1: Features,
    homography: Array,
    top: tuple[Array, Array],
    estimates: Sequence[metrics.Estimate],
    repeatability_px: float,
    correctness_px: Sequence[float],
) -> Scores:
    """Compute the metrics that sections 1 and 2 share."""
    points = f0.keypoints[top[0]], f1.keypoints[top[1]]
    repeatability, localization = metrics.repeatability(*points, homography, repeatability_px)
    errors = [metrics.corner_error(homography, estimate.homography, f0.size) for estimate in estimates]
    right = [metrics.correctness(error, correctness_px) for error in errors]
    defined = [error for error in errors if error is not None]
    return {
        "repeatability": repeatability,
        "localization_error": localization,
        "n_keypoints0": len(f0),
        "n_keypoints1": len(f1),
        "n_matches": len(estimates[0].inliers),
        "mean_corner_error": mean(defined) if defined else None,
        **{name: mean(each[name] for each in right) for name in right[0]},
        "n_inliers": mean(int(np.count_nonzero(estimate.inliers)) for estimate in estimates),
    }


def superpoint_score(
    f0: Features,
    f1: Features,
    homography: Array,
    *,
    k: int | None,
    repeatability_px: float,
    correctness_px: Sequence[float],
    ransac: metrics.Ransac,
    orders: int,
    ap: str,
) -> Scores:
    """Section 1. All points are matched, in stored order; `k` limits repeatability only."""
    top = _in_both_views(f0, f1, homography, k)
    i, j = mutual(f0.descriptors, f1.descriptors, "l2")
    estimates = metrics.estimate_in_orders(f0.keypoints[i], f1.keypoints[j], ransac, orders)
    inliers = int(np.count_nonzero(estimates[0].inliers))
    a, b, length = metrics.ap_matches(f0, f1, ap)
    agreeing = metrics.estimate_homography(f0.keypoints[a], f1.keypoints[b], ransac).inliers  # Q3
    return {
        **_homography_scores(f0, f1, homography, top, estimates, repeatability_px, correctness_px),
        "matching_score": metrics.swapped_matching_score(inliers, len(f0), f1.keypoints, homography, f0.size),
        "nn_map": metrics.average_precision(agreeing, -length),
    }


def superpoint_true_score(
    f0: Features,
    f1: Features,
    homography: Array,
    *,
    k: int | None,
    repeatability_px: float,
    matching_px: float,
    correctness_px: Sequence[float],
    ransac: metrics.Ransac,
    orders: int,
    ap: str,
) -> Scores:
    """Section 6: section 1, but a match is correct if it is within `matching_px` of the true homography."""
    top = _in_both_views(f0, f1, homography, k)
    i, j = mutual(f0.descriptors, f1.descriptors, "l2")
    matched = f0.keypoints[i], f1.keypoints[j]
    right = metrics.match_errors(*matched, homography) <= matching_px
    seen = metrics.shared_view(f0.keypoints, f1.keypoints, homography, f0.size)
    a, b, length = metrics.ap_matches(f0, f1, ap)
    ranked = metrics.match_errors(f0.keypoints[a], f1.keypoints[b], homography) <= matching_px
    estimates = metrics.estimate_in_orders(*matched, ransac, orders)
    return {
        **_homography_scores(f0, f1, homography, top, estimates, repeatability_px, correctness_px),
        "matching_score": metrics.shared_matching_score(right, (i, j), *seen),
        "nn_map": metrics.average_precision(ranked, -length),
    }


def kp2d_score(
    f0: Features,
    f1: Features,
    homography: Array,
    *,
    k: int | None,
    repeatability_px: float,
    matching_px: float,
    correctness_px: Sequence[float],
    ransac: metrics.Ransac,
    orders: int,
) -> Scores:
    """Section 2. The `k` best points are chosen after the view filter; for the matching score, without it."""
    top0, top1 = top = _in_both_views(f0, f1, homography, k)
    i, j = mutual(f0.descriptors[top0], f1.descriptors[top1], "l2")
    estimates = metrics.estimate_in_orders(f0.keypoints[top0[i]], f1.keypoints[top1[j]], ransac, orders)
    best0, best1 = f0.top(k), f1.top(k)
    neighbours = nearest(best0.descriptors, best1.descriptors, "l2")
    return {
        **_homography_scores(f0, f1, homography, top, estimates, repeatability_px, correctness_px),
        "matching_score": metrics.one_way_matching_score(
            best0.keypoints, best1.keypoints, neighbours, homography, f0.size, matching_px
        ),
    }


def auc_score(
    f0: Features,
    f1: Features,
    homography: Array,
    *,
    k: int | None,
    estimators: Mapping[str, str],
    ransac: metrics.Ransac,
) -> Scores:
    """Section 7. `estimators`: metric -> row of METHODS; each is the corner error of one estimate."""
    best0, best1 = f0.top(k), f1.top(k)
    i, j = mutual(best0.descriptors, best1.descriptors, "l2")
    matched = best0.keypoints[i], best1.keypoints[j]
    estimates = {name: metrics.estimate_homography(*matched, ransac, how) for name, how in estimators.items()}
    return {
        "n_keypoints0": len(f0),
        "n_keypoints1": len(f1),
        "n_matches": len(i),
        **{name: metrics.corner_error(homography, found.homography, f0.size) for name, found in estimates.items()},
    }


def mma_score(
    f0: Features, f1: Features, homography: Array, *, k: int | None, thresholds_px: Sequence[float]
) -> Scores:
    """Section 3."""
    f0, f1 = f0.top(k), f1.top(k)
    i, j = mutual(f0.descriptors, f1.descriptors, "dot")
    return {
        "n_keypoints0": len(f0),
        "n_keypoints1": len(f1),
        "n_matches": len(i),
        **metrics.mma(f0.keypoints[i], f1.keypoints[j], homography, thresholds_px),
    }
