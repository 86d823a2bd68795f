"""Read text files with one camera or pair per line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from lf.core import Array, BadInput, files, one_line

LIMIT = 512 << 20  # bytes of a text file
LONGEST = 255  # bytes of a file name, in every file system


def rows(path: Path, what: str) -> list[tuple[str, list[str]]]:
    """(`file:line`, words) of every line that is not empty and does not begin with `#`.

    Raises:
        BadInput: the file cannot be read, or is not UTF-8 text.
    """
    try:
        text = files.read_bytes(path, what, LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: no UTF-8 text ({error.reason}); expected {what}") from error
    if "\0" in text:
        raise BadInput(f"{path}: no text (it holds a zero byte); expected {what}")
    numbered = ((f"{path}:{number}", line.split()) for number, line in enumerate(text.splitlines(), 1))
    return [(where, words) for where, words in numbered if words and not words[0].startswith("#")]


def check_inside(where: str, name: str) -> None:
    """Raise BadInput if an image path leads out of its folder, or is not a possible path."""
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BadInput(f"{where}: image {name} is outside of the folder; expected a path below it")
    if "\0" in name or any(len(os.fsencode(part)) > LONGEST for part in path.parts):
        raise BadInput(f"{where}: image {name[:40]!r}... is no file name; expected at most {LONGEST} bytes, none zero")


def numbers(where: str, words: Sequence[str], count: int, what: str) -> Array:
    """Parse words as numbers (count,) float64.

    Raises:
        BadInput: the number of words is not `count`, or a word is not a finite number.
    """
    if len(words) != count:
        raise BadInput(f"{where}: {len(words)} numbers; expected {count}: {what}")
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise BadInput(f"{where}: {one_line(error, 100)}; expected {count} numbers: {what}") from error
    if not np.isfinite(values).all():
        raise BadInput(f"{where}: a value is not finite; expected {count} numbers: {what}")
    return values
