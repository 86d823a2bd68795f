"""What a protocol is: a geometry, a score of one pair of images, and what becomes of the scores of all pairs.

Section and Q numbers: docs/protocols.md. The rows themselves are in `lf.benchmarks`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any

import numpy as np

from lf.benchmarks.protocols import metrics
from lf.benchmarks.protocols.geometry import Geometry, Size, image_size
from lf.benchmarks.protocols.matching import mutual, nearest
from lf.benchmarks.protocols.summary import Aggregate
from lf.core import Array, Features, LfError, UsageError, pick
from lf.data import TRUTHS, Pair
from lf.data.cameras import RelativePose

FORMULAS = 1  # raised when code that protocols share changes their values; `Protocol.version`, when its own does

Scale = tuple[float, float]  # (x, y) prepared pixels per native pixel
Scores = dict[str, float | None]
Truth = Array | RelativePose  # homography (3, 3) or pose, first image -> second


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol: every value it yields is a function of this row and the features.

    Attributes:
        name: its key in PROTOCOLS.
        version: raised when a change of code changes a value.
        size: (H, W) of the prepared images, or None for native size.
        geometry: how images and homographies get to that size.
        scorer: (Features, Features, truth, **params) -> Scores; of labelled images see `lf.benchmarks.run.segment`.
        params: k, thresholds (px) and RANSAC settings; keyword arguments of `scorer`.
        metrics: names that `score` returns, in order; rows of METRICS.
        aggregates: numbers of a run that are no mean of a metric, or of fewer pairs; rows of METRICS.
        inlier_mask: family of OpenCV's RANSAC inlier mask behind inlier counts, or None if it has none (Q4).
        without: sequences that it leaves out.
        unscored: whether it takes all points where they have no scores, whatever its `k`; the others need `k` best.
        above: family of a network in `lf.models` -> the score that its points must exceed, where the protocol has a
            threshold of its own beside the model's.
        truth: what a pair must have: a key of TRUTHS.
    """

    name: str
    version: int
    size: Size | None
    geometry: Geometry
    scorer: Callable[..., Scores]
    params: Mapping[str, Any]
    metrics: tuple[str, ...]
    aggregates: Mapping[str, Aggregate] = field(default_factory=dict)
    inlier_mask: str | None = None
    without: tuple[str, ...] = ()
    unscored: bool = False
    above: Mapping[str, float] = field(default_factory=dict)
    truth: str = "homography"

    def check(self, pairs: Sequence[Pair], dataset: str) -> None:
        """Raise UsageError if pairs have another truth than this protocol scores against."""
        if other := next((pair.kind for pair in pairs if pair.kind != self.truth), None):
            (needs, fits), (has, _) = TRUTHS[self.truth], TRUTHS[other]
            raise UsageError(f"protocol {self.name} needs {needs}, {dataset} has {has}; {fits}")

    def prepare(self, image: Array, channels: int) -> tuple[Array, Scale]:
        """Bring uint8 (H, W, 3) RGB to the protocol's size: uint8 (h, w) grey for 1 channel, (h, w, 3) for 3."""
        matrix = self.matrix(image_size(image))
        prepared = self.geometry.prepare(image, channels, self.size or image_size(image))
        return prepared, (float(matrix[0, 0]), float(matrix[1, 1]))

    def matrix(self, native: Size) -> Array:
        """(3, 3): where this protocol takes the pixels of an image of (H, W) `native` to be after `prepare`."""
        return self.geometry.matrix(native, self.size or native)

    def kept(self, native: Size) -> Size:
        """Rows and columns, from the top left, that this protocol keeps of an image of (H, W) `native`."""
        return self.geometry.kept(native, self.size or native)

    def homography(self, native: Array, size0: Size, size1: Size) -> Array:
        """(3, 3) between the prepared images, from the (3, 3) between the native ones and their (H, W)."""
        return self.geometry.homography(np.asarray(native, dtype=np.float64), size0, size1, self.size or size0)

    def between(self, pair: Pair, size0: Size, size1: Size) -> Truth:
        """The truth between the prepared images of a pair, from the (H, W) of the native ones.

        Raises:
            UsageError: see `check`.
        """
        self.check([pair], f"{pair.sequence} {pair.name}")
        if isinstance(pair.truth, RelativePose):
            return pair.truth.moved(self.matrix(size0), self.matrix(size1))
        return self.homography(pair.truth, size0, size1)

    def score(self, features0: Features, features1: Features, truth: Truth) -> Scores:
        """Score one pair; None is undefined. Few, no or degenerate points are a result, not an error (section 4).

        Args:
            features0: of the first image, pixels of the prepared image.
            features1: of the second image, likewise.
            truth: between the prepared images: a homography (3, 3) that is invertible, or a relative pose.

        Raises:
            LfError: the features are not of prepared images, or the truth is of the other kind.
        """
        if isinstance(truth, RelativePose) != (self.truth == "pose"):
            raise LfError(f"protocol {self.name} scores against {TRUTHS[self.truth][0]}, got {type(truth).__name__}")
        for features in (features0, features1):
            if self.size and features.size[::-1] != self.size:
                raise LfError(f"protocol {self.name} scores (H, W) {self.size}, got features of {features.size[::-1]}")
        known = truth if isinstance(truth, RelativePose) else np.asarray(truth, dtype=np.float64)
        return self.scorer(features0, features1, known, **self.params)

    def vary(self, **params: Any) -> Protocol:
        """The same protocol with other parameters; its digest tells it from the published one.

        Raises:
            UsageError: it has no such parameter.
        """
        for name in params:
            pick(self.params, name, f"parameter of protocol {self.name}")
        return replace(self, params={**self.params, **params})

    def describe(self) -> dict[str, Any]:
        """What a result has to say about how it was scored; JSON."""
        names = ("name", "version", "size", "params", "metrics", "inlier_mask", "without")
        return {
            **{name: getattr(self, name) for name in names},
            "geometry": self.geometry.name,
            "formulas": FORMULAS,
            "aggregates": {name: [of, statistic.about] for name, (of, statistic) in self.aggregates.items()},
            **({"above": self.above} if self.above else {}),  # the digests of the others stay
            **({"truth": self.truth} if self.truth != "homography" else {}),
        }

    @property
    def digest(self) -> str:
        """12 hex digits over `describe`: equal digests, comparable values."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:12]


def _in_both_views(f0: Features, f1: Features, homography: Array, k: int | None) -> tuple[Array, Array]:
    """Indices of the `k` best points of each image that the other sees too, in ascending score order."""
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
    """What sections 1 and 2 define alike, from the points that count for repeatability and one estimate per order."""
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
    """Section 6: section 1 with the truth as judge. A match is right within `matching_px` of the true homography."""
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
    """Section 2. `k` is taken after the view filter, but for the matching score without it."""
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
