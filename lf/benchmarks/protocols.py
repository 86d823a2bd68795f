"""What a protocol is made of: its geometry (image and homography) and its score of one pair of images.

Section and Q numbers: HPatches evaluation protocols, see README. The rows themselves are in `lf.benchmarks`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np

from lf.benchmarks import metrics
from lf.benchmarks.matching import mutual, nearest
from lf.core import Array, Features, LfError, pick

Size = tuple[int, int]  # (H, W), pixels, as of an image array; Features.size is (W, H)
Scale = tuple[float, float]  # (x, y) prepared pixels per native pixel
Scores = dict[str, float | None]


class Geometry(NamedTuple):
    """What is done to images, and to the homography between them.

    Attributes:
        prepare: (image uint8 (H, W, 3) RGB, channels 1 or 3, size) -> (uint8 (h, w) grey or (h, w, 3) RGB, Scale).
        homography: (H native, native size of image 0, of image 1, size) -> H between the prepared images.
    """

    prepare: Callable[[Array, int, Size], tuple[Array, Scale]]
    homography: Callable[[Array, Size, Size, Size], Array]


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol: every value it yields is a function of this row and the features.

    Attributes:
        name: its key in PROTOCOLS.
        version: raised when a change of code changes a value.
        size: (H, W) of the prepared images, or None for native size.
        geometry: how images and homographies get to that size.
        scorer: (Features, Features, H, **params) -> Scores.
        params: k, thresholds (px) and RANSAC settings; keyword arguments of `scorer`.
        metrics: names that `score` returns, in order; rows of METRICS.
        inlier_mask: family of OpenCV's RANSAC inlier mask behind inlier counts, or None if it has none (Q4).
        without: sequences that it leaves out.
    """

    name: str
    version: int
    size: Size | None
    geometry: Geometry
    scorer: Callable[..., Scores]
    params: Mapping[str, Any]
    metrics: tuple[str, ...]
    inlier_mask: str | None = None
    without: tuple[str, ...] = ()

    def prepare(self, image: Array, channels: int) -> tuple[Array, Scale]:
        """Bring uint8 (H, W, 3) RGB to the protocol's size: uint8 (h, w) grey for 1 channel, (h, w, 3) RGB for 3."""
        return self.geometry.prepare(image, channels, self.size or _size(image))

    def homography(self, native: Array, size0: Size, size1: Size) -> Array:
        """(3, 3) between the prepared images, from the (3, 3) between the native ones and their (H, W)."""
        return self.geometry.homography(np.asarray(native, dtype=np.float64), size0, size1, self.size or size0)

    def score(self, features0: Features, features1: Features, homography: Array) -> Scores:
        """Score one pair; None is undefined. Few, no or degenerate points are a result, not an error (section 4).

        Args:
            features0: of the first image, pixels of the prepared image.
            features1: of the second image, likewise.
            homography: (3, 3) first -> second prepared image, invertible.

        Raises:
            LfError: the features are not of prepared images.
        """
        for features in (features0, features1):
            if self.size and features.size[::-1] != self.size:
                raise LfError(f"protocol {self.name} scores (H, W) {self.size}, got features of {features.size[::-1]}")
        return self.scorer(features0, features1, np.asarray(homography, dtype=np.float64), **self.params)

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
        return {name: getattr(self, name) for name in names}

    @property
    def digest(self) -> str:
        """12 hex digits over `describe`: equal digests, comparable values."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:12]


def _size(image: Array) -> Size:
    return image.shape[0], image.shape[1]


def _grey(image: Array, channels: int) -> Array:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) if channels == 1 else image


def _diagonal(scale: Scale) -> Array:
    return np.diag((*scale, 1.0))


def _cover(native: Size, size: Size) -> float:
    """The scale at which an image just covers `size`."""
    return max(size[0] / native[0], size[1] / native[1])


def _crop_prepare(image: Array, channels: int, size: Size) -> tuple[Array, Scale]:
    if channels == 1:  # section 1: BGR read, weighted as if RGB; published numbers have red and blue swapped
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    scale = _cover(_size(image), size)
    top_left = image[: int(size[0] / scale), : int(size[1] / scale)]
    return np.asarray(cv2.resize(top_left, size[::-1], interpolation=cv2.INTER_AREA)), (scale, scale)


def _crop_homography(native: Array, size0: Size, size1: Size, size: Size) -> Array:
    scale = _cover(size0, size)  # Q1: of image 1 for both images, wrong where their sizes differ
    matrix = _diagonal((scale, scale))
    return np.asarray(matrix @ native @ np.linalg.inv(matrix))


def _squeeze_scale(native: Size, size: Size) -> Scale:
    return size[1] / native[1], size[0] / native[0]


def _squeeze_prepare(image: Array, channels: int, size: Size) -> tuple[Array, Scale]:
    small = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR))
    return _grey(small, channels), _squeeze_scale(_size(image), size)


def _squeeze_homography(native: Array, size0: Size, size1: Size, size: Size) -> Array:
    first, second = (_diagonal(_squeeze_scale(native_size, size)) for native_size in (size0, size1))
    return np.asarray(second @ native @ np.linalg.inv(first))


def _native_prepare(image: Array, channels: int, size: Size) -> tuple[Array, Scale]:
    return _grey(image, channels), (1.0, 1.0)


def _native_homography(native: Array, size0: Size, size1: Size, size: Size) -> Array:
    return native


CROP = Geometry(_crop_prepare, _crop_homography)  # section 1
SQUEEZE = Geometry(_squeeze_prepare, _squeeze_homography)  # section 2
NATIVE = Geometry(_native_prepare, _native_homography)  # section 3


def _in_both_views(f0: Features, f1: Features, homography: Array, k: int | None) -> tuple[Array, Array]:
    """Indices of the `k` best points of each image that the other sees too, in ascending score order."""
    seen0, seen1 = metrics.shared_view(f0.keypoints, f1.keypoints, homography, f0.size)
    return metrics.best(f0.scores, k, seen0), metrics.best(f1.scores, k, seen1)


def _homography_scores(
    f0: Features,
    f1: Features,
    homography: Array,
    top: tuple[Array, Array],
    estimate: metrics.Estimate,
    repeatability_px: float,
    correctness_px: Sequence[float],
) -> Scores:
    """What sections 1 and 2 define alike, given the points that count for repeatability and the estimate."""
    points = f0.keypoints[top[0]], f1.keypoints[top[1]]
    repeatability, localization = metrics.repeatability(*points, homography, repeatability_px)
    error = metrics.corner_error(homography, estimate.homography, f0.size)
    return {
        "repeatability": repeatability,
        "localization_error": localization,
        "n_keypoints0": len(f0),
        "n_keypoints1": len(f1),
        "n_matches": len(estimate.inliers),
        "mean_corner_error": error,
        **metrics.correctness(error, correctness_px),
        "n_inliers": int(np.count_nonzero(estimate.inliers)),
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
    ap: str,
) -> Scores:
    """Section 1. All points are matched, in stored order; `k` limits repeatability only."""
    top = _in_both_views(f0, f1, homography, k)
    i, j = mutual(f0.descriptors, f1.descriptors, "l2")
    estimate = metrics.estimate_homography(f0.keypoints[i], f1.keypoints[j], ransac)
    inliers = int(np.count_nonzero(estimate.inliers))
    return {
        **_homography_scores(f0, f1, homography, top, estimate, repeatability_px, correctness_px),
        "matching_score": metrics.swapped_matching_score(inliers, len(f0), f1.keypoints, homography, f0.size),
        "nn_map": metrics.nn_map(f0, f1, ransac, ap),
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
) -> Scores:
    """Section 2. `k` is taken after the view filter, but for the matching score without it."""
    top0, top1 = top = _in_both_views(f0, f1, homography, k)
    i, j = mutual(f0.descriptors[top0], f1.descriptors[top1], "l2")
    estimate = metrics.estimate_homography(f0.keypoints[top0[i]], f1.keypoints[top1[j]], ransac)
    best0, best1 = f0.top(k), f1.top(k)
    neighbours = nearest(best0.descriptors, best1.descriptors, "l2")
    return {
        **_homography_scores(f0, f1, homography, top, estimate, repeatability_px, correctness_px),
        "matching_score": metrics.one_way_matching_score(
            best0.keypoints, best1.keypoints, neighbours, homography, f0.size, matching_px
        ),
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
