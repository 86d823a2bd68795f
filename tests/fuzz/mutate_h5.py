"""Mutators of HDF5 files through HDF5: wrong types and shapes, links, claims, compressed zeros."""

from __future__ import annotations

import io
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from .mutate_bytes import Mutator, flip

Change = Callable[[Any, str], object]


def _compound(file: Any, name: str) -> None:
    file[name] = np.zeros(3, [("a", "<f4"), ("b", "<i8")])


def _texts(file: Any, name: str) -> None:
    import h5py

    file.create_dataset(name, data=["a", "b"], dtype=h5py.string_dtype())


def _vector(file: Any, name: str) -> None:
    import h5py

    file.create_dataset(name, shape=(3,), dtype=h5py.vlen_dtype(np.float32))


def _external(file: Any, name: str) -> None:
    import h5py

    file[name] = h5py.ExternalLink("/etc/passwd", "/x")


def _raw(file: Any, name: str) -> None:
    file.create_dataset(name, shape=(100,), dtype="u1", external=[("/etc/passwd", 0, 100)])


def _soft(file: Any, name: str) -> None:
    import h5py

    file[name] = h5py.SoftLink(f"/{name}")


def _virtual(file: Any, name: str) -> None:
    import h5py

    layout = h5py.VirtualLayout(shape=(4, 2), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(4, 2))
    file.create_virtual_dataset(name, layout)


CHANGES: tuple[Change, ...] = (
    *(_compound, _texts, _vector, _external, _raw, _soft, _virtual),
    lambda file, name: file.create_group(name),
    lambda file, name: file.create_dataset(name, data=5.0),
    lambda file, name: file.create_dataset(name, data=np.zeros((0, 2))),
    lambda file, name: file.create_dataset(name, data=np.zeros((2, 3, 4))),
    lambda file, name: file.create_dataset(name, data=np.full((4, 2), np.nan)),
    lambda file, name: file.create_dataset(name, data=np.zeros((7, 2), "<i8")),
    lambda file, name: file.create_dataset(name, data=np.zeros(4, np.complex64)),
    lambda file, name: file.create_dataset(name, data=np.array([1e300, -1e300])),
    lambda file, name: file.create_dataset(name, data=np.array([2**63 - 1, 0])),
    lambda file, name: file.create_dataset(name, data=None, dtype="f4", shape=None),
    lambda file, name: file.create_dataset(name, shape=(1 << 20, 1 << 20), dtype="f4", chunks=(64, 64)),
    lambda file, name: file.create_dataset(
        name, shape=(1 << 13, 1 << 13), dtype="f4", chunks=(512, 512), compression="gzip"
    ),
    lambda file, name: None,
)


def objects(data: bytes, rng: Random) -> bytes:
    """Replace a group or a data set by something else."""
    import h5py

    stream = io.BytesIO(data)
    try:
        with h5py.File(stream, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            name = rng.choice(names)
            del file[name]
            rng.choice(CHANGES)(file, name)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, NotImplementedError):
        return flip(data, rng)
    return stream.getvalue()


HDF5: tuple[Mutator, ...] = (objects, objects, objects)
