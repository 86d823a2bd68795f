"""PoSFeat's HDF5 layout: one file per array for each folder, one data set per image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput, Features, UsageError, files
from lf.data.layouts.h5 import h5py, opened, read_sequence, room

KINDS = ("keypoints", "descriptors", "scores", "scales")


class Sequences:
    """`SEQUENCE/keypoints.h5` and three more files; a data set has the name of its image up to the first dot.

    Images are added to `*.h5.part`, which are renamed at the end; an interrupted run resumes from them.
    """

    def __init__(self, folder: Path) -> None:
        """Store the folder of all sequences.

        Raises:
            Unavailable: h5py is not installed.
        """
        self._h5py, self._folder = h5py(), folder
        self._names: dict[tuple[Path, str], str] = {}

    def __enter__(self) -> Sequences:
        """Remove incomplete data of a killed run.

        Raises:
            UsageError: another run is writing it.
        """
        for part in sorted(self._folder.rglob("*.h5.part")) if self._folder.is_dir() else ():
            try:
                self._h5py.File(part, "r").close()
            except BlockingIOError as error:  # locked by another run
                raise UsageError(
                    f"{part}: another run is writing it; wait until it ends, then type the command again"
                ) from error
            except OSError:
                part.unlink()
        return self

    def __exit__(self, *raised: object) -> None:
        """Rename the files when they are complete; keep the parts to resume otherwise."""
        if raised[0] is None and self._folder.is_dir():
            for part in sorted(self._folder.rglob("*.h5.part")):
                part.replace(part.with_suffix(""))

    def has(self, name: str) -> bool:
        """See `Store`.

        Raises:
            UsageError: another image has the same name up to its first dot.
            BadInput: HDF5 cannot store that name.
        """
        folder, stem = self._place(name)
        if not files.is_utf8(stem):
            raise BadInput(f"{name}: the name of this image is not UTF-8, as HDF5 needs it; rename it or leave it out")
        other = self._names.setdefault((folder, stem), name)
        if other != name:
            raise UsageError(f"{other} and {name} would both be {stem} in {folder / 'keypoints.h5'}; rename one")
        return all(self._holds(folder / f"{kind}.h5", stem) for kind in KINDS)

    def write(self, name: str, features: Features) -> None:
        """See `Store`; without scales they are 1, as the original has them."""
        folder, stem = self._place(name)
        scales = np.ones(len(features), np.float32) if features.scales is None else features.scales
        arrays = dict(zip(KINDS, (features.keypoints, features.descriptors, features.scores, scales), strict=True))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            room(folder, arrays.values())
            for kind, array in arrays.items():
                self._add(folder / f"{kind}.h5", stem, array if array.ndim > 1 else array[:, None])
        except OSError as error:
            raise files.explain(error, folder) from error
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"{folder}: cannot be written ({error}); choose another place") from error

    def read(self, key: str, size: tuple[int, int]) -> Features:
        """See `Store`."""
        folder, stem = self._place(key)
        if not self._holds(folder / "keypoints.h5", stem):
            raise BadInput(f"{folder / 'keypoints.h5'}: features of image {key}: none; expected a data set {stem}")
        return read_sequence(folder, stem, size)

    def _place(self, name: str) -> tuple[Path, str]:
        path = self._folder / name
        return path.parent, path.name.partition(".")[0]

    def _holds(self, path: Path, stem: str) -> bool:
        part = path.with_name(f"{path.name}.part")
        path = part if part.is_file() else path
        if not path.is_file():
            return False
        with opened(self._h5py, path) as file:
            return stem in file

    def _add(self, path: Path, stem: str, array: Array) -> None:
        part = path.with_name(f"{path.name}.part")
        if path.is_file() and not part.is_file():
            shutil.copyfile(path, part)
        with self._h5py.File(part, "a") as file:
            if stem in file:
                del file[stem]
            file.create_dataset(stem, data=array)
