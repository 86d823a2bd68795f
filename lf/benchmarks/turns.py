"""What the comparisons of this room share: things that take turns in one process, on one clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lf.benchmarks.latency_stats import ratio
from lf.core import Array


def milliseconds(run: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """How long a call takes; by default of the processor."""
    start = clock()
    run()
    return (clock() - start) * 1e3


def times(slow: Array, fast: Array) -> str:
    """Slow over fast, (turns,) each: the median within a turn, and its 95 % bootstrap interval over turns."""
    found = ratio(slow.tolist(), fast.tolist())
    return "{:.2f} [{:.2f}, {:.2f}]".format(found["value"], *found["interval"]) if found else "-"
