"""Read lists of image pairs with camera matrices and relative poses.

| list | fields of a line | published as |
|---|---|---|
| `*pairs_with_gt.txt` | path0 path1 rot0 rot1 K0 (9) K1 (9) T (16) | ScanNet-1500 of SuperGlue |
| `*pairs_calibrated.txt` | path0 path1 K0 (9) K1 (9), R (9) t (3) or T (16) | both 1500s of Glue Factory |
| `test.npz`, `intrinsics.npz` | (scene, part, image, image), K at 640x480 of each scene | ScanNet-1500 of LoFTR |

R, t and T = [R t; 0 1] take the first camera to the second. Paths are relative to the folder of the list, or to
`images/` in it. Numbers are used unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput, files
from lf.data import Pair, Picture, images
from lf.data.cameras import (
    RelativePose,
    check_baseline,
    checked_camera,
    checked_rotation,
    checked_translation,
    relative,
)
from lf.data.headers import declared_size
from lf.data.homography import resize_matrix
from lf.data.posed.rows import check_inside, numbers, rows
from lf.formats import npz

PATTERNS = ("*pairs_with_gt.txt", "*pairs_calibrated.txt")
SCANNET = ("test.npz", "intrinsics.npz")
SCANNET_SIZE = (480, 640)  # (H, W) px that its camera matrices belong to
IMAGES = ("images", "color")  # folders that are no name of a scene
FORMS = {38: (2, 16), 32: (0, 12), 36: (0, 16)}  # words of a line -> words of rotation codes, numbers of the pose
EXPECTED = "two paths, K0 (9), K1 (9), R (9) and t (3) or T (16); or two rotation codes after the paths, with T"


def find(where: Path) -> Path | None:
    """Return the list of a folder, or the file itself; None if there is none."""
    if where.is_file():
        return where
    if all((where / name).is_file() for name in SCANNET):
        return where / SCANNET[0]
    return next((path for pattern in PATTERNS for path in sorted(where.glob(pattern))), None)


def read(path: Path) -> list[Pair]:
    """Read the pairs of a list, grouped by first image.

    Raises:
        BadInput: an invalid line, camera or pose, a missing image, or both cameras at the same place.
    """
    pairs = [*(_scannet(path) if path.suffix == ".npz" else _text(path))]
    if not pairs:
        raise BadInput(f"{path}: holds no pair; expected lines of {EXPECTED}")
    order = {key: index for index, key in enumerate(dict.fromkeys(pair.first.key for pair in pairs))}
    return sorted(pairs, key=lambda pair: order[pair.first.key])


def _text(path: Path) -> Iterator[Pair]:
    picture = _Pictures(path.parent)
    for where, words in rows(path, f"lines of {EXPECTED}"):
        if len(words) not in FORMS:
            raise BadInput(f"{where}: {len(words)} words; expected {EXPECTED}")
        codes, count = FORMS[len(words)]
        if turned := [code for code in words[2 : 2 + codes] if code != "0"]:
            raise BadInput(f"{where}: rotation code {turned[0]}; expected 0, turn the image and its camera first")
        values = numbers(where, words[2 + codes :], 18 + count, EXPECTED)
        moved = values[18:30].reshape(3, 4) if count == 16 else None
        rotation = values[18:27].reshape(3, 3) if moved is None else moved[:, :3]
        translation = values[27:30] if moved is None else moved[:, 3]
        cameras = (values[:9].reshape(3, 3), values[9:18].reshape(3, 3))
        yield _pair(where, picture(words[0], where), picture(words[1], where), cameras, rotation, translation)


def _scannet(path: Path) -> Iterator[Pair]:
    """Read ScanNet's pairs; the camera-to-world poses, one file per image, are inverted."""
    root = path.parent
    names = np.atleast_2d(npz.read(path, "pairs of ScanNet-1500: name (N, 4)", ("name",))["name"]).astype(int)
    if names.ndim != 2 or names.shape[1] != 4:
        raise BadInput(f"{path}: name of shape {names.shape}; expected (N, 4): scene, part, image, image")
    scenes = [f"scene{row[0]:04d}_{row[1]:02d}" for row in names]
    cameras = npz.read(root / SCANNET[1], "a camera matrix (3, 3) of each scene", [*dict.fromkeys(scenes)])
    picture, pose = _Pictures(root), cache(_pose)
    for scene, (_, _, *stems) in zip(scenes, names.tolist(), strict=True):
        where = f"{path}: {scene} {stems[0]} {stems[1]}"
        paths = [f"{scene}/color/{stem}.jpg" for stem in stems]
        first, second = (picture(each, where) for each in paths)
        K = checked_camera(cameras[scene].reshape(-1, 3), f"{root / SCANNET[1]}: {scene}")
        both = [resize_matrix(SCANNET_SIZE, _size(root / each)) @ K for each in paths]
        moved = relative(*(pose(root / scene / "pose" / f"{stem}.txt") for stem in stems))
        yield _pair(where, first, second, both, *moved)


def _size(path: Path) -> tuple[int, int]:
    size = declared_size(files.read_bytes(path, "an image"))
    if size is None:
        raise BadInput(f"{path}: no image; expected one of the types {', '.join(images.SUFFIXES)}")
    return size


def _pose(path: Path) -> tuple[Array, Array]:
    """Read a world-to-camera pose from a file with camera to world (4, 4)."""
    words = [word for _, row in rows(path, "a pose, 4 lines of 4 numbers") for word in row]
    pose = numbers(str(path), words, 16, "camera to world by row").reshape(4, 4)
    rotation = checked_rotation(pose[:3, :3], str(path)).T
    return rotation, -rotation @ pose[:3, 3]


class _Pictures:
    """Images by their paths below a folder, or below `images/` in it."""

    def __init__(self, root: Path) -> None:
        self._root, self._found = root, dict[str, Picture]()

    def __call__(self, name: str, where: str) -> Picture:
        if name in self._found:
            return self._found[name]
        check_inside(where, name)
        places = (self._root / name, self._root / "images" / name)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise BadInput(f"{where}: image {name} is missing; expected it in {self._root}")
        key = path.relative_to(self._root).with_suffix("").as_posix()  # name of its features in `lf extract`
        return self._found.setdefault(name, images.picture(path, key))


def _pair(
    where: str, first: Picture, second: Picture, cameras: Sequence[Array], rotation: Array, translation: Array
) -> Pair:
    K0, K1 = (checked_camera(K, where) for K in cameras)
    pose = RelativePose(K0, K1, checked_rotation(rotation, where), checked_translation(translation, where))
    check_baseline(pose.translation, 0.0, where)
    *folders, _ = Path(first.key).parts
    scene = "/".join(name for name in folders if name not in IMAGES)
    names = [Path(picture.key).name for picture in (first, second)]
    return Pair(scene or "pairs", "_".join(names), first, second, pose)
