"""How long a whole evaluation takes: `python -m lf.benchmarks.compare_evaluation FILE ... [--threads=1] [--data=ROOT]`.

Every file goes through `lf bench --protocol kp2d`, in a process of its own, from the start of Python to the table. The
data is ROOT, or as much as HPatches is: 116 drawn sequences of 6 pictures, 696 files and 580 pairs. Seconds are those
of the clock and of the processor; the files take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np

from lf import console
from lf.benchmarks import turns
from lf.benchmarks.latency import ALLOCATOR, WAITING
from lf.benchmarks.report import markdown
from lf.core import LfError
from lf.data import warps
from lf.models.resolve import resolve
from lf.runtimes import engines

SEQUENCES, PAIRS = 116, 5
SIZE = (480, 640)  # (H, W) of the pictures on disk
REPEATS = 2


class Taken(NamedTuple):
    """Seconds of one evaluation."""

    wall: float
    cpu: float


def draw(root: Path, sequences: int = SEQUENCES) -> Path:
    """Sequences of drawn pictures in HPatches layout, PNG."""
    pairs = warps.drawn(sequences, pairs_per_picture=PAIRS, size=SIZE)
    with console.progress() as progress:
        for index, pair in enumerate(pairs):
            progress(index, len(pairs), "drawing")
            folder = root / pair.sequence
            folder.mkdir(exist_ok=True)
            number = pair.name.removeprefix("1_")
            for picture, name in ((pair.first, "1"), (pair.second, number)):
                path = folder / f"{name}.png"
                if not path.exists():
                    cv2.imwrite(str(path), cv2.cvtColor(picture.load(), cv2.COLOR_RGB2BGR))
            np.savetxt(folder / f"H_{pair.name}", pair.homography)
    return root


def evaluate(file: str, root: Path, threads: int) -> Taken:
    """One evaluation.

    Raises:
        LfError: it failed; the text is its last line.
    """
    backend = engines(resolve(file).path)[0]
    words = ["bench", file, "--backend", backend, "--data", str(root), "--protocol", "kp2d", "--repeats", "0"]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "lf.cli", *words, "--threads", str(threads)],
        capture_output=True,
        text=True,
        env={**os.environ, **ALLOCATOR, **WAITING, **limits},
    )
    after, end = os.times(), time.perf_counter()
    if done.returncode:
        raise LfError(f"lf bench {file}: {done.stderr.strip().splitlines()[-1]}")
    user, system = after.children_user - before.children_user, after.children_system - before.children_system
    return Taken(end - start, user + system)


def compare(names: Sequence[str], root: Path, threads: int, repeats: int = REPEATS) -> str:
    """The table: medians over turns."""
    taken = [[evaluate(name, root, threads) for name in names] for _ in range(repeats)]
    rows = []
    for name, *runs in zip(names, *taken, strict=True):
        wall, cpu = (median(getattr(run, kind) for run in runs) for kind in ("wall", "cpu"))
        first = median(turn[0].cpu for turn in taken)
        rows.append([Path(name).name, f"{wall:.1f}", f"{cpu:.1f}", f"{first / cpu:.2f}"])
    return markdown([f"{threads} thread(s)", "s", "CPU s", "times the first, by CPU"], rows)


if __name__ == "__main__":
    chosen, given = turns.typed("compare_evaluation FILE ... [--threads=1] [--data=ROOT]", 1)
    with tempfile.TemporaryDirectory(prefix="lf-evaluation-") as place:
        where = Path(given["data"]) if "data" in given else draw(Path(place))
        print(compare(chosen, where, int(given.get("threads", "1"))))
