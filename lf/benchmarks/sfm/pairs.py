"""Choose the pairs to match: all, neighbours in order, nearest cameras, or a list."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from lf.benchmarks.sfm.places import Place
from lf.benchmarks.sfm.pose_errors import centre_of
from lf.core import Array, BadInput, UsageError
from lf.data.posed.rows import rows

MOST = 2000  # largest number of images for matching all pairs: the limit of the ETH benchmark
WAYS = "exhaustive, sequential:N, nearest:N, listed, or a file with two image names per line"

Pairs = list[tuple[int, int]]


def choose(way: str, place: Place, queries: Collection[int] = ()) -> Pairs:
    """Choose the index pairs of images to match, ordered, each once. Two queries are never a pair.

    Args:
        way: one of WAYS. `nearest:N`: the N nearest cameras with a viewing direction within 90 degrees. Queries have no
            pose, so they are matched with every other image.
        place: the images.
        queries: indices of the images to localize.

    Raises:
        UsageError: unknown way, or the place lacks the poses or the list that it needs.
        BadInput: the list names an image that is not in the place.
    """
    name, _, count = way.partition(":")
    total = len(place.shots)
    if way == "exhaustive":
        found = _all(total)
    elif way == "listed":
        found = _listed(place)
    elif name in ("sequential", "nearest"):
        found = (_sequential if name == "sequential" else _nearest)(place, _number(way, count), queries)
    elif Path(way).is_file():
        found = _from_file(Path(way), place)
    else:
        raise UsageError(f"`pairs={way}`: no such file or way; expected {WAYS}")
    asked = {*queries}
    return sorted({(min(pair), max(pair)) for pair in found if len({*pair}) == 2 and not {*pair} <= asked})


def _all(total: int) -> Pairs:
    if total > MOST:
        raise UsageError(f"`pairs=exhaustive`: {total} images have too many pairs; type: `pairs=nearest:20`, or a list")
    return [*combinations(range(total), 2)]


def _listed(place: Place) -> Pairs:
    if place.listed is None:
        raise UsageError(f"`pairs=listed`: {place.name} has no list of pairs; expected {WAYS}")
    return [*place.listed]


def _number(way: str, count: str) -> int:
    if not (count.isdecimal() and int(count)):
        raise UsageError(f"`pairs={way}`: expected a number of images after the colon, such as {way.split(':')[0]}:10")
    return int(count)


def _sequential(place: Place, count: int, queries: Collection[int]) -> Pairs:
    total = len(place.shots)
    return [(i, j) for i in range(total) for j in range(i + 1, min(total, i + count + 1))]


def _nearest(place: Place, count: int, queries: Collection[int]) -> Pairs:
    posed = [i for i, shot in enumerate(place.shots) if shot.pose is not None and i not in queries]
    if len(posed) + len(queries) < len(place.shots):
        raise UsageError(f"`pairs=nearest:{count}`: images of {place.name} have no pose; expected {WAYS}")
    poses = [shot.pose for i in posed if (shot := place.shots[i]).pose is not None]
    found = [(i, posed[k]) for i, row in zip(posed, _order(poses), strict=True) for k in row[:count]]
    return found + [(query, i) for query in queries for i in posed]


def _order(poses: Sequence[Array]) -> list[list[int]]:
    """Return for each camera the others with a similar viewing direction, nearest first."""
    centres = np.array([centre_of(pose) for pose in poses]).reshape(-1, 3)
    axes = np.array([pose[2, :3] for pose in poses]).reshape(-1, 3)
    found = []
    for index in range(len(poses)):
        distance = np.linalg.norm(centres - centres[index], axis=1)
        order = np.argsort(distance, kind="stable")
        found.append([int(k) for k in order if k != index and axes[k] @ axes[index] > 0])
    return found


def _from_file(path: Path, place: Place) -> Pairs:
    index = {shot.name: i for i, shot in enumerate(place.shots)}
    found = []
    for where, words in rows(path, "a list of pairs, two image names per line"):
        if len(words) != 2 or not {*words} <= index.keys():
            unknown = next((word for word in words if word not in index), " ".join(words))
            raise BadInput(f"{where}: {unknown}: expected two names of images of {place.name}")
        found.append((index[words[0]], index[words[1]]))
    if not found:
        raise BadInput(f"{path}: holds no pair; expected two image names per line")
    return found
