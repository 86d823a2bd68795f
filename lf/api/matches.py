"""Match the features of two images; estimate a homography or a relative pose from the matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lf.benchmarks.protocols.matching import mutual, nearest
from lf.benchmarks.protocols.metrics import Ransac, estimate_homography
from lf.benchmarks.protocols.pose import usac
from lf.core import Array, Features, UsageError


class Homography(NamedTuple):
    """A homography between two images.

    Attributes:
        estimate: (3, 3) float64, pixels of the first image -> pixels of the second, or None if there is none.
        inliers: (M,) bool, one for each match.
    """

    estimate: Array | None
    inliers: Array


class Pose(NamedTuple):
    """The pose of the second camera relative to the first: x1 = R x0 + t, with t known up to its length.

    Attributes:
        estimate: (3, 4) float64, the rotation and the unit translation side by side, or None if there is none.
        inliers: (M,) bool, one for each match: it agrees with the pose and lies in front of both cameras.
    """

    estimate: Array | None
    inliers: Array


@dataclass(frozen=True)
class Matches:
    """Matched keypoints of two images.

    Attributes:
        first: features of the first image.
        second: features of the second image.
        indices: (M, 2) int64, index of a keypoint in `first` and of its match in `second`; ascending in the first.
        scores: (M,) float32, cosine of the two descriptors.
    """

    first: Features
    second: Features
    indices: Array
    scores: Array

    def __len__(self) -> int:
        """Number of matches."""
        return len(self.indices)

    @property
    def points(self) -> tuple[Array, Array]:
        """Matched keypoints (M, 2) float32 of both images, x then y, pixels."""
        return self.first.keypoints[self.indices[:, 0]], self.second.keypoints[self.indices[:, 1]]

    def homography(self, threshold: float = 3.0, method: str = "RANSAC") -> Homography:
        """Estimate the homography from the first image to the second.

        Args:
            threshold: largest residual of an inlier in pixels of the second image.
            method: `RANSAC`, `USAC_MAGSAC` or `DLT` of OpenCV.

        Example:
            >>> import lf, numpy as np
            >>> points = np.array([[0, 0], [90, 0], [90, 60], [0, 60], [40, 30]], np.float32)
            >>> features = lf.Features(points, np.ones(5), np.eye(5), (100, 70))
            >>> lf.match(features, features).homography().inliers.tolist()
            [True, True, True, True, True]
        """
        ransac = Ransac(threshold=_positive(threshold), iterations=10_000, confidence=0.999)
        found = estimate_homography(*self.points, ransac, method)
        return Homography(found.homography, found.inliers)

    def pose(self, K0: Array, K1: Array, threshold: float = 1.0) -> Pose:
        """Estimate the pose of the second camera relative to the first, from the essential matrix (MAGSAC of OpenCV).

        Args:
            K0: (3, 3) intrinsic matrix of the first camera, pixels.
            K1: (3, 3) intrinsic matrix of the second camera, pixels.
            threshold: largest epipolar residual of an inlier, pixels.

        Raises:
            UsageError: a matrix is not an intrinsic matrix.
        """
        first, second = (_intrinsics(K, name) for K, name in ((K0, "K0"), (K1, "K1")))
        ransac = Ransac(threshold=_positive(threshold), iterations=10_000, confidence=0.999)
        return Pose(*usac(*self.points, first, second, ransac))


def match(first: Features, second: Features, mutual_only: bool = True) -> Matches:
    """Match two images by the nearest descriptors.

    Args:
        first: features of the first image.
        second: features of the second image; its descriptors must have the same length.
        mutual_only: keep only pairs that are each other's nearest neighbour, as all protocols of `lf` do. False keeps
            the nearest neighbour of every keypoint of the first image.

    Returns:
        Matches, in the order of the keypoints of the first image.

    Raises:
        UsageError: the descriptors have different lengths.

    Example:
        >>> import lf, numpy as np
        >>> a = lf.Features(np.zeros((2, 2)), np.ones(2), np.eye(2), (64, 48))
        >>> b = lf.Features(np.zeros((2, 2)), np.ones(2), np.eye(2)[::-1], (64, 48))
        >>> lf.match(a, b).indices.tolist()
        [[0, 1], [1, 0]]
    """
    lengths = first.descriptors.shape[1], second.descriptors.shape[1]
    if lengths[0] != lengths[1]:
        raise UsageError(
            f"descriptors have lengths {lengths[0]} and {lengths[1]}; extract both images with the same network"
        )
    if mutual_only:
        i, j = mutual(first.descriptors, second.descriptors, "dot")
    else:
        j, _ = nearest(first.descriptors, second.descriptors, "dot")
        i = np.flatnonzero(j >= 0)
        j = j[i]
    scores = np.einsum("nd,nd->n", first.descriptors[i], second.descriptors[j])
    return Matches(first, second, np.stack([i, j], 1).astype(np.int64), scores.astype(np.float32))


def _positive(threshold: float) -> float:
    if not 0 < threshold < np.inf:
        raise UsageError(f"threshold {threshold}: expected a positive number of pixels, for example 3.0")
    return float(threshold)


def _intrinsics(K: Array, name: str) -> Array:
    K = np.asarray(K, np.float64)
    if (
        K.shape != (3, 3)
        or not np.isfinite(K).all()
        or K[0, 0] <= 0
        or K[1, 1] <= 0
        or abs(K[2] - [0, 0, 1]).max() > 1e-9
    ):
        raise UsageError(f"{name}: expected a (3, 3) intrinsic matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels")
    return K
