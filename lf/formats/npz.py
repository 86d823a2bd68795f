"""Read npz archives from untrusted sources: no pickles, bounded memory."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from lf.core import Array, BadInput, Features, LfError, files

LIMIT = 1 << 30  # bytes of a file, and of the arrays that are read from it
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read(
    path: Path, what: str, needed: Collection[str], optional: Collection[str] = (), text: Collection[str] = ()
) -> dict[str, Array]:
    """Read some arrays of an npz file; others are not read.

    Args:
        path: the file.
        what: what was expected, for messages.
        needed: names of required arrays.
        optional: names of optional arrays.
        text: names of required arrays that hold text instead of numbers.

    Raises:
        BadInput: missing, not an npz file, damaged, too large, or an array is missing or has no finite numbers.
    """
    data = files.read_bytes(path, what, LIMIT)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = [name for name in (*needed, *optional) if name in members]
            if sum(members[name].file_size for name in wanted) > LIMIT:
                raise ValueError(f"it unpacks to more than {LIMIT} bytes")
            arrays = {name: _array(archive.read(members[name]), name, name in text) for name in wanted}
    except Exception as error:  # damaged archives raise many kinds of errors
        raise BadInput(f"{path}: cannot be read as npz ({error or type(error).__name__}); expected {what}") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        have = ", ".join(ascii(name)[1:-1] for name in [*members][:12])
        raise BadInput(f"{path}: holds no {', '.join(missing)} but {have or 'nothing'}; expected {what}")
    return arrays


def _array(raw: bytes, name: str, text: bool) -> Array:
    stream = io.BytesIO(raw)
    shape, fortran, dtype = HEADERS[npy.read_magic(stream)](stream)
    if dtype.kind not in ("U" if text else "fiub"):
        raise ValueError(f"{name} holds {dtype}, not {'text' if text else 'numbers'}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(raw) - stream.tell():
        raise ValueError(f"{name} claims the shape {shape} in {len(raw)} bytes")
    array: Array = np.ndarray(shape, dtype, raw, stream.tell(), order="F" if fortran else "C")
    if text:
        array.tolist()  # raises for invalid characters
    elif not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite")
    return array


def write(path: Path, arrays: Mapping[str, Array], *, compressed: bool = False) -> None:
    """Write an npz file atomically."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=False, **arrays)
    files.write_bytes(path, buffer.getvalue())


def columns(where: object, name: str, array: Array, count: int) -> Array:
    """Return `array` after checking that it is (N, count).

    Raises:
        BadInput: it is not.
    """
    if array.ndim != 2 or array.shape[1] != count:
        raise BadInput(f"{where}: {name} of shape {array.shape}; expected (N, {count})")
    return array


def size(where: object, name: str, array: Array) -> tuple[int, int]:
    """Return two sides in pixels, in their order, after checking them.

    Raises:
        BadInput: they are not.
    """
    if array.shape != (2,) or not all(1 <= side <= 1 << 20 for side in array.tolist()):
        raise BadInput(
            f"{where}: {name} is {array.tolist() if array.size < 4 else array.shape}; expected two sides in px"
        )
    return int(array[0]), int(array[1])


def features(
    where: object,
    points: Array,
    scores: Array | None,
    descriptors: Array,
    size: tuple[int, int],
    scales: Array | None = None,
) -> Features:
    """Make `Features` from the arrays of a file; `scores` None if it has none.

    Raises:
        BadInput: the arrays do not fit together.
    """
    try:
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf, which Features refuses
            known = np.ones(points.shape[:1]) if scores is None else scores
            return Features(points, known, descriptors, size, scales, scored=scores is not None)
    except LfError as error:
        raise BadInput(f"{where}: {error}") from error
