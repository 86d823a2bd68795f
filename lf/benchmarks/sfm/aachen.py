"""Read Aachen Day-Night v1 and v1.1, and write the file for its evaluation server.

| in ROOT | v1 | v1.1 |
|---|---|---|
| images | `images/images_upright/` | the same |
| database with the images and their cameras | `database.db` | `database_v1_1.db` |
| pairs | `image_pairs_to_match.txt` | `image_pairs_to_match_v1_1.txt` |
| below `3D-models/`: poses | `aachen_cvpr2018_db.nvm` | `aachen_v_1_1.nvm` |
| below `3D-models/`: intrinsics | `database_intrinsics.txt` | `database_intrinsics_v1_1.txt` |
| below `queries/`: queries | `night_time_queries_with_intrinsics.txt` | the same |

The intrinsics are those of COLMAP, with the centre of the first pixel at (0.5, 0.5). The keypoints get the half pixel,
as in hloc; PoSFeat and D2-Net leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lf.benchmarks.sfm.colmap import Placed
from lf.benchmarks.sfm.places import Place, Shot
from lf.core import Array, BadInput, files
from lf.data import colmap, images
from lf.data.cameras import checked_quaternion, quaternion
from lf.data.colmap_cameras import Camera
from lf.data.posed.rows import numbers, rows

MODELS, QUERIES = "3D-models", "queries"
IMAGES = Path("images") / "images_upright"


@dataclass(frozen=True)
class Release:
    """Names of the files of a release; `result` has a place for the name of the method."""

    database: str
    pairs: str
    nvm: str
    intrinsics: str
    queries: tuple[str, ...]
    result: str


RELEASES = {
    "aachen": Release(
        "database.db",
        "image_pairs_to_match.txt",
        "aachen_cvpr2018_db.nvm",
        "database_intrinsics.txt",
        ("night_time_queries_with_intrinsics.txt",),
        "Aachen_eval_{}.txt",
    ),
    "aachen-v1.1": Release(
        "database_v1_1.db",
        "image_pairs_to_match_v1_1.txt",
        "aachen_v_1_1.nvm",
        "database_intrinsics_v1_1.txt",
        ("night_time_queries_with_intrinsics_v1_1.txt", "night_time_queries_with_intrinsics.txt"),
        "Aachen_v1_1_eval_{}.txt",
    ),
}


@dataclass(frozen=True)
class Tree:
    """place: the images of the database, with the pairs to match. queries: names of the images to localize."""

    place: Place
    queries: tuple[str, ...]


def read(root: Path, release: Release) -> Tree:
    """Read the files of a release below `root`.

    Only images that are queries or have a pose are taken: day queries are in the database of v1 and not evaluated.

    Raises:
        BadInput: a file is missing or damaged, or an image has no camera.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; expected Aachen Day-Night with {IMAGES}, {MODELS} and {QUERIES}")
    with colmap.opened(_file(root, "", release.database)) as database:
        known = database.cameras()
    cameras = intrinsics(_file(root, MODELS, release.intrinsics))
    asked = intrinsics(_file(root, QUERIES, *release.queries))
    poses = nvm(_file(root, MODELS, release.nvm))
    if unknown := next((name for name in asked if name not in known), None):
        raise BadInput(
            f"{root / release.database}: has no image {unknown}, which is a query; expected that of the benchmark"
        )
    shots = []
    for name in known:
        if name in asked or name in poses:
            path = root / IMAGES / name
            if not path.is_file():
                raise BadInput(f"{path}: no such image; expected the images of the benchmark in {root / IMAGES}")
            camera = asked.get(name) or cameras.get(name) or known[name]
            pose = None if name in asked else poses[name]
            shots.append(Shot(name, images.picture(path, name), None, camera, pose))
    index = {shot.name: i for i, shot in enumerate(shots)}
    listed = pairs(_file(root, "", release.pairs), index, known)
    return Tree(Place(root.resolve().name, tuple(shots), tuple(listed)), tuple(asked))


def _file(root: Path, folder: str, *names: str) -> Path:
    """Find the file with one of the names in a folder, or below it."""
    for name in names:
        place = root / folder if folder else root
        found = [place / name] if (place / name).is_file() or not folder else sorted(place.rglob(name))
        if found and found[0].is_file():
            return found[0]
    raise BadInput(f"{root / folder / names[-1]}: no such file; expected it there, from the benchmark")


def intrinsics(path: Path) -> dict[str, Camera]:
    """Read cameras by name, from lines with name, model, width, height and parameters.

    Raises:
        BadInput: the file is damaged or empty.
    """
    found: dict[str, Camera] = {}
    for where, words in rows(path, "lines of a name, a camera model, width, height and parameters"):
        if len(words) < 4:
            raise BadInput(
                f"{where}: {len(words)} words; expected a name, a camera model, width, height and parameters"
            )
        values = numbers(where, words[2:], len(words) - 2, "width, height and parameters")
        try:
            found[words[0]] = Camera(words[1], int(values[0]), int(values[1]), tuple(values[2:].tolist()))
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from error
    if not found:
        raise BadInput(f"{path}: holds no camera; expected lines of a name, a camera model, width, height, parameters")
    return found


def nvm(path: Path) -> dict[str, Array]:
    """Read poses (3, 4), world to camera, by name, from the first model of an NVM file.

    Lines: NVM_V3, number of cameras, then name, focal length, quaternion w x y z, camera centre, distortion and 0.

    Raises:
        BadInput: the file is damaged.
    """
    lines = rows(path, "an NVM file")
    if len(lines) < 2 or not lines[0][1][0].startswith("NVM") or not lines[1][1][0].isdecimal():
        raise BadInput(f"{path}: expected an NVM file: NVM_V3, then the number of cameras")
    count = int(lines[1][1][0])
    if len(lines) < 2 + count:
        raise BadInput(f"{path}: {len(lines) - 2} lines of {count} cameras; the file is cut short, fetch it again")
    found = {}
    for where, words in lines[2 : 2 + count]:
        values = numbers(where, words[1:11], 10, "focal length, quaternion, centre, distortion, 0")
        rotation = checked_quaternion(values[1:5], where)
        found[words[0].removeprefix("./")] = np.column_stack([rotation, -rotation @ values[5:8]])
    return found


def pairs(path: Path, index: Mapping[str, int], known: Mapping[str, object]) -> list[tuple[int, int]]:
    """Read index pairs from a list of names; pairs with unused images are left out.

    Raises:
        BadInput: a line is not a pair, or names an image that the database does not have.
    """
    found = []
    for where, words in rows(path, "a list of pairs, two image names per line"):
        if len(words) != 2 or not {*words} <= known.keys():
            raise BadInput(f"{where}: {' '.join(words)[:80]}: expected two names of images of the database")
        if {*words} <= index.keys():
            found.append((index[words[0]], index[words[1]]))
    return found


def write(out: Path, release: Release, method: str, poses: Mapping[str, Placed | None]) -> Path:
    """Write the file for the evaluation server: file name, quaternion w x y z and translation, world to camera.

    Queries that were not registered are left out; the server counts them as failed.
    """
    lines = [
        " ".join([Path(name).name, *(f"{value:.10g}" for value in [*quaternion(found.pose[:, :3]), *found.pose[:, 3]])])
        for name, found in poses.items()
        if found is not None
    ]
    path = out / release.result.format(method)
    return files.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
