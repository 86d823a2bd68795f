"""What the comparisons of this room share: things that take turns in one process, on one clock."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from lf.benchmarks.latency_stats import ratio
from lf.core import Array, Artifact
from lf.runtimes import open_session

WARM_UP = 5  # turns that do not count


def typed(usage: str, least: int, most: int | None = None) -> tuple[list[str], dict[str, str]]:
    """What was typed behind the name of a comparison: words, and what follows `--name=`.

    Ends the program with `usage` where there are fewer or more words than that, or an option that it does not name.
    """
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    options = [word[2:].partition("=") for word in sys.argv[1:] if word.startswith("--")]
    known = all(equals and f"--{name}=" in usage for name, equals, _ in options)
    if not known or not least <= len(words) <= (most or len(words)):
        sys.exit(f"type: python -m lf.benchmarks.{usage}")
    return words, {name: value for name, _, value in options}


def milliseconds(run: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """How long a call takes; by default of the processor."""
    start = clock()
    run()
    return (clock() - start) * 1e3


def measure(
    artifacts: Sequence[Artifact], pictures: Sequence[Array], threads: int, repeats: int, backend: str = "ort-cpu"
) -> Array:
    """(repeats, files) milliseconds of the network of each file on its picture; every row is one turn through all.

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
    found = ratio(slow.tolist(), fast.tolist())
    return "{:.2f} [{:.2f}, {:.2f}]".format(found["value"], *found["interval"]) if found else "-"
