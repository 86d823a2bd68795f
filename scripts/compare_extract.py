"""Time of `lf extract` relative to its network alone: `python -m scripts.compare_extract MODEL.onnx DIR`.

Four ways take turns in one run over the images of DIR: the network alone, on tensors that are there, with one engine
of one thread for each core; `lf extract` from image files to written features, with as many; the same with one worker;
and with one worker whose engine has as many threads as there were workers. Images per second are the clock's. CPU
milliseconds per image are the processor's, which other work on the machine does not change: their ratio is what the
clock would say on a quiet machine that keeps every core busy. All engines are opened before.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from lf.benchmarks.report.tables import markdown
from lf.core import Array, BadInput, Session
from lf.data import images
from lf.extraction import auto
from lf.extraction.extractor import Extractor
from lf.extraction.store import backend_for, extract_images, find
from lf.extraction.stream import published
from lf.models.resolve import resolve
from lf.quota import cores
from scripts import turns
from scripts.turns import times

IMAGES, TURNS = 40, 10


class Turn(NamedTuple):
    """Time of one turn per image: wall time and CPU time, s."""

    wall: float
    cpu: float


class Recorder:
    """A session that keeps what it is given, which of a pyramid is one tensor for each level."""

    def __init__(self, session: Session) -> None:
        self.info, self._session = session.info, session
        self.seen: list[Array] = []

    def run(self, image: Array) -> dict[str, Array]:
        """See `lf.core.Session`."""
        self.seen.append(image)
        return self._session.run(image)


def tensors(extractor: Extractor, paths: list[Path]) -> list[list[Array]]:
    """Return the inputs of the network for each image."""
    session, kept = extractor.session, []
    for path in paths:
        extractor.session = recorder = Recorder(session)
        published(extractor, images.read(path))
        kept.append(recorder.seen)
    extractor.session = session
    return kept


def bare(sessions: list[Session], given: list[list[Array]]) -> None:
    """Run the network on all tensors, each thread with a session of its own."""
    free, own = [*sessions], threading.local()

    def run(image: list[Array]) -> None:
        if not hasattr(own, "session"):
            own.session = free.pop()
        for tensor in image:
            own.session.run(tensor)

    with ThreadPoolExecutor(len(sessions)) as pool:
        list(pool.map(run, given))


def extract(extractor: Extractor, found: Mapping[str, Path], workers: int, layout: str, out: Path) -> None:
    """Run `lf extract` with an opened model."""
    if failed := extract_images(extractor, found, out, layout, workers=workers).failed:
        raise BadInput(f"images that cannot be read are no measure: {next(iter(failed.values()))}")


def measure(model: str, folder: Path, workers: int, backend: str | None, layout: str) -> dict[str, list[Turn]]:
    """Turns of each way, after one that warms up."""
    artifact = resolve(model)
    found = dict([*find([folder]).items()][:IMAGES])
    first = next(iter(found.values()))
    chosen = auto.named(artifact, backend or backend_for(artifact), 1, lambda: images.read(first))
    extractor = Extractor(artifact, chosen)
    given = tensors(extractor, [*found.values()])
    others = [extractor.again() for _ in range(workers - 1)]
    sessions = [extractor.session, *(other.session for other in others)]
    opened = cycle(others)
    extractor.again = lambda: next(opened)  # type: ignore[method-assign]
    ways: dict[str, Callable[[Path], Any]] = {
        f"network alone, {workers} engines": lambda out: bare(sessions, given),
        f"lf extract, {workers} workers": partial(extract, extractor, found, workers, layout),
        "lf extract, 1 worker": partial(extract, extractor, found, 1, layout),
    }
    if workers > 1:
        several = Extractor(artifact, chosen, workers)
        ways[f"lf extract, 1 worker of {workers} threads"] = partial(extract, several, found, 1, layout)
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    for _ in range(TURNS + 1):
        for name, run in ways.items():
            with tempfile.TemporaryDirectory(prefix="lf-extract-") as out:  # what clears it away is not timed
                turns[name].append(_timed(partial(run, Path(out)), len(found)))
    return {name: taken[1:] for name, taken in turns.items()}


def table(turns: Mapping[str, list[Turn]]) -> str:
    """Medians of each way; its speed over that of the network alone in the same turn, by clock and by processor."""
    first = next(iter(turns.values()))
    rows = []
    for name, taken in turns.items():
        numbers = [
            1 / median(turn.wall for turn in taken),
            median(turn.cpu for turn in taken) * 1e3,
            median(turn.cpu / turn.wall for turn in taken),
        ]
        speeds = map(times, np.array(first).T, np.array(taken).T)
        rows.append([name, *(f"{number:.1f}" for number in numbers), *speeds])
    head = ["", "images/s", "CPU ms per image", "cores busy", "speed by the clock", "by the processor"]
    return markdown(head, rows)


def _timed(run: Callable[[], Any], count: int) -> Turn:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Turn((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


def main(words: list[str], given: Mapping[str, str]) -> str:
    """The table."""
    model, folder = words
    workers = turns.number(given, "workers", cores())
    return table(measure(model, Path(folder), workers, given.get("backend"), given.get("layout", "lf")))


if __name__ == "__main__":
    turns.command("compare_extract MODEL DIR [--workers=N] [--backend=NAME] [--layout=NAME]", 2, 2, main)
