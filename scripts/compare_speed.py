"""Time of scoring, compared with a plain form of the same formulas: `python -m scripts.compare_speed`.

Plain means cv2.BFMatcher with cross-check and all distances by broadcasting. Both take turns in one run and must give
the same answer; seconds are those of the processor. With OMP_NUM_THREADS=1 they are seconds of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import cv2
import numpy as np

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.protocols import homography, metrics
from lf.benchmarks.protocols.matching import Metric, mutual
from lf.benchmarks.report.tables import markdown
from lf.core import Array, Features, LfError
from lf.data.homography import warp_points
from scripts.turns import command, milliseconds, times

POINTS, LENGTH = 1000, 256  # of an image, and of a descriptor
VIEW = np.array([[0.9, 0.1, 5.0], [-0.1, 0.9, 20.0], [1e-4, 2e-5, 1.0]])
REPEATS = 30


Case = tuple[str, Callable[[], Any], Callable[[], Any]]  # name, ours, plain


class Timing(NamedTuple):
    """Milliseconds of CPU, one per turn."""

    name: str
    ours: list[float]
    plain: list[float]


def plain_mutual(desc0: Array, desc1: Array, metric: Metric) -> tuple[Array, Array]:
    """`lf.benchmarks.protocols.matching.mutual`, by OpenCV or by both `argmax` of the products."""
    if metric == "dot":
        similarity = desc0 @ desc1.T
        forward, backward = similarity.argmax(axis=1), similarity.argmax(axis=0)
        i = np.flatnonzero(backward[forward] == np.arange(len(forward)))
        return i, forward[i]
    found = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(desc0, desc1)
    return np.array([match.queryIdx for match in found]), np.array([match.trainIdx for match in found])


def plain_nearest(desc0: Array, desc1: Array, metric: Metric) -> tuple[Array, Array]:
    """`lf.benchmarks.protocols.matching.nearest` for L2, by OpenCV, once in each direction."""
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    there, back = matcher.match(desc0, desc1), matcher.match(desc1, desc0)
    return np.array([match.trainIdx for match in there]), np.array([match.trainIdx for match in back])


def plain_distances(points0: Array, points1: Array) -> tuple[Array, Array]:
    """`lf.benchmarks.protocols.metrics.nearest_distances`, from one (N0, N1, 2) array of differences."""
    every = np.linalg.norm(np.asarray(points0, np.float64)[:, None] - np.asarray(points1, np.float64)[None], axis=2)
    return every.min(axis=1), every.min(axis=0)


@contextmanager
def plainly() -> Iterator[None]:
    """Score with the plain functions."""
    with (
        patch.multiple(homography, mutual=plain_mutual, nearest=plain_nearest),
        patch.multiple(metrics, mutual=plain_mutual, nearest_distances=plain_distances),
    ):
        yield


def made_up(right: float) -> tuple[Features, Features]:
    """Two images of one plane at 320 x 240, in which a share of the points has the right descriptor."""
    rng = np.random.default_rng(0)
    points = rng.uniform((0, 0), (319, 239), (POINTS, 2))
    noise, other = rng.normal(0, 0.03, (POINTS, LENGTH)), rng.standard_normal((2, POINTS, LENGTH))
    first = other[0] / np.linalg.norm(other[0], axis=1, keepdims=True)
    second = np.where(rng.random((POINTS, 1)) < right, first + noise, other[1])
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    moved = warp_points(points, VIEW) + rng.normal(0, 0.7, (POINTS, 2))
    scores = rng.permutation(POINTS)
    return Features(points, scores, first, (320, 240)), Features(moved, scores, second, (320, 240))


def cases() -> list[Case]:
    """The searches alone, then whole pairs: one where RANSAC is done soon, and one where it looks at every sample."""
    f0, f1 = made_up(0.5)
    descriptors, points = (f0.descriptors, f1.descriptors), (f0.keypoints, f1.keypoints)
    rows: list[Case] = [
        ("mutual descriptors", partial(mutual, *descriptors, "l2"), partial(plain_mutual, *descriptors, "l2")),
        ("nearest points", partial(metrics.nearest_distances, *points), partial(plain_distances, *points)),
    ]
    for share in (0.5, 0.1):
        for name in ("kp2d", "superpoint"):
            score = partial(PROTOCOLS[name].score, *made_up(share), VIEW)
            rows.append((f"{name}, {share:.0%} matched", score, plainly()(score)))
    return rows


def measure(repeats: int = REPEATS) -> list[Timing]:
    """Time every case by turns, after one turn that checks that both ways agree.

    Raises:
        LfError: they do not.
    """
    cv2.setNumThreads(1)
    timings = []
    for name, ours, plain in cases():
        if not np.allclose(_numbers(ours()), _numbers(plain())):
            raise LfError(f"{name}: the plain re-statement gives another answer; one of them is wrong")
        turns = [(milliseconds(ours), milliseconds(plain)) for _ in range(repeats)]
        timings.append(Timing(name, *(list(column) for column in zip(*turns, strict=True))))
    return timings


def table(timings: list[Timing]) -> str:
    """Least and median milliseconds of both, and how many times longer the plain way takes in the same turn."""
    rows = []
    for name, ours, plain in timings:
        cells = [f"{of(each):.2f}" for of in (min, median) for each in (ours, plain)]
        rows.append([name, *cells, times(np.array(plain), np.array(ours))])
    head = ["CPU ms", "lf min", "plain min", "lf median", "plain median", "plain / lf"]
    return markdown(head, rows)


def _numbers(answer: Any) -> Array:
    return np.concatenate([np.ravel(part) for part in (answer.values() if isinstance(answer, dict) else answer)])


def main() -> str:
    """The table, under what it is of."""
    head = f"{POINTS} points, descriptors of {LENGTH}, OpenCV {cv2.__version__}, numpy {np.__version__}"
    return f"{head}\n{table(measure())}"


if __name__ == "__main__":
    command("compare_speed", 0, 0, lambda words, given: main())
