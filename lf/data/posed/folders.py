"""Read folders of images with camera matrices and poses: one function per layout.

| file | line | images |
|---|---|---|
| `cameras.txt` | name, K (9 numbers by row), world to camera (16 or 12 by row) | `images/` or beside it |
| `cam.txt`, `poses.txt` | K (3 lines of 3); camera to world (12 numbers) per image, in order of the names | beside it |
| `img_cam.txt` | name, width, height, fx, fy, cx, cy, R (9), t (3), world to camera: MegaDepth of CAPS | `images/` |
| COLMAP model | `cameras` and `images` as .txt or .bin, also in `sparse/` or `sparse/0/` | `images/` or beside it |

Pairs are those of `pairs_with_gt.txt` or `pairs.txt`: two image paths or names at the start of each line; without
such a list, all pairs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput, console
from lf.data import images
from lf.data.cameras import checked_camera, checked_rotation, checked_translation
from lf.data.posed import Scene, View, colmap_model, depth_files, pair_lists
from lf.data.posed.depth_files import SUFFIX
from lf.data.posed.rows import check_inside, numbers, rows

LISTS = ("pairs_with_gt.txt", "pairs.txt")
MOST = 5000  # largest number of pairs of a scene without a list
DEEP = 4  # levels of folders below the root
EXPECTED = "cameras.txt (name, K, world to camera), poses.txt with cam.txt, img_cam.txt, or a COLMAP model"


def read(root: Path) -> list[Scene]:
    """Read the scenes of a folder: itself, or the folders below it. Images without a camera are listed on stderr.

    Raises:
        BadInput: no folder, no scene in it, or an invalid camera, pose or pair.
    """
    found = find(root)
    if not found:
        listed = " of single images, only pairs" if pair_lists.find(root) else ""
        raise BadInput(f"{root}: holds no camera matrices and poses{listed}; expected {EXPECTED}")
    if root not in found:
        held = {folder.relative_to(root).parts[0] for folder in found}
        inner = {f.name for f in root.iterdir() if f.is_dir() and f.name[0] != "." and not f.name.endswith(SUFFIX)}
        if without := sorted(inner - held):
            console.note(f"{root}: {', '.join(without)} without camera matrices and poses, left out")
    return [scene(folder, root) for folder in found]


def find(root: Path) -> list[Path]:
    """Find folders with the cameras of a scene, in byte order; folders inside a scene are skipped.

    Raises:
        BadInput: no such folder, or it cannot be read.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; expected a folder with {EXPECTED}")
    if form(root):
        return [root]
    found = []
    for where, folders, _ in os.walk(root, onerror=_refuse, followlinks=True):
        here = Path(where)
        deep = len(here.relative_to(root).parts) >= DEEP
        inner = [] if deep else [name for name in folders if name[0] != "." and name != "images"]
        scenes = {name for name in inner if form(here / name)}
        found += [here / name for name in scenes]
        folders[:] = [name for name in inner if name not in scenes]
    return sorted(found, key=os.fsencode)


def _refuse(error: OSError) -> None:
    raise BadInput(f"{error.filename}: cannot be read ({error.strerror}); expected a folder of scenes") from error


def form(folder: Path) -> Callable[[Path], list[View]] | None:
    """Return the function that reads the views of a folder; None if it has no cameras."""
    if colmap_model.place(folder):
        return colmap_model.views
    names = {"img_cam.txt": _caps, "poses.txt": _kitti, "cameras.txt": _strecha}
    return next((read for name, read in names.items() if (folder / name).is_file()), None)


def scene(folder: Path, root: Path) -> Scene:
    """Read one scene; its name is its path below `root`, or the name of `root` itself.

    Raises:
        BadInput: see `read`.
    """
    reader = form(folder)
    views = reader(folder) if reader else []
    if len(views) < 2:
        raise BadInput(f"{folder}: {len(views)} image with a camera and a pose; expected two or more")
    _say_what_is_left_out(folder, views)
    name = folder.resolve().name if folder == root else folder.relative_to(root).as_posix()
    named = (replace(view, image=replace(view.image, key=_key(view.image.key, root))) for view in views)
    return Scene(name, tuple(named), tuple(_listed(folder, views)))


def _say_what_is_left_out(folder: Path, views: Sequence[View]) -> None:
    """Print the names of images without camera and pose."""
    known = {view.image.path for view in views if view.image.path}
    beside = (path for place in {path.parent for path in known} for path in place.iterdir())
    others = sorted(path.name for path in beside if path not in known and images.is_image(path.name))
    if others:
        console.note(f"{folder}: images without a camera and a pose, left out: {len(others)}, such as {others[0]}")


def _key(path: str, root: Path) -> str:
    """Return the path of an image below the root without its suffix, which is the name of its features."""
    return Path(path).relative_to(root).with_suffix("").as_posix()


def _listed(folder: Path, views: Sequence[View]) -> list[tuple[int, int]]:
    """Read the index pairs of the list in the folder or its parent, in its order; without a list, all pairs.

    Raises:
        BadInput: a line names an image twice or an image without a camera, or no line belongs to this scene.
    """
    number = {(folder / view.name).resolve(): index for index, view in enumerate(views)}
    number |= {(folder / "images" / view.name).resolve(): index for index, view in enumerate(views)}
    for place in (folder, folder.parent):
        for path in (place / name for name in LISTS):
            if path.is_file():
                own = place == folder
                return _from_list(path, number, own) if own else _from_list(path, number, own) or _all(folder, views)
    return _all(folder, views)


def _all(folder: Path, views: Sequence[View]) -> list[tuple[int, int]]:
    if len(views) * (len(views) - 1) // 2 > MOST:
        raise BadInput(f"{folder}: {len(views)} images and no list of pairs; write pairs.txt, two image names per line")
    return [*combinations(range(len(views)), 2)]


def _from_list(path: Path, number: dict[Path, int], own: bool) -> list[tuple[int, int]]:
    """Read the pairs of a list; from a list of the parent folder (not `own`), only pairs of this scene."""
    found = []
    for where, words in rows(path, "a list of pairs, two image names per line"):
        if len(words) < 2:
            raise BadInput(f"{where}: one word; expected two image names")
        both = [_index(path.parent, word, number) for word in words[:2]]
        if None in both and not own:
            continue
        for word, index in zip(words, both, strict=False):
            if index is None:
                raise BadInput(f"{where}: {word} has no camera in this scene; expected images of {path.parent}")
        if both[0] == both[1]:
            raise BadInput(f"{where}: pairs {words[0]} with itself; delete the line")
        found.append((both[0], both[1]))
    if own and not found:
        raise BadInput(f"{path}: holds no pair; write two image names per line, or delete it for all pairs")
    return [(i, j) for i, j in found if i is not None and j is not None]


def _index(folder: Path, word: str, number: dict[Path, int]) -> int | None:
    places = ((folder / word).resolve(), (folder / "images" / word).resolve())
    return next((number[place] for place in places if place in number), None)


def view(folder: Path, where: str, name: str, K: Array, rotation: Array, translation: Array) -> View:
    """Make a view after checking its numbers and that its image exists, in `images/` or in the folder itself.

    Raises:
        BadInput: a number is invalid, or the image is missing; the text begins with `where`.
    """
    camera = checked_camera(K, where)
    pose = checked_rotation(rotation, where), checked_translation(translation, where)
    check_inside(where, name)
    path = next((p for p in (folder / "images" / name, folder / name) if p.is_file()), None)
    if path is None:
        raise BadInput(f"{where}: image {name} is missing; expected it in {folder / 'images'} or {folder}")
    return View(name, images.picture(path, str(path)), camera, *pose, depth_files.find(path))


def _strecha(folder: Path) -> list[View]:
    found, what = [], "K (9) and world to camera (16)"
    for where, (name, *words) in rows(folder / "cameras.txt", f"lines of a name, {what}"):
        values = numbers(where, words, 21 if len(words) == 21 else 25, what)
        pose = values[9:21].reshape(3, 4)
        found.append(view(folder, where, name, values[:9].reshape(3, 3), pose[:, :3], pose[:, 3]))
    return _unique(folder / "cameras.txt", found)


def _caps(folder: Path) -> list[View]:
    found, what = [], "width, height, fx, fy, cx, cy, R (9), t (3)"
    for where, (name, *words) in rows(folder / "img_cam.txt", f"lines of a name, {what}"):
        values = numbers(where, words, 18, what)
        fx, fy, cx, cy = values[2:6]
        camera = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        found.append(view(folder, where, name, camera, values[6:15].reshape(3, 3), values[15:]))
    return _unique(folder / "img_cam.txt", found)


def _kitti(folder: Path) -> list[View]:
    """Read KITTI's views; the camera-to-world poses are inverted."""
    path = folder / "cam.txt"
    if not path.is_file():
        raise BadInput(f"{folder}: poses.txt without intrinsics; expected cam.txt with K, 3 lines of 3 numbers")
    words = [word for _, row in rows(path, "K, 3 lines of 3 numbers") for word in row]
    camera = numbers(str(path), words, 9, "K by row").reshape(3, 3)
    names = sorted((f.name for f in folder.iterdir() if images.is_image(f.name)), key=os.fsencode)
    poses = rows(folder / "poses.txt", "12 numbers per image, camera to world")
    if len(names) != len(poses):
        raise BadInput(
            f"{folder}: {len(names)} images and {len(poses)} poses; expected one line of poses.txt per image"
        )
    found = []
    for name, (where, row) in zip(names, poses, strict=True):
        pose = numbers(where, row, 12, "camera to world by row").reshape(3, 4)
        rotation = checked_rotation(pose[:, :3], where).T
        found.append(view(folder, where, name, camera, rotation, -rotation @ pose[:, 3]))
    return found


def _unique(path: Path, views: list[View]) -> list[View]:
    names = [view.name for view in views]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"{path}: {twice} is there twice; expected one line per image")
    return views
