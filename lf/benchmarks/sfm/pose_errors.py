"""Errors of camera poses after a similarity alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from lf.core import Array
from lf.data.cameras import rotation_angle

LEAST = 3  # least number of cameras for a similarity
TRIPLES = 500  # largest number of camera triples to try
GROSS = 10  # standard deviations; cameras with larger errors are excluded from the alignment
SPREAD = 1.4826  # ratio of the standard deviation of a normal distribution to its median absolute value


class PoseError(NamedTuple):
    """centre: distance of the camera centres, in the unit of the truth. rotation: angle, degrees."""

    centre: float
    rotation: float


class Similarity(NamedTuple):
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: Array
    translation: Array

    def points(self, points: Array) -> Array:
        """Map points (N, 3) to the other world."""
        return np.asarray(self.scale * points @ self.rotation.T + self.translation)

    def pose(self, pose: Array) -> Array:
        """Convert a pose (3, 4), world to camera, to the other world; camera coordinates are scaled, too."""
        rotation = pose[:, :3] @ self.rotation.T
        centre = self.points(centre_of(pose)[None])[0]
        return np.column_stack([rotation, -rotation @ centre])


def centre_of(pose: Array) -> Array:
    """Return the camera centre (3,) of a pose (3, 4), world to camera."""
    return np.asarray(-pose[:, :3].T @ pose[:, 3])


def pose_error(found: Array, truth: Array) -> PoseError:
    """Return the error of a pose (3, 4), world to camera."""
    apart = float(np.linalg.norm(centre_of(found) - centre_of(truth)))
    return PoseError(apart, rotation_angle(found[:, :3], truth[:, :3]))


def aligned_errors(found: Mapping[str, Array], truth: Mapping[str, Array]) -> dict[str, PoseError]:
    """Return the errors of a reconstruction's poses after alignment; empty if no three cameras determine one."""
    names = [name for name in found if name in truth]
    ours, theirs = (np.array([centre_of(poses[name]) for name in names]).reshape(-1, 3) for poses in (found, truth))
    moved = align(ours, theirs)
    return {} if moved is None else {name: pose_error(moved.pose(found[name]), truth[name]) for name in names}


def align(source: Array, target: Array) -> Similarity | None:
    """Return the similarity from points (N, 3) to others; None for fewer than three distinct points, or a line.

    It is the least-squares fit without outliers. Outliers are found by the least median of errors over triples, so a
    wrongly registered camera does not change the result, in any unit of length.
    """
    count = len(source)
    if count < LEAST:
        return None
    best: tuple[float, Similarity] | None = None
    for triple in _triples(count):
        moved = least_squares(source[triple], target[triple])
        if moved is not None:
            median = float(np.median(np.linalg.norm(moved.points(source) - target, axis=1)))
            best = min(best or (median, moved), (median, moved), key=lambda each: each[0])
    if best is None:
        return None
    sigma = SPREAD * (1 + 5 / max(1, count - LEAST)) * best[0]
    distances = np.linalg.norm(best[1].points(source) - target, axis=1)
    kept = distances <= max(GROSS * sigma, float(np.sort(distances)[LEAST - 1]))
    return least_squares(source[kept], target[kept]) or best[1]


def least_squares(source: Array, target: Array) -> Similarity | None:
    """Return the least-squares similarity (Umeyama 1991); None if the points of either set are on a line."""
    middle0, middle1 = source.mean(axis=0), target.mean(axis=0)
    a, b = source - middle0, target - middle1
    if any(np.linalg.svd(each, compute_uv=False)[1] <= 1e-9 * max(np.abs(each).max(), 1e-300) for each in (a, b)):
        return None
    u, values, v = np.linalg.svd(b.T @ a)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    rotation = u @ np.diag(signs) @ v
    scale = float((values * signs).sum() / (a**2).sum())
    return Similarity(scale, rotation, middle1 - scale * rotation @ middle0)


def _triples(count: int) -> Sequence[Array]:
    """Return triples of indices of cameras: all if they are few, otherwise a fixed random sample."""
    if count * (count - 1) * (count - 2) // 6 <= TRIPLES:
        return [np.array(each) for each in combinations(range(count), 3)]
    rng = np.random.default_rng(0)
    return [rng.choice(count, 3, replace=False) for _ in range(TRIPLES)]
