"""Output of the command line: results on stdout, progress and one-line errors on stderr."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lf.core.progress import Bar, Lines

Progress = Callable[[int, int, str], None]

_TURN = threading.Lock()
_KEPT: list[int] = []  # the original stderr, for each open `quiet`
task = "lf"  # name of the running command, for progress before its first report; lf/cli sets it


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a function (done, total, text) that shows progress and the remaining time.

    A terminal gets a bar. Elsewhere, such as in a log, work longer than FIRST seconds gets a line every EVERY seconds,
    unless the environment variable LF_PROGRESS is `off`; see `lf.core.progress`.
    """
    if not sys.stderr.isatty():
        if os.environ.get("LF_PROGRESS") == "off":
            yield lambda done, total, text: None
            return
        with Lines(note, task) as lines:
            yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with (
        open(os.dup(2), "w", encoding=sys.stderr.encoding, errors="backslashreplace") as terminal,  # never `quiet`
        Progress(*columns, console=Console(file=terminal), transient=True) as bar,
    ):
        yield Bar(bar, task)


def result(text: object) -> None:
    """Print a result on stdout."""
    print(text, flush=True)


def as_json(data: Any) -> None:
    """Print one object on stdout."""
    result(json.dumps(data, indent=1, allow_nan=False))


def note(text: str) -> None:
    """Print a remark on stderr, also while another thread keeps it `quiet`."""
    with _TURN:
        if _KEPT:
            os.write(_KEPT[0], f"{text}\n".encode(errors="backslashreplace"))
        else:
            print(text, file=sys.stderr, flush=True)


def skipped(failed: Mapping[str, str], count: int | None = None) -> None:
    """Print the number of skipped images, of `count`, and the reasons."""
    for why in failed.values():
        note(f"lf: skipped: {why}")
    if failed and count is not None:
        note(f"lf: skipped {len(failed)} of {count} images")


def summary(markdown: str) -> None:
    """Append to the step summary of GitHub Actions, if there is one."""
    target = os.environ.get("GITHUB_STEP_SUMMARY")
    if target:
        with Path(target).open("a") as file:
            file.write(markdown + "\n")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress output of libraries on stderr; their errors are exceptions.

    Stderr belongs to the process: several threads may be inside, and the last one to leave restores it.
    """
    if sys.__stderr__ is None:  # closed
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
            kept = _KEPT.pop()  # the first entry, which is popped last, is stderr itself
            if not _KEPT:
                os.dup2(kept, 2)
            os.close(kept)
