"""Throughput of a training run, and the share of time that makes views."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lf.train.views.random_views import mark


class Pace:
    """Times the steps of one start of a run.

    On a GPU only the steps that are looked at are timed on its own clock, because that waits for it.
    """

    def __init__(self, first: int, images: int, device: torch.device) -> None:
        """Take the first step, the images per step over all processes, and where they are computed."""
        self._first, self._images, self._device = first, images, device
        self._started = time.monotonic()
        self._seconds = self._data_seconds = 0.0
        self._begin: Any = None

    def begin(self) -> None:
        """A step begins."""
        self._begin = mark(self._device)

    def look(self, ready: Any, done: int) -> dict[str, float]:
        """The pace after `done` steps, the last of which marked `ready` when its views were made (None: it did not).

        Returns:
            steps_per_s and images_per_s since this start, pauses left out; data_share, of a step, in [0, 1].
        """
        end = mark(self._device)
        self._seconds += _between(self._begin, end)
        self._data_seconds += 0.0 if ready is None else _between(self._begin, ready)
        rate = (done - self._first) / max(time.monotonic() - self._started, 1e-9)
        share = self._data_seconds / max(self._seconds, 1e-9)
        return {"steps_per_s": rate, "images_per_s": rate * self._images, "data_share": share}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        before = time.monotonic()
        yield
        self._started += time.monotonic() - before


def _between(begin: Any, end: Any) -> float:
    """Seconds from one mark to another."""
    if isinstance(begin, float):
        return float(end - begin)
    end.synchronize()
    return float(begin.elapsed_time(end) / 1000)
