"""Places: images to reconstruct, with known cameras and poses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from lf.core import Array, BadInput, files
from lf.data import Picture, colmap, colmap_cameras, images, posed
from lf.data.posed import folders

IMAGES = "images"  # folder of a scene in the layout of the ETH benchmark
CAMERAS = "database.db"  # cameras, beside the folder


@dataclass(frozen=True)
class Shot:
    """An image of a place.

    Attributes:
        name: unique in its place; the name in COLMAP's files.
        picture: its image file or drawn image.
        matrix: (3, 3) intrinsics, pixel centres at integers; None if unknown, or if `camera` is given.
        camera: camera in COLMAP's form; None if unknown, or if `matrix` is given.
        pose: (3, 4) world to camera; None if unknown.
    """

    name: str
    picture: Picture
    matrix: Array | None = None
    camera: colmap_cameras.Camera | None = None
    pose: Array | None = None

    @property
    def known(self) -> bool:
        """True if the intrinsics are known."""
        return self.matrix is not None or (self.camera is not None and self.camera.known)

    def seen(self, size: tuple[int, int]) -> colmap_cameras.Camera:
        """Return the camera for an image of (width, height); a guess if the intrinsics are unknown.

        Raises:
            BadInput: the camera is of another size.
        """
        if self.camera is None:
            return colmap_cameras.guessed(size) if self.matrix is None else colmap_cameras.pinhole(size, self.matrix)
        if (self.camera.width, self.camera.height) != size:
            said = f"{self.camera.width}x{self.camera.height}"
            raise BadInput(f"{self.name}: {size[0]}x{size[1]} pixels, its camera has {said}; expected the same size")
        return self.camera


@dataclass(frozen=True)
class Place:
    """Images in one world.

    Attributes:
        name: name of the place, such as that of its folder.
        shots: in the order of the data.
        listed: index pairs that the data lists; None without a list.
    """

    name: str
    shots: tuple[Shot, ...]
    listed: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        """Refuse names that lead out of a folder, and duplicate names."""
        seen = set()
        for shot in self.shots:
            path = PurePosixPath(shot.name)
            if path.is_absolute() or ".." in path.parts or shot.name in seen:
                raise BadInput(f"{self.name}: image '{shot.name}' is named twice, or its name leaves its folder")
            seen.add(shot.name)

    @property
    def digest(self) -> str:
        """Hex sha256 of names, images, cameras and poses."""
        digest = hashlib.sha256(self.name.encode("utf-8", "surrogateescape"))
        for shot in self.shots:
            digest.update(f"\0{shot.name}\0{shot.picture.digest}\0{shot.camera}".encode("utf-8", "surrogateescape"))
            for numbers in (shot.matrix, shot.pose):
                digest.update(b"" if numbers is None else np.ascontiguousarray(numbers, "<f8").tobytes())
        return digest.hexdigest()


def places(spec: str) -> list[Place]:
    """Read the places of a dataset.

    Args:
        spec: `posed:DIR`, `scenes:N`, or a folder. The folder has cameras and poses as for `posed:`; or `images/` and a
            `database.db` with the cameras, as in the ETH benchmark; or only images.

    Raises:
        UsageError: see `lf.data.posed.scenes`.
        BadInput: no images, or damaged cameras.
    """
    name, colon, _ = spec.partition(":")
    folder = files.expand(spec)
    plain = not (name in ("posed", "scenes") and (colon or name == "scenes")) and folder.is_dir()
    if plain and not folders.find(folder):
        return [_unposed(folder)]
    return [_posed(scene) for scene in posed.scenes(spec)]


def _posed(scene: posed.Scene) -> Place:
    shots = [
        Shot(view.name, view.image, view.K, None, np.column_stack([view.rotation, view.translation]))
        for view in scene.views
    ]
    return Place(scene.name, tuple(shots), scene.listed)


def _unposed(folder: Path) -> Place:
    inner = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    cameras: dict[str, colmap_cameras.Camera] = {}
    if (folder / CAMERAS).is_file():
        with colmap.opened(folder / CAMERAS) as database:
            cameras = database.cameras()
    shots = []
    for path in images.list_images(inner):
        name = path.relative_to(inner).as_posix()
        if not files.is_utf8(name):
            raise BadInput(f"{path}: the name of this image is not UTF-8, as COLMAP needs it; rename it")
        if cameras and name not in cameras:
            raise BadInput(f"{folder / CAMERAS}: has no camera of image {name}; add it, or delete the database")
        shots.append(Shot(name, images.picture(path, name), None, cameras.get(name)))
    return Place(folder.resolve().name, tuple(shots))


def refuse_unknown(place: Place, option: str) -> None:
    """Raise BadInput if the intrinsics of an image are unknown; the error suggests `option`."""
    missing = [shot.name for shot in place.shots if not shot.known]
    if missing:
        raise BadInput(
            f"{place.name}: no intrinsics of {len(missing)} of {len(place.shots)} images, such as {missing[0]}; "
            f"add cameras.txt (name, K, world to camera), or {option}"
        )
