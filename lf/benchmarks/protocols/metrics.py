"""Formulas of the metrics. Section and Q numbers: docs/concepts/protocols.md.

Points are (N, 2), x then y, pixels, pixel centres at integers; sizes are (width, height); homographies are (3, 3),
first image -> second image, of any scale. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

import cv2
import numpy as np

from lf.benchmarks.protocols.matching import Metric, mutual
from lf.core import Array, Features, pick
from lf.data.homography import warp_points

BLOCK = 1 << 17  # distances in memory: 1 MiB, which fits the cache of a core

INLIER_MASK = "opencv>=4.12"  # Q4: residual under the refined homography, not under the best minimal sample


METHODS = {"RANSAC": cv2.RANSAC, "USAC_MAGSAC": cv2.USAC_MAGSAC, "DLT": 0}  # of cv2.findHomography


class Ransac(TypedDict):
    """Settings of `cv2.findHomography`; a dict, so that results name them. threshold: px, inclusive."""

    threshold: float
    iterations: int
    confidence: float


class Estimate(NamedTuple):
    """homography: (3, 3) float64, or None where none is found. inliers: (M,) bool, all False then."""

    homography: Array | None
    inliers: Array


def distances(points0: Array, points1: Array) -> Array:
    """(N,) Euclidean distances between corresponding (N, 2) points; nan where a point is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.subtract(points0, points1, dtype=np.float64)
        return np.asarray(np.hypot(difference[:, 0], difference[:, 1]))


def in_view(points: Array, size: tuple[int, int]) -> Array:
    """(N,) bool: 0 <= x < W and 0 <= y < H, strict at the far side (section 0)."""
    return np.asarray(((points >= 0) & (points < np.asarray(size))).all(axis=1))


def inside(points: Array, size: tuple[int, int]) -> Array:
    """(N,) bool: 0 <= x <= W-1 and 0 <= y <= H-1, inclusive (the matching scores of sections 1 and 2)."""
    return np.asarray(((points >= 0) & (points <= np.asarray(size) - 1)).all(axis=1))


def shared_view(points0: Array, points1: Array, homography: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Return masks (N0,) and (N1,) of points that project into the other image, both of `size` (sections 1 and 2)."""
    inverse = np.linalg.inv(homography)
    return in_view(warp_points(points0, homography), size), in_view(warp_points(points1, inverse), size)


def best(scores: Array, k: int | None, among: Array) -> Array:
    """Return indices of the `k` best of (N,) scores in ASCENDING score order, the order for RANSAC (section 0).

    Ties go to the lower index, as in `Features.top`. `among`: (N,) bool, candidates. k None: all.
    """
    candidates = np.flatnonzero(among)
    order = np.argsort(-scores[candidates], kind="stable")[:k]
    return candidates[order[::-1]]


def nearest_distances(points0: Array, points1: Array) -> tuple[Array, Array]:
    """(N0,) and (N1,) distances in px to the nearest point of the other set; inf where that set is empty.

    It squares differences, because |a|^2 + |b|^2 - 2ab is wrong by 5e-6 px near zero, more than parity allows.
    """
    forward, backward = np.full(len(points0), np.inf), np.full(len(points1), np.inf)
    if len(points0) and len(points1):
        x, y = np.asarray(points1, dtype=np.float64).T.copy()
        rows = max(1, BLOCK // len(x))
        for start in range(0, len(points0), rows):
            block = points0[start : start + rows]
            square = (x - block[:, :1]) ** 2
            square += (y - block[:, 1:]) ** 2
            forward[start : start + rows] = square.min(axis=1)
            np.minimum(backward, square.min(axis=0), out=backward)
    return np.sqrt(forward), np.sqrt(backward)


def repeatability(points0: Array, points1: Array, homography: Array, threshold: float) -> tuple[float, float | None]:
    """Repeatability and localization error of points that are in view of both images (section 1).

    Args:
        points0: (N0, 2) points of the first image.
        points1: (N1, 2) points of the second image.
        homography: (3, 3).
        threshold: px in the second image, inclusive; nearest in each direction, not one-to-one.

    Returns:
        (c1 + c2) / (N1 + N2), 0 without points; mean distance of those c1 + c2 in px of the second image, None if 0.
    """
    nearby = np.concatenate(nearest_distances(warp_points(points0, homography), points1))
    repeated = nearby[nearby <= threshold]
    return (len(repeated) / len(nearby), float(repeated.mean())) if len(repeated) else (0.0, None)


def estimate_homography(points0: Array, points1: Array, ransac: Ransac, method: str = "RANSAC") -> Estimate:
    """Estimate the homography of (M, 2) matches by a row of METHODS; except for DLT it depends on their order (Q5).

    Inliers have residuals <= threshold under the returned homography. OpenCV >= 4.12 returns this mask, older versions
    return the mask of the best minimal sample (Q4). It is computed here, so that all versions agree.
    """
    nothing = Estimate(None, np.zeros(len(points0), dtype=bool))
    if len(points0) < 4:
        return nothing
    source, target = np.asarray(points0, dtype=np.float32), np.asarray(points1, dtype=np.float32)
    found, _ = cv2.findHomography(
        source,
        target,
        METHODS[method],
        ransac["threshold"],
        maxIters=ransac["iterations"],
        confidence=ransac["confidence"],
    )
    if found is None:
        return nothing
    return Estimate(found, match_errors(source, target, found) <= ransac["threshold"])


def estimate_in_orders(points0: Array, points1: Array, ransac: Ransac, orders: int) -> list[Estimate]:
    """Run `estimate_homography` on the matches in their order, and on `orders - 1` fixed shuffles of them.

    RANSAC's result depends on the order (Q5).
    """
    stored, rng = np.arange(len(points0)), np.random.default_rng(0)
    every = [stored, *(rng.permutation(stored) for _ in range(orders - 1))]
    return [estimate_homography(points0[order], points1[order], ransac) for order in every]


def corner_error(true: Array, estimated: Array | None, size: tuple[int, int]) -> float | None:
    """Return the mean distance in px between the corners (0, 0) .. (W-1, H-1) mapped by both; None if undefined."""
    if estimated is None:
        return None
    right, bottom = size[0] - 1, size[1] - 1
    corners = np.array([[0, 0], [0, bottom], [right, 0], [right, bottom]])
    error = float(distances(warp_points(corners, true), warp_points(corners, estimated)).mean())
    return error if np.isfinite(error) else None


def correctness(error: float | None, thresholds: Sequence[float]) -> dict[str, float]:
    """`correctness@t` = mean corner error <= t px (inclusive); an undefined error is not correct (section 4)."""
    return {f"correctness@{t:g}": float(error is not None and error <= t) for t in thresholds}


def swapped_matching_score(inliers: int, n0: int, points1: Array, homography: Array, size: tuple[int, int]) -> float:
    """`superpoint` matching score 2 * inliers / (n0 + m1); can exceed 1 (section 1).

    m1 counts points of the second image inside the first. As published, truncated (y, x) are used with a homography and
    a size for (x, y) (Q2).
    """
    rows_columns = np.trunc(points1)[:, ::-1]
    visible = int(np.count_nonzero(inside(warp_points(rows_columns, np.linalg.inv(homography)), size)))
    return 2 * inliers / (n0 + visible) if inliers else 0.0


def shared_matching_score(correct: Array, matches: tuple[Array, Array], seen0: Array, seen1: Array) -> float:
    """Matching score without Q1 to Q3: the share of points visible in both views that are matched correctly, in [0, 1].

    Args:
        correct: (M,) bool.
        matches: (M,) and (M,) one-to-one indices of points.
        seen0: (N0,) bool, points of the first image that project into the second.
        seen1: (N1,) bool, points of the second image that project into the first.
    """
    hits = np.count_nonzero(correct & seen0[matches[0]] & seen1[matches[1]])
    return 2 * hits / max(int(np.count_nonzero(seen0)) + int(np.count_nonzero(seen1)), 1)


def one_way_matching_score(
    points0: Array,
    points1: Array,
    neighbours: tuple[Array, Array],
    homography: Array,
    size: tuple[int, int],
    threshold: float,
) -> float:
    """`kp2d` matching score: mean of both directions' share of correct among visible matches (section 2).

    Args:
        points0: (N0, 2) points of the first image.
        points1: (N1, 2) points of the second image.
        neighbours: (N0,) and (N1,) nearest descriptor in the other image, without cross-check, as of `nearest`.
        homography: (3, 3).
        size: (W, H) of both images; a match is visible if its neighbour projects into the image.
        threshold: px in the image of the query point, strict.
    """
    if not len(points0) or not len(points1):
        return 0.0
    forward, backward = neighbours
    shares = []
    for asking, answer, back in (
        (points0, points1[forward], np.linalg.inv(homography)),
        (points1, points0[backward], homography),
    ):
        projected = warp_points(answer, back)
        visible = inside(projected, size)
        correct = visible & (distances(projected, asking) < threshold)
        shares.append(int(np.count_nonzero(correct)) / max(int(np.count_nonzero(visible)), 1))
    return sum(shares) / 2


def average_precision(correct: Array, confidence: Array) -> float:
    """Sum over descending confidence of recall step x precision, equal confidences as one step (section 1).

    Args:
        correct: (M,) bool.
        confidence: (M,) float, higher is surer.

    Returns:
        scikit-learn's `average_precision_score`; 0 without a correct match.
    """
    if not np.any(correct):
        return 0.0
    order = np.argsort(-confidence, kind="stable")
    step: Array = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    hits: Array = np.cumsum(correct[order])[step]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / (step + 1)).sum() / hits[-1])


def _chord(desc0: Array, desc1: Array) -> Array:
    """Return the distance on the unit sphere. Float16 descriptors are not exactly unit, so |a - b| differs."""
    return np.asarray(np.sqrt(2 - 2 * np.clip(np.einsum("md,md->m", desc0, desc1, dtype=np.float64), -1, 1)))


def _euclidean(desc0: Array, desc1: Array) -> Array:
    return np.asarray(np.linalg.norm(np.subtract(desc0, desc1, dtype=np.float64), axis=1))


AP_MATCHES: dict[str, tuple[Metric, Callable[[Array, Array], Array], float]] = {
    "two_way": ("dot", _chord, 1.2),  # section 1, learned features: matches nearer than this
    "crosscheck": ("l2", _euclidean, np.inf),  # section 1, the SIFT flag
}


def ap_matches(f0: Features, f1: Features, ap: str) -> tuple[Array, Array, Array]:
    """Return indices i (M,), j (M,) and distances (M,) of the mutual matches of `ap`, a row of AP_MATCHES."""
    metric, distance, limit = pick(AP_MATCHES, ap, "ap")
    i, j = mutual(f0.descriptors, f1.descriptors, metric)
    length = distance(f0.descriptors[i], f1.descriptors[j])
    kept = length < limit
    return i[kept], j[kept], length[kept]


def match_errors(points0: Array, points1: Array, homography: Array) -> Array:
    """Return the errors (M,) |p1 - H p0| of matches (M, 2), px of the second image."""
    return distances(warp_points(points0, homography), points1)


def mma(points0: Array, points1: Array, homography: Array, thresholds: Sequence[float]) -> dict[str, float]:
    """`mma@t` = share of (M, 2) matches with |p1 - H p0| <= t px, inclusive; no view mask; 0 of 0 is 0 (section 3)."""
    error = match_errors(points0, points1, homography)
    return {f"mma@{t:g}": float(np.count_nonzero(error <= t) / max(len(error), 1)) for t in thresholds}
