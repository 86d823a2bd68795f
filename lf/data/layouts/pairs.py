"""Layouts with one npz file per pair: stored pairs of `lf score`, and pytorch-superpoint's export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput, Features
from lf.data.cameras import RelativePose, checked_camera, checked_rotation, checked_translation
from lf.formats import npz

HOMOGRAPHY = "homography"
POSE = ("K0", "K1", "rotation", "translation")
NO_SCORES = 2  # columns of `prob` in files of SIFT


@dataclass(frozen=True)
class Stored:
    """The features of two images and the truth between them, rows in the order of the file.

    Attributes:
        first: features of the first image, in pixels of the evaluated image.
        second: features of the second image, in pixels of the evaluated image.
        truth: the homography (3, 3) float64, first -> second evaluated image; or the relative pose of their cameras.
        images: the two evaluated images, float32 (H, W) grey in [0, 1], if the file has them.
    """

    first: Features
    second: Features
    truth: Array | RelativePose
    images: tuple[Array, Array] | None = None

    @property
    def homography(self) -> Array:
        """The homography of the pair; BadInput if its truth is of another kind."""
        if isinstance(self.truth, RelativePose):
            raise BadInput("a stored pair with a relative pose has no homography")
        return self.truth

    @property
    def scored(self) -> bool:
        """True if both images have scores."""
        return self.first.scored and self.second.scored


def read(path: Path) -> Stored:
    """Read a stored pair: keypoints0 (N, 2), scores0, descriptors0 (N, D), image_shape0 (H, W), ...1, homography.

    Scores are optional. Instead of the homography, the file may have camera matrices K0, K1 (3, 3), and the rotation
    (3, 3) and translation (3,) from the first camera to the second.

    Raises:
        BadInput: it is none.
    """
    names, scores = ("keypoints", "descriptors", "image_shape"), ("scores0", "scores1")
    needed = tuple(f"{name}{index}" for index in "01" for name in names)
    what = "a stored pair with keypoints0, scores0, descriptors0, image_shape0, ...1"
    arrays = npz.read(path, what, needed, (*scores, HOMOGRAPHY, *POSE))
    truth = POSE if arrays.keys() & {*POSE} else (HOMOGRAPHY,)
    if not arrays.keys() >= {*truth}:
        npz.read(path, what, (*needed, *truth))  # names the missing one
    if len(arrays.keys() & {*scores}) == 1:
        npz.read(path, what, (*needed, *scores))  # names the missing one
    both = []
    for index in "01":
        points, descriptors, shape = (arrays[f"{name}{index}"] for name in names)
        height, width = npz.size(path, f"image_shape{index}", shape)
        points = npz.columns(path, f"keypoints{index}", points, 2)
        where = f"{path}: image {index}"
        both.append(npz.features(where, points, arrays.get(f"scores{index}"), descriptors, (width, height)))
    return Stored(both[0], both[1], _pose(path, arrays) if truth == POSE else _homography(path, arrays[HOMOGRAPHY]))


def _pose(path: Path, arrays: Mapping[str, Array]) -> RelativePose:
    K0, K1 = (checked_camera(arrays[name], f"{path}: {name}") for name in POSE[:2])
    rotation, translation = (np.asarray(arrays[name], dtype=np.float64) for name in POSE[2:])
    if rotation.shape != (3, 3):
        raise BadInput(f"{path}: the rotation of shape {rotation.shape} is no (3, 3) matrix")
    moved = checked_translation(translation.ravel(), str(path))
    return RelativePose(K0, K1, checked_rotation(rotation, str(path)), moved)


def read_superpoint(path: Path) -> Stored:
    """Read pytorch-superpoint's file of a pair: image, prob (N, 3) rows x, y, score, desc (N, D), warped_...

    SIFT's files have prob (N, 2), without scores.

    Raises:
        BadInput: it is none.
    """
    names = ("image", "prob", "desc")
    needed = ("homography", *(f"{prefix}{name}" for prefix in ("", "warped_") for name in names))
    arrays = npz.read(path, "a pair of pytorch-superpoint with image, prob, desc, warped_...", needed)
    both, images = [], []
    scored = arrays["prob"].shape[1:] != (NO_SCORES,)
    for prefix in ("", "warped_"):
        image, prob, descriptors = (arrays[prefix + name] for name in names)
        if image.ndim != 2:
            raise BadInput(f"{path}: {prefix}image of shape {image.shape}; expected (H, W)")
        images.append(np.asarray(image, dtype=np.float32))
        prob = npz.columns(path, f"{prefix}prob", prob, 3 if scored else NO_SCORES)
        scores = prob[:, 2] if scored else None
        where = f"{path}: {prefix}image"
        both.append(npz.features(where, prob[:, :2], scores, descriptors, (image.shape[1], image.shape[0])))
    return Stored(both[0], both[1], _homography(path, arrays["homography"]), (images[0], images[1]))


def write_superpoint(
    path: Path, stored: Stored, matches: tuple[Array, Array], more: Mapping[str, Array] | None = None
) -> None:
    """Write a file for `read_superpoint`, with `matches` (M, 4), the points of index pairs (M,), (M,), and `more`."""
    if stored.images is None:
        raise BadInput(f"{path}: this layout holds the images, too, and there are none")
    arrays = {"homography": stored.homography}
    for prefix, features, image in zip(("", "warped_"), (stored.first, stored.second), stored.images, strict=True):
        arrays[f"{prefix}image"] = image.astype(np.float32)
        arrays[f"{prefix}prob"] = np.column_stack([features.keypoints, features.scores]).astype(np.float64)
        arrays[f"{prefix}desc"] = features.descriptors
    points = stored.first.keypoints[matches[0]], stored.second.keypoints[matches[1]]
    npz.write(path, {**arrays, "matches": np.hstack(points).astype(np.float64), **(more or {})}, compressed=True)


def _homography(path: Path, array: Array) -> Array:
    if array.shape != (3, 3) or np.linalg.matrix_rank(np.asarray(array, dtype=np.float64)) < 3:
        raise BadInput(f"{path}: the homography of shape {array.shape} is no (3, 3) matrix with an inverse")
    return np.asarray(array, dtype=np.float64)
