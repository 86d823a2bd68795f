"""TROUBLE: two processes in one folder, a disk that fills, folders that vanish or are read-only, a clock that jumps."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

from .commands import OUT, words
from .forked import Ended, Running, jumping, run
from .moments import Whole, judged

Cause = Callable[[str, Path, Whole, int], str]
LEAST = 16 << 10  # bytes of a disk that is soon full
REFUSED = (1, 2, 5)  # exit codes of a command that could not go on


def two(name: str, place: Path, reference: Whole, seed: int) -> str:
    """Two processes begin in one folder at a time: each makes the result or is refused."""
    shutil.rmtree(place / OUT, ignore_errors=True)
    both = [Running(words(name), place / f"said{n}") for n in range(2)]
    ended = [each.end() for each in both]
    if wrong := [each for each in ended if not each.clean or each.code not in (0, *REFUSED)]:
        return f"one ended with {wrong[0].code}: {wrong[0].said.strip()[-300:]}"
    return judged(name, place, reference, ended[0])


def full(name: str, place: Path, reference: Whole, seed: int) -> str:
    """The disk has space for half of the result; with more space the same command resumes."""
    shutil.rmtree(place / OUT, ignore_errors=True)
    (place / OUT).mkdir()
    try:
        with _mounted(place / OUT, f"size={max(LEAST, reference.bytes // 2)}"):
            ended = run(words(name), place / "said")
            wrong = _refused(ended, "full")
            subprocess.run(["mount", "-o", "remount,size=1G", place / OUT], check=True)
            return wrong or judged(name, place, reference, ended)
    except PermissionError:
        return "skipped: needs root to mount a small disk"


def read_only(name: str, place: Path, reference: Whole, seed: int) -> str:
    """The folder cannot be written."""
    shutil.rmtree(place / OUT, ignore_errors=True)
    (place / OUT).mkdir()
    try:
        with _mounted(place / OUT, "ro"):
            ended = run(words(name), place / "said")
    except PermissionError:
        return "skipped: needs root to mount a read-only folder"
    return _refused(ended, "cannot be written") or judged(name, place, reference, ended)


def vanishing(name: str, place: Path, reference: Whole, seed: int) -> str:
    """Somebody deletes the folder in the middle."""
    shutil.rmtree(place / OUT, ignore_errors=True)
    running = Running(words(name), place / "said")
    ended = running.wait(Random(f"{seed}/{name}").uniform(0.2, 0.8) * reference.seconds)
    shutil.rmtree(place / OUT, ignore_errors=True)
    return judged(name, place, reference, ended or running.end())


def clock(name: str, place: Path, reference: Whole, seed: int) -> str:
    """The clock jumps by up to a year at every look at it."""
    shutil.rmtree(place / OUT, ignore_errors=True)
    ended = run(words(name), place / "said", partial(jumping, seed))
    return judged(name, place, reference, ended) or ("" if ended.code == 0 else f"ended with {ended.code}")


def _refused(ended: Ended, text: str) -> str:
    """Return an error text unless the command was refused as expected."""
    if ended.clean and ended.code in REFUSED and text in ended.said:
        return ""
    return f"ended with {ended.code}, expected one line with '{text}': {ended.said.strip()[-300:]}"


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory at a folder."""
    if os.geteuid():
        raise PermissionError
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(done.stderr)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


TROUBLE: dict[str, Cause] = {
    "two processes": two,
    "full disk": full,
    "read-only folder": read_only,
    "vanishing folder": vanishing,
    "jumping clock": clock,
}
