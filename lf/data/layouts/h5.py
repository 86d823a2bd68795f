"""HDF5 layouts: hloc's with all images in one file, PoSFeat's with one file per array. Needs h5py."""

from __future__ import annotations

import errno
import importlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import Array, BadInput, Features, Unavailable, UsageError, files
from lf.core.packages import pip
from lf.formats import npz

NAME = "features.h5"
SLACK = 1 << 16  # additional bytes that must be free, for HDF5's own data
LAST = "image_size"  # written last: a group with it is complete


class Hdf5:
    """The file of hloc: a group for each image, named as the image, with descriptors (D, N).

    Images are added to `features.h5.part`, which is renamed at the end; an interrupted run resumes from it.
    """

    def __init__(self, where: Path) -> None:
        """Store the path of the file, or of the file in a folder.

        Raises:
            Unavailable: h5py is not installed.
        """
        self._h5py = h5py()
        self._path = where if where.suffix == ".h5" else _only(where)
        self._part = self._path.with_name(f"{self._path.name}.part")

    def __enter__(self) -> Hdf5:
        """Remove incomplete data of a killed run.

        Raises:
            UsageError: another run is writing it.
        """
        if self._part.is_file():
            try:
                self._h5py.File(self._part, "r").close()
            except BlockingIOError as error:  # locked by another run
                raise UsageError(
                    f"{self._part}: another run is writing it; wait until it ends, then type the command again"
                ) from error
            except OSError:
                self._part.unlink()
        return self

    def __exit__(self, *raised: object) -> None:
        """Rename the file when it is complete; keep the part to resume otherwise."""
        if raised[0] is None and self._part.is_file():
            self._part.replace(self._path)

    def has(self, name: str) -> bool:
        """See `Store`.

        Raises:
            BadInput: HDF5 cannot store that name.
        """
        if not files.is_utf8(name):
            raise BadInput(f"{name}: the name of this image is not UTF-8, as HDF5 needs it; rename it or leave it out")
        path = self._part if self._part.is_file() else self._path
        if not path.is_file():
            return False
        with opened(self._h5py, path) as file:
            return f"{name}/{LAST}" in file

    def write(self, name: str, features: Features) -> None:
        """See `Store`."""
        arrays = {
            "keypoints": features.keypoints,
            "scores": features.scores,
            "descriptors": features.descriptors.T,
            **({} if features.scales is None else {"scales": features.scales}),
            LAST: np.array(features.size),
        }
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            room(self._part.parent, arrays.values())
            if self._path.is_file() and not self._part.is_file():
                shutil.copyfile(self._path, self._part)
            with self._h5py.File(self._part, "a") as file:
                if name in file:
                    del file[name]
                group = file.create_group(name)
                for key, value in arrays.items():
                    group.create_dataset(key, data=value)
        except OSError as error:
            raise files.explain(error, self._path) from error
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"{self._path}: cannot be written ({error}); choose another place") from error

    def read(self, key: str, size: tuple[int, int]) -> Features:
        """See `Store`."""
        with opened(self._h5py, self._path) as file:
            group, where = self._find(file, key), f"{self._path}: {key}"
            scales, scores = (_array(group, n, where) if n in group else None for n in ("scales", "scores"))
            points, descriptors, stored = (_array(group, name, where) for name in ("keypoints", "descriptors", LAST))
        size = npz.size(where, LAST, stored)
        return npz.features(where, npz.columns(where, "keypoints", points, 2), scores, descriptors.T, size, scales)

    def _find(self, file: Any, key: str) -> Any:
        *folders, stem = key.split("/")
        group = file
        for name in folders:
            group = _child(group, name, self._h5py.Group, str(self._path))
        found = [stem] if stem in group else [name for name in group if name.startswith(f"{stem}.")]
        if len(found) != 1:
            have = f"{', '.join(found)}: which one?" if found else "none"
            raise BadInput(f"{self._path}: groups of image {key}: {have}; expected one, such as {key}.ppm")
        return _child(group, found[0], self._h5py.Group, str(self._path))


def read_sequence(folder: Path, stem: str, size: tuple[int, int]) -> Features:
    """Read image `stem` from PoSFeat's keypoints.h5, descriptors.h5 and, if it exists, scores.h5; rows as stored.

    Raises:
        Unavailable: h5py is not installed.
        BadInput: a file or the image is missing, or has other content.
    """
    arrays = {}
    for kind in ("keypoints", "descriptors", *(["scores"] if (folder / "scores.h5").is_file() else [])):
        with opened(h5py(), folder / f"{kind}.h5") as file:
            arrays[kind] = _array(file, stem, str(folder / f"{kind}.h5"))
    where = f"{folder}: {stem}"
    points = npz.columns(where, "keypoints", arrays["keypoints"], 2)
    scores = npz.columns(where, "scores", arrays["scores"], 1)[:, 0] if "scores" in arrays else None
    return npz.features(where, points, scores, arrays["descriptors"], size)


def room(folder: Path, arrays: Iterable[Array]) -> None:
    """Raise OSError if the disk is too full for the arrays: HDF5 itself might kill the process."""
    space = shutil.disk_usage(folder)
    if space.total and space.free < sum(array.nbytes for array in arrays) + SLACK:
        raise OSError(errno.ENOSPC, "no space left")


def h5py() -> Any:
    """Import the package h5py.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise Unavailable(f"HDF5 files need the package h5py; type: {pip('hloc')}") from error


def _only(folder: Path) -> Path:
    """Return `features.h5` in a folder, or the only .h5 file if it has another name."""
    found = sorted(folder.glob("*.h5")) if folder.is_dir() else []
    return found[0] if len(found) == 1 else folder / NAME


@contextmanager
def opened(package: Any, path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading.

    Raises:
        BadInput: it is missing or damaged.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected an HDF5 file of features")
    try:
        with package.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: cannot be read as HDF5 ({error})") from error


def _child(group: Any, name: str, kind: Any, where: str) -> Any:
    """Return the item `name` of a group, unless it is a link to another file."""
    package = h5py()
    if not isinstance(group.get(name, getlink=True), package.HardLink) or not isinstance(group[name], kind):
        raise BadInput(f"{where}: {name} is missing or no {kind.__name__.lower()} of this file")
    return group[name]


def _array(group: Any, name: str, where: str) -> Array:
    """Read a dataset after checking that it holds numbers, is in this file, and has the declared size."""
    if name not in group:
        raise BadInput(f"{where}: holds no {name} but {', '.join([*group][:12]) or 'nothing'}")
    found = _child(group, name, h5py().Dataset, where)
    if found.dtype.kind not in "fiu" or found.shape is None or found.is_virtual or found.external:
        raise BadInput(f"{where}: {name} is no array of numbers in this file")
    if found.nbytes > npz.LIMIT:
        raise BadInput(f"{where}: {name} claims {found.nbytes} bytes; expected at most {npz.LIMIT}")
    array = np.asarray(found[()])
    if not np.isfinite(array).all():
        raise BadInput(f"{where}: {name} holds a value that is not finite")
    return array
