"""Images with camera matrices and poses, for relative pose, reconstruction and epipolar training.

`scenes` reads `posed:DIR` (see `lf.data.posed.folders`) and draws `scenes:N` (see `lf.data.posed.drawn`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lf.core import Array, UsageError, files
from lf.data import POSES, Pair, Picture, Wanted
from lf.data.cameras import RelativePose, check_baseline, relative

DRAWN = 5  # default number of drawn scenes


@dataclass(frozen=True)
class View:
    """An image, its camera and its pose.

    Attributes:
        name: unique inside its scene, such as `0003.jpg`.
        image: its pixels, read when needed.
        K: (3, 3) float64 camera matrix, pixels, pixel centres at integers.
        rotation: (3, 3) float64, world -> camera.
        translation: (3,) float64, world -> camera: `x = R X + t`.
        depth: points (N, 2) px -> (N,) float64 depth along the optical axis, 0 if unknown; None without depth.
    """

    name: str
    image: Picture
    K: Array
    rotation: Array
    translation: Array
    depth: Callable[[Array], Array] | None = None

    @property
    def centre(self) -> Array:
        """(3,) camera centre in the world."""
        return np.asarray(-self.rotation.T @ self.translation)


@dataclass(frozen=True)
class PosedPair:
    """Two views of one scene."""

    first: View
    second: View

    @property
    def name(self) -> str:
        """Names of both views."""
        return f"{self.first.name}_{self.second.name}"

    @cached_property
    def pose(self) -> RelativePose:
        """Camera matrices, and the pose of the second camera relative to the first."""
        first, second = self.first, self.second
        ours, theirs = (first.rotation, first.translation), (second.rotation, second.translation)
        return RelativePose(first.K, second.K, *relative(ours, theirs))

    @property
    def essential(self) -> Array:
        """(3, 3) `[t]x R`."""
        return self.pose.essential

    @property
    def fundamental(self) -> Array:
        """(3, 3), points of the first image -> lines of the second."""
        return self.pose.fundamental


@dataclass(frozen=True)
class Scene:
    """Views in one world.

    Attributes:
        name: name of the scene, such as its folder.
        views: views in the order of the file.
        listed: the listed pairs, as indices of views.
    """

    name: str
    views: tuple[View, ...]
    listed: tuple[tuple[int, int], ...]

    @property
    def pairs(self) -> list[PosedPair]:
        """The listed pairs."""
        return [PosedPair(self.views[i], self.views[j]) for i, j in self.listed]


def scenes(spec: str, seed: int = 0) -> list[Scene]:
    """Read the scenes of a dataset.

    Args:
        spec: `posed:DIR`, `scenes:N`, or a folder, which means `posed:FOLDER`.
        seed: of scenes that are drawn: other numbers, other scenes.

    Raises:
        UsageError: the dataset has no cameras, or its name lacks the part after the colon.
        BadInput: the folder has no camera matrices and poses, or invalid ones.
    """
    name, colon, where = spec.partition(":")
    if name == "scenes" and (colon or not where):
        from lf.data.posed import drawn

        return drawn.scenes(scenes_wanted(where), seed)
    from lf.data.posed import folders

    if name != "posed" and colon and "/" not in name:
        raise UsageError(f"dataset '{spec}' has no camera poses; {POSES}")
    folder = where if name == "posed" and colon else spec
    if not folder:
        raise UsageError("this dataset needs a folder after the colon, such as posed:DIR")
    return folders.read(files.expand(folder))


def scenes_wanted(where: str) -> int:
    """Parse the number in `scenes:N`; UsageError if it is not a number."""
    if where and not (where.isdecimal() and int(where)):
        raise UsageError(f"'scenes:{where}' needs a number of scenes, such as scenes:{DRAWN}")
    return int(where or DRAWN)


def open_pairs(spec: str, wanted: Wanted) -> list[Pair]:
    """Open the listed pairs of a dataset, a row of DATASETS.

    Raises:
        UsageError: see `scenes`.
        BadInput: see `scenes` and `lf.data.posed.pair_lists`; or a pair has no baseline.
    """
    name, _, where = spec.partition(":")
    if name == "scenes" and wanted.limit_sequences:
        count = scenes_wanted(where)
        return pairs(scenes(f"scenes:{min(count, wanted.limit_sequences)}", wanted.seed))
    if name == "posed" and where and (listed := _listed(files.expand(where))) is not None:
        kept = [each for each in dict.fromkeys(pair.sequence for pair in listed) if each not in wanted.exclude]
        few = {*kept[: wanted.limit_sequences]}
        return [pair for pair in listed if pair.sequence in few]
    found = [scene for scene in scenes(spec, wanted.seed) if scene.name not in wanted.exclude]
    return pairs(found[: wanted.limit_sequences])


def _listed(where: Path) -> list[Pair] | None:
    """Read the pairs of a list with poses in it, if there are no cameras; None for scenes."""
    from lf.data.posed import folders, pair_lists

    if not where.is_file() and (not where.is_dir() or folders.find(where)):
        return None
    path = pair_lists.find(where)
    return None if path is None else pair_lists.read(path)


def pairs(found: list[Scene]) -> list[Pair]:
    """Convert the listed pairs of scenes for a benchmark, grouped by first view.

    Raises:
        BadInput: both cameras of a pair are at the same place.
    """
    kept = []
    for scene in found:
        for each in (PosedPair(scene.views[i], scene.views[j]) for i, j in sorted(scene.listed)):
            scale = float(np.linalg.norm(each.first.translation) + np.linalg.norm(each.second.translation))
            check_baseline(each.pose.translation, scale, f"{scene.name} {each.name}")
            kept.append(Pair(scene.name, each.name, each.first.image, each.second.image, each.pose))
    return kept
