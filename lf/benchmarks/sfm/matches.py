"""Match pairs of images, and keep the matches in one file per first image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from lf.benchmarks.protocols.matching import distinct, mutual
from lf.core import Array, BadInput, Features
from lf.data.layouts.images import LF, Folder
from lf.formats import npz

HELD = 6  # images with features in memory: 10 MB each at 20,480 points of 128 numbers
NAMES = "names"

Progress = Callable[[int, int, str], None]
Groups = Mapping[str, Sequence[str]]  # first image -> second images


@dataclass(frozen=True)
class Matcher:
    """Mutual nearest neighbours by the dot product, with or without Lowe's ratio test.

    Attributes:
        ratio: largest ratio of the distances to the nearest and to the second nearest; None for no test.
        both: True: the test must hold in both directions. False: from the first image to the second.
    """

    ratio: float | None = None
    both: bool = False

    def __call__(self, first: Features, second: Features) -> Array:
        """Match two images: indices (M, 2) uint32 of keypoints."""
        if self.ratio is None:
            pair = mutual(first.descriptors, second.descriptors, "dot")
        else:
            pair = distinct(first.descriptors, second.descriptors, self.ratio, self.both)
        return np.column_stack(pair).astype(np.uint32)


MATCHERS = {
    "mutual": Matcher(),
    "mutual-ratio0.8": Matcher(0.8),
    "mutual-ratio0.75": Matcher(0.75, both=True),
}


def grouped(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Group pairs by first image, in the order of the pairs."""
    groups: dict[str, list[str]] = {}
    for first, second in pairs:
        groups.setdefault(first, []).append(second)
    return groups


def match(features: Path, groups: Groups, out: Path, matcher: Matcher, progress: Progress) -> None:
    """Match the groups that have no file yet.

    Args:
        features: folder of the features, layout lf.
        groups: pairs to match.
        out: folder of the matches.
        matcher: the matcher.
        progress: called with (groups done, total, name).
    """
    store = Folder(LF, features)
    load = lru_cache(HELD)(lambda name: store.read(name, (0, 0)))
    for index, (first, others) in enumerate(groups.items()):
        progress(index, len(groups), f"match {first}")
        path = _path(out, first)
        if not path.is_file():
            found = {f"m{k}": matcher(load(first), load(second)) for k, second in enumerate(others)}
            npz.write(path, {**found, NAMES: np.array([*others])})
    progress(len(groups), len(groups), "")


def missing(groups: Groups, out: Path) -> list[str]:
    """Return the first images without a file of matches."""
    return [first for first in groups if not _path(out, first).is_file()]


def matched(groups: Groups, out: Path) -> Iterator[tuple[str, str, Array]]:
    """Yield first image, second image and matches (M, 2) of every pair.

    Raises:
        BadInput: a file is damaged, or has other pairs.
    """
    for first, others in groups.items():
        path, keys = _path(out, first), [f"m{k}" for k in range(len(others))]
        remedy = "delete it and run the command again"
        what = f"matches of this command; {remedy}"
        names = npz.read(path, what, [NAMES], text=[NAMES])[NAMES].tolist()
        if names != [*others]:
            raise BadInput(f"{path}: matches with {len(names)} other images, expected {len(others)}; {remedy}")
        arrays = npz.read(path, what, keys)
        for key, second in zip(keys, others, strict=True):
            yield first, second, npz.columns(path, key, arrays[key], 2)


def _path(out: Path, first: str) -> Path:
    return out / f"{first}.npz"
