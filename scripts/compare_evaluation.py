"""Time of a whole evaluation: `python -m scripts.compare_evaluation FILE ... [--workers=1] [--data=ROOT]`.

Every file goes through `lf bench --protocol kp2d`, in a process of its own, from the start of Python to the table. The
data is ROOT, or as much as HPatches is: 116 drawn sequences of 6 images, 696 files and 580 pairs. Seconds are those
of the clock and of the processor; the files take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np

from lf.benchmarks.report.tables import markdown
from lf.benchmarks.timing.latency import ALLOCATOR, WAITING
from lf.core import LfError, console
from lf.data import Picture, warps
from lf.data.drawn import procedural
from lf.extraction.store import backend_for
from lf.models.resolve import resolve
from scripts import turns

SEQUENCES, PAIRS = 116, 5
SIZE = (480, 640)  # (H, W) of the images on disk
REPEATS = 2


class Taken(NamedTuple):
    """Seconds of one evaluation."""

    wall: float
    cpu: float


def draw(root: Path, sequences: int = SEQUENCES) -> Path:
    """Sequences of drawn images in HPatches layout, PNG."""
    with console.progress() as progress:
        for index in range(sequences):
            progress(index, sequences, "drawing")
            family, number = procedural.held_out(index)
            stage = procedural.draw(family, number, warps.stage_size(SIZE))  # once for all views
            source = Picture(f"{index:03d}_{family}", partial(np.copy, stage), f"{number:016x}")
            pairs = warps.sequence(source, "vi"[index % 2], PAIRS + 1, SIZE, seed=0)
            folder = root / pairs[0].sequence
            folder.mkdir(exist_ok=True)
            for k, picture in enumerate([pairs[0].first, *(pair.second for pair in pairs)], 1):
                cv2.imwrite(str(folder / f"{k}.png"), cv2.cvtColor(picture.load(), cv2.COLOR_RGB2BGR))
            for pair in pairs:
                np.savetxt(folder / f"H_{pair.name}", pair.homography)
    return root


def evaluate(file: str, root: Path, workers: int) -> Taken:
    """One evaluation, by so many engines of one thread.

    Raises:
        LfError: it failed; the text is its last line.
    """
    backend = backend_for(resolve(file))
    words = ["bench", file, "--backend", backend, "--data", str(root), "--protocol", "kp2d", "--repeats", "0"]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "lf.cli", *words, "--workers", str(workers)],
        capture_output=True,
        text=True,
        env={**os.environ, **ALLOCATOR, **WAITING, **limits},
    )
    after, end = os.times(), time.perf_counter()
    if done.returncode:
        raise LfError(f"lf bench {file}: {done.stderr.strip().splitlines()[-1]}")
    user, system = after.children_user - before.children_user, after.children_system - before.children_system
    return Taken(end - start, user + system)


def compare(names: Sequence[str], root: Path, workers: int, repeats: int = REPEATS) -> str:
    """The table: medians over turns, and how many times as fast as the first within a turn."""
    taken = [[evaluate(name, root, workers) for name in names] for _ in range(repeats)]
    rows = []
    for name, *runs in zip(names, *taken, strict=True):
        wall, cpu = (median(getattr(run, kind) for run in runs) for kind in ("wall", "cpu"))
        first, own = (np.array([each.cpu for each in row]) for row in ([turn[0] for turn in taken], runs))
        rows.append([Path(name).name, f"{wall:.1f}", f"{cpu:.1f}", turns.times(first, own)])
    return markdown([f"{workers} worker(s)", "s", "CPU s", "times the first, by CPU"], rows)


def main(names: Sequence[str], given: Mapping[str, str]) -> str:
    """Make the table on the requested data, or on drawn data after checking everything else."""
    workers = turns.number(given, "workers", 1)
    for name in names:
        backend_for(resolve(name))
    with tempfile.TemporaryDirectory(prefix="lf-evaluation-") as place:
        return compare(names, Path(given["data"]) if "data" in given else draw(Path(place)), workers)


if __name__ == "__main__":
    turns.command("compare_evaluation FILE ... [--workers=1] [--data=ROOT]", 1, None, main)
