"""Read and write files: atomically, within size limits, with one-line errors. Standard library only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lf.core import BadInput, BadModel, DiskFull, UsageError

MAX_MODEL_BYTES = 2 << 30  # an ONNX protobuf cannot be larger
MAX_JSON_BYTES = 256 << 20


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any failure.

    Raises:
        UsageError: the folder cannot be written, or `path` exists and is not a regular file.
        DiskFull: there is no space left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # renaming onto /dev/null would replace it
            raise FileExistsError(errno.EEXIST, "it exists and is not a regular file")
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise explain(error, path) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def refuse_own(out: Path, parent: Path) -> None:
    """Raise UsageError if a command would overwrite the file that it reads."""
    if out.exists() and out.samefile(parent):
        raise UsageError(f"{out}: is the input file; choose another path with -o")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def explain(error: OSError, path: Path) -> DiskFull | UsageError:
    """Return the error for a path that could not be written: DiskFull or UsageError."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{path}: the disk is full; nothing was written. Free some space or choose another place")
    return UsageError(f"{path}: cannot be written ({error.strerror or error}); choose another place")


@contextmanager
def taken_back(note: Path) -> Iterator[None]:
    """Remove `note`, the record of its folder's settings, if the model is broken and the folder has nothing else."""
    try:
        yield
    except BadModel:
        if [*note.parent.iterdir()] == [note]:
            note.unlink(missing_ok=True)
        raise


class _Tried(Exception):
    pass


def check_place(path: Path) -> None:
    """Raise the error of `atomic` if `path` cannot be written, without changing an existing file."""
    with suppress(_Tried), atomic(path):
        raise _Tried


def is_utf8(name: str) -> bool:
    """Return whether a file name is UTF-8. For other names OpenCV kills the process, and HDF5 cannot store them."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def expand(path: str) -> Path:
    """Return the path with `~` or `~name` replaced by a home folder.

    Raises:
        BadInput: there is no such home folder, or the path has a zero byte.
    """
    if "\0" in path:
        raise BadInput(f"{path!r}: a path with a zero byte; expected a path without")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BadInput(f"{path}: there is no home folder {Path(path).parts[0]}; give the whole path") from error


def write_bytes(path: Path, data: bytes) -> Path:
    """Write `data` atomically; return `path`."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return path


def write_json(path: Path, data: Any) -> Path:
    """Write `data` as indented JSON (strict: NaN is refused), atomically; return `path`."""
    return write_bytes(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, what: str, limit: int = MAX_JSON_BYTES) -> Any:
    """Parse a JSON file of at most `limit` bytes, as strictly as `write_json` writes it.

    Raises:
        BadInput: missing or not JSON; `what` says what was expected.
    """
    try:
        return json.loads(read_bytes(path, what, limit), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON ({error}); expected {what}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def read_bytes(path: Path, what: str, limit: int = MAX_MODEL_BYTES) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Raises:
        BadInput: missing, a folder, empty, larger than `limit`, unreadable; `what` says what was expected.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; expected {what}")
        if size == 0:
            raise BadInput(f"{path}: is empty; expected {what}")
        if size > limit:
            raise BadInput(f"{path}: {size} bytes are more than the {limit} that {what} may have")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; expected {what}") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error


def sha256(path: Path, what: str) -> str:
    """Return the hex sha256 of a file.

    Raises:
        BadInput: it cannot be read; `what` says what was expected.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); expected {what}") from error
