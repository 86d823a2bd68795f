"""What the command line says: the result on stdout, progress on stderr when that is a terminal, errors in one line."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Progress = Callable[[int, int, str], None]

FIRST, EVERY = 10.0, 30.0  # seconds: before the first line of progress without a terminal, and between two

_TURN = threading.Lock()
_KEPT: list[int] = []  # what stderr was, for each `quiet` that is open


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a function (done, total, text) that shows how far the work is and how long the rest will take.

    A terminal gets a bar. Elsewhere, such as in a log, work longer than FIRST seconds gets a line every EVERY seconds,
    unless the environment variable LF_PROGRESS is `off`.
    """
    if not sys.stderr.isatty():
        yield (lambda done, total, text: None) if os.environ.get("LF_PROGRESS") == "off" else _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with (
        open(os.dup(2), "w", encoding=sys.stderr.encoding, errors="backslashreplace") as terminal,  # never `quiet`
        Progress(*columns, console=Console(file=terminal), transient=True) as bar,
    ):
        task = bar.add_task("", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)


class _Lines:
    """Progress as plain lines: `120/580 (21 %), 40 s left: wren.onnx ort-cpu v_boat 1_2`."""

    def __init__(self) -> None:
        self._begun, self._told, self._turn = time.monotonic(), 0.0, threading.Lock()

    def __call__(self, done: int, total: int, text: str) -> None:
        """Write a line if the last one is long ago."""
        with self._turn:
            now = time.monotonic()
            passed = now - self._begun
            if passed < FIRST or (self._told and now - self._told < EVERY):
                return
            self._told = now
        left = f", {passed * (total - done) / done:.0f} s left" if 0 < done < total else ""
        note(f"{done}/{total} ({100 * done / max(1, total):.0f} %){left}: {text}")


def result(text: object) -> None:
    """Print a result on stdout."""
    print(text, flush=True)


def as_json(data: Any) -> None:
    """Print one object on stdout."""
    result(json.dumps(data, indent=1, allow_nan=False))


def note(text: str) -> None:
    """Print a remark on stderr, heard even where another thread keeps it `quiet`."""
    with _TURN:
        if _KEPT:
            os.write(_KEPT[0], f"{text}\n".encode(errors="backslashreplace"))
        else:
            print(text, file=sys.stderr, flush=True)


def skipped(failed: Mapping[str, str], count: int | None = None) -> None:
    """Say why images were skipped, and how many of `count`."""
    for why in failed.values():
        note(f"lf: skipped: {why}")
    if failed and count is not None:
        note(f"lf: skipped {len(failed)} of {count} images")


def summary(markdown: str) -> None:
    """Append to the step summary of GitHub Actions, where there is one."""
    target = os.environ.get("GITHUB_STEP_SUMMARY")
    if target:
        with Path(target).open("a") as file:
            file.write(markdown + "\n")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep off stderr what a library says there by itself, whatever it is written in; its errors are exceptions.

    Stderr is the process's: threads may be in here together, and the last one to leave gives it back.
    """
    if sys.__stderr__ is None:  # closed, so nobody hears it
        yield
        return
    with _TURN:
        sys.stderr.flush()
        _KEPT.append(os.dup(2))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    try:
        yield
    finally:
        with _TURN:
            kept = _KEPT.pop()  # the last one that is left is the first one: stderr itself
            if not _KEPT:
                os.dup2(kept, 2)
            os.close(kept)
