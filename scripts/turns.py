"""Measure things in turns, in one process and on one clock; shared by the comparison scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lf.benchmarks.timing.latency_stats import ratio, written
from lf.core import Array, Artifact, LfError, UsageError
from lf.runtimes import open_session

WARM_UP = 5  # turns that do not count


def typed(usage: str, least: int, most: int | None = None) -> tuple[list[str], dict[str, str]]:
    """Parse the arguments of a comparison: words, and values of `--name=`.

    Raises:
        UsageError: fewer or more words than that, or an option that `usage` does not name; the text is `usage`.
    """
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    options = [word.partition("=") for word in sys.argv[1:] if word.startswith("-")]
    known = all(equals and f"[{name}=" in usage for name, equals, _ in options)
    if not known or not least <= len(words) <= (len(words) if most is None else most):
        raise UsageError(f"type: python -m scripts.{usage}")
    return words, {name[2:]: value for name, _, value in options}


def number(given: Mapping[str, str], name: str, usual: int) -> int:
    """The number that was typed for an option of a comparison.

    Raises:
        UsageError: it is none from 1 on.
    """
    text = given.get(name, str(usual))
    if not (text.isdecimal() and int(text)):
        raise UsageError(f"--{name}={text}: expected a number from 1 on, for example --{name}={usual}")
    return int(text)


def command(usage: str, least: int, most: int | None, run: Callable[[list[str], Mapping[str, str]], str]) -> None:
    """A comparison as a program: print what `run` makes of what was typed, or its error in one line, as `lf` does."""
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(f"type: python -m scripts.{usage}")
        return
    try:
        print(run(*typed(usage, least, most)))
    except LfError as error:
        print(f"lf: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("lf: interrupted", file=sys.stderr)
        sys.exit(130)


def milliseconds(run: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Time a call in ms, by default in CPU time."""
    start = clock()
    run()
    return (clock() - start) * 1e3


def measure(
    artifacts: Sequence[Artifact], pictures: Sequence[Array], threads: int, repeats: int, backend: str = "ort-cpu"
) -> Array:
    """(repeats, files) milliseconds of the network of each file on its image; every row is one turn through all.

    With one thread they are the processor's, with more the clock's.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    runs = [
        partial(open_session(artifact, backend, threads).run, picture)
        for artifact, picture in zip(artifacts, pictures, strict=True)
    ]
    rows = [[milliseconds(run, clock) for run in runs] for _ in range(WARM_UP + repeats)]
    return np.array(rows[WARM_UP:])


def times(slow: Array, fast: Array) -> str:
    """Slow over fast, (turns,) each: the median within a turn, and its 95 % bootstrap interval over turns."""
    return written(ratio(slow.tolist(), fast.tolist()), len(slow))
