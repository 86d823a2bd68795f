"""Statistics of turns: percentiles, drift, void runs, ratios to a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lf.benchmarks.protocols.summary import Statistic, bootstrap, brackets
from lf.benchmarks.timing.record import Ratio, Timing
from lf.core import Array
from lf.core.machine import ratios_of_turns

PERCENTILES = (50, 90, 95, 99)
STEADY = 0.05  # largest relative change of the median from the first third to the last
FEWEST = 6  # least number of times for a drift: two in each third
BUSY = 0.05  # largest relative deviation of CPU time from the range that wall time allows


def _median(values: Array) -> Array:
    return np.asarray(np.median(values, axis=-1))


MEDIAN = Statistic("median over turns", lambda value: value, _median)


def summarise(times: Mapping[str, Sequence[float]], threads: int, on_cpu: bool = True) -> dict[str, Any]:
    """Return the fields of a run that summarise its turns; see docs/reference/results-file.md.

    Args:
        times: phase -> ms per turn; `end_to_end` is wall time, `cpu` the CPU time of all threads of the process.
        threads: number of threads of the engine.
        on_cpu: whether the engine computes on the CPU; if it waits for a device, CPU time is less than wall time.
    """
    wall, cpu = sum(times["end_to_end"]), sum(times["cpu"])
    moved = drift(times["end_to_end"])
    return {
        "latency_ms": {phase: percentiles(values) for phase, values in times.items() if phase != "cpu"},
        "cpu_ms": percentiles(times["cpu"]),
        "cpu_share": round(cpu / wall, 4),
        "void": void(cpu / wall, threads, on_cpu),
        "stationary": steady(times["end_to_end"]),
        "drift": moved,
        "samples_ms": {phase: [*values] for phase, values in times.items()},
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the percentiles of times: {"p50", "p90", "p95", "p99", "n"}."""
    found = np.percentile(values, PERCENTILES).round(4).tolist()
    return {**{f"p{q}": value for q, value in zip(PERCENTILES, found, strict=True)}, "n": len(values)}


def drift(values: Sequence[float]) -> dict[str, float] | None:
    """Return the medians of the first and the last third, ms, and their relative change; None for too few times."""
    if len(values) < FEWEST:
        return None
    third = len(values) // 3
    first, last = float(np.median(values[:third])), float(np.median(values[-third:]))
    return {"first_third_ms": round(first, 4), "last_third_ms": round(last, 4), "change": round(last / first - 1, 4)}


def steady(values: Sequence[float]) -> bool | None:
    """Return whether the times are steady; None if they are too few to decide."""
    moved = drift(values)
    return None if moved is None else abs(moved["change"]) <= STEADY


def void(share: float, threads: int, on_cpu: bool = True) -> str | None:
    """Return the reason why times are void, from the ratio of CPU time to wall time; None if they are valid.

    If CPU time is larger than wall time times threads, more threads ran than requested. If it is smaller than the wall
    time, the threads waited for a processor, because an extraction waits for nothing else. With several threads only
    the worst cases are found, because threads also wait for each other.
    """
    if share > threads * (1 + BUSY):
        return f"CPU time is {share:.0%} of wall time: more than {threads} thread(s) computed"
    if on_cpu and share < 1 - BUSY:
        return f"CPU time is {share:.0%} of wall time: the machine was busy"
    return None


def ratio(values: Sequence[float], reference: Sequence[float]) -> Ratio | None:
    """Return the median over turns of the ratio within a turn, and its 95 % bootstrap interval over turns.

    The interval is None for fewer turns than `lf.benchmarks.protocols.summary.LEAST`. The result is None if a time of
    the reference is too short for the clock.
    """
    if not values or not all(reference):
        return None
    ratios = ratios_of_turns(values, reference)
    found = bootstrap(ratios.tolist(), MEDIAN)
    interval = None if found is None else [round(bound, 4) for bound in found]
    return Ratio.parse({"value": round(float(np.median(ratios)), 4), "interval": interval})


def ratios(times: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]]) -> dict[str, Ratio | None]:
    """Return the ratio of every phase."""
    return {phase: ratio(values, reference[phase]) for phase, values in times.items()}


def written(found: Ratio | None, turns: int, decimals: int = 2) -> str:
    """Format a `ratio` for tables: `0.66 [0.65, 0.68]`; `-` for None."""
    if not found:
        return "-"
    write = f"{{:.{decimals}f}}".format
    return f"{write(found.value)} {brackets(found.interval, turns, write, 'turns')}"


def said(timing: Timing, phase: str, decimals: int = 2) -> str:
    """Format the ratio of a phase from the timing fields of a run."""
    found = getattr(timing.ratio, phase)
    return written(found, getattr(timing.phases, phase).n, decimals) if found else "-"


def speed(timing: Timing) -> str:
    """Format the speed of an extraction relative to the reference: `1.51x [1.48, 1.55]`, the inverse of its ratio."""
    found = timing.ratio.end_to_end
    if not found or not all((found.value, *(found.interval or ()))):
        return "-"
    bounds = found.interval and [1 / bound for bound in reversed(found.interval)]
    sure = brackets(bounds, timing.phases.end_to_end.n, "{:.2f}".format, "turns")
    return f"{1 / found.value:.2f}x {sure}"
