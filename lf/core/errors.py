"""Errors and their exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ANOTHER = "is it a file of this model? Make it again"
REMEDY = "its weights or their quantization are broken: use an earlier checkpoint, or another scheme"


class LfError(Exception):
    """An error in one line: what is wrong, what was expected, what to type. `exit_code` is that of the process."""

    exit_code = 1


class UsageError(LfError):
    """An option or argument is unknown or does not fit."""

    exit_code = 2


class GateFailed(LfError):
    """A figure is outside its gate."""

    exit_code = 3


class Unavailable(LfError):
    """An engine, execution provider, device or optional package is missing."""

    exit_code = 4


class BadInput(LfError):
    """A file or folder is missing, damaged, or of another kind than expected."""

    exit_code = 5


class BadModel(BadInput):
    """A model file has, or computes, invalid values, such as a map that is not finite.

    Attributes:
        what: what is wrong and what was expected, without the file.
        path: path of the file; None if unknown, see `blaming`.
        remedy: advice.
    """

    def __init__(self, what: str, path: Path | None = None, remedy: str = REMEDY) -> None:
        super().__init__(what if path is None else f"{path}: {what}; {remedy}")
        self.what, self.path, self.remedy = what, path, remedy

    @classmethod
    def not_finite(cls, where: str, path: Path | None = None) -> BadModel:
        """Return the error for a non-finite value in `where`: a map, weights, features ..."""
        return cls(f"{where} holds a non-finite value, expected finite numbers", path)


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Add the model file `path` to BadModel errors without a file."""
    try:
        yield
    except BadModel as error:
        if error.path is not None:
            raise
        raise BadModel(error.what, path, error.remedy) from error


class ConversionFailed(LfError):
    """A conversion gave no file, or one that must not be written; one with other options or versions may do."""


class DiskFull(LfError):
    """There is no space left for a file."""


def one_line(error: BaseException, most: int | None = None) -> str:
    """Return the text of a library's error as one line of at most `most` characters."""
    return " ".join(str(error).split())[:most]
