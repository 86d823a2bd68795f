"""Progress of long work: a bar in a terminal, a line every 30 s elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

FIRST, EVERY = 10.0, 30.0  # seconds: before the first line without a terminal, and between two


class Stage:
    """Progress of a stage of the work, and its remaining time.

    A stage ends if the total changes or the count restarts. Time counts from the first report of a stage, so earlier
    stages and steps from before a resume do not count.
    """

    def __init__(self) -> None:
        self.done, self.total, self.text = 0, 0, ""
        self._first, self._begun = 0, 0.0

    def report(self, now: float, done: int, total: int, text: str) -> bool:
        """Process a report; return whether it begins a stage."""
        back = done < self.done and done <= max(1, self._first)  # parallel reports may be slightly out of order
        begins = total != self.total or back
        if begins:
            self._first, self._begun = done, now
        self.done, self.total, self.text = done, total, text
        return begins

    def left(self, now: float) -> float | None:
        """Return the remaining seconds of the stage; None if unknown or finished."""
        if not self._first < self.done < self.total:
            return None
        return (now - self._begun) * (self.total - self.done) / (self.done - self._first)


class Lines:
    """Progress as plain lines: `120/580 (21 %), 40 s left: wren.onnx ort-cpu v_boat 1_2`.

    Work longer than FIRST seconds gets a line every EVERY seconds, even without reports in between.
    """

    def __init__(self, say: Callable[[str], None], task: str) -> None:
        """Store the function that writes a line, and the name of the work."""
        self._task = task
        self._say, self._stage, self._turn = say, Stage(), threading.Lock()
        self._begun, self._told = time.monotonic(), 0.0
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Lines:
        self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._ticker.join()

    def __call__(self, done: int, total: int, text: str) -> None:
        """Process a report, and write a line if the last line is EVERY seconds old."""
        with self._turn:
            now = time.monotonic()
            self._stage.report(now, done, total, text)
            line = self._line(now)
        if line:
            self._say(line)

    def _tick(self) -> None:
        wait = FIRST
        while not self._over.wait(wait):
            with self._turn:
                now = time.monotonic()
                line = self._line(now)
                wait = max(0.1, self._told + EVERY - now)
            if line:
                self._say(line)

    def _line(self, now: float) -> str:
        """Return the line that is due now, or ""."""
        if now - self._begun < FIRST or (self._told and now - self._told < EVERY):
            return ""
        self._told = now
        stage = self._stage
        if stage.done >= stage.total:  # no report yet, or none since the end of the last stage
            last = f"; last: {stage.text}" if stage.text else ""
            return f"{self._task}: working, {span(now - self._begun)} so far{last}"
        left = stage.left(now)
        rest = "" if left is None else f", {span(left)} left"
        return f"{stage.done}/{stage.total} ({100 * stage.done / stage.total:.0f} %){rest}: {stage.text}"


def span(seconds: float) -> str:
    """Format a time: `40 s`, `12 min`, `3 h 5 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


class Bar:
    """Progress as a bar of rich."""

    def __init__(self, bar: Any, task: str) -> None:
        """Store a rich.progress.Progress, and the name of the work, shown until the first report."""
        self._bar, self._stage, self._turn = bar, Stage(), threading.Lock()
        self._task = bar.add_task(task, total=None)

    def __call__(self, done: int, total: int, text: str) -> None:
        """Move the bar; it restarts with each stage."""
        with self._turn:
            begins = self._stage.report(time.monotonic(), done, total, text)
        (self._bar.reset if begins else self._bar.update)(self._task, completed=done, total=total, description=text)
