"""Throughput of a training run, and the share of time that makes views."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lf.train.views.random_views import mark


class Pace:
    """Measures the time of steps since the start of the process.

    On a GPU, only steps whose loss is checked are timed with CUDA events, because reading these waits for the GPU.
    """

    def __init__(self, first: int, images: int, device: torch.device) -> None:
        """Store the first step, the images per step over all processes, and the device."""
        self._first, self._images, self._device = first, images, device
        self._started = time.monotonic()
        self._seconds = self._data_seconds = 0.0
        self._begin: Any = None

    def begin(self) -> None:
        """Mark the begin of a step."""
        self._begin = mark(self._device)

    def look(self, ready: Any, done: int) -> dict[str, float]:
        """Return the pace after `done` steps. `ready` is the mark of the last step when its views were made, or None.

        Returns:
            steps_per_s and images_per_s since this start, without pauses; data_share of a step, in [0, 1].
        """
        end = mark(self._device)
        self._seconds += _between(self._begin, end)
        self._data_seconds += 0.0 if ready is None else _between(self._begin, ready)
        rate = (done - self._first) / max(time.monotonic() - self._started, 1e-9)
        share = self._data_seconds / max(self._seconds, 1e-9)
        return {"steps_per_s": rate, "images_per_s": rate * self._images, "data_share": share}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside the context."""
        before = time.monotonic()
        yield
        self._started += time.monotonic() - before


def _between(begin: Any, end: Any) -> float:
    """Return the seconds between two marks."""
    if isinstance(begin, float):
        return float(end - begin)
    end.synchronize()
    return float(begin.elapsed_time(end) / 1000)
