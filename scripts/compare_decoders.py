"""Gain of a change of the numpy decoders: `python -m scripts.compare_decoders CHECKOUT HEADS.onnx [PHOTOS]`.

CHECKOUT is a folder with another version of lf, such as a `git worktree` of an earlier commit. Both versions decode the
same raw maps at 480x640 into 1000 points, in turns, each in a process of its own; milliseconds are the processor's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from lf.benchmarks.report.tables import markdown
from lf.core import Array
from lf.data import images
from lf.extraction.agreement import drawn
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from scripts import turns

SIZE = (480, 640)  # H, W
PICTURES, WARM_UP, REPEATS, TOP_K = 8, 2, 10, 1000
HERE = Path(__file__).parents[1]

# Reads {maps, model, settings} or null from each line; decodes what it read last; answers [milliseconds, digest].
WORKER = """
import hashlib, json, sys, time
import cv2, numpy as np
from lf.models import MODELS
cv2.setNumThreads(1)
for line in sys.stdin:
    if said := json.loads(line):
        maps, decode, settings = dict(np.load(said["maps"])), MODELS[said["model"]].decode, said["settings"]
    start = time.process_time()
    found = decode(maps, **settings)
    spent = (time.process_time() - start) * 1e3
    digests = [hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest() for part in found]
    print(json.dumps([spent, digests]), flush=True)
"""


def worker(checkout: Path, stack: ExitStack) -> subprocess.Popen[str]:
    """A process that decodes with the lf of a checkout."""
    one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one, "PYTHONPATH": str(checkout)},
            cwd=checkout,
        )
    )


def ask(process: subprocess.Popen[str], said: Any) -> list[Any]:
    """One decode: milliseconds, and the digests of points, scores and descriptors."""
    assert process.stdin
    assert process.stdout
    print(json.dumps(said), file=process.stdin, flush=True)
    answer: list[Any] = json.loads(process.stdout.readline())
    return answer


def measure(checkout: Path, heads: Path, pictures: Iterable[Array]) -> tuple[Array, list[bool]]:
    """(turns, 2) milliseconds of the other version and of this one; whether points, scores, descriptors are equal."""
    extractor = Extractor(model_file.load(heads), "ort-cpu")
    rows, equal = list[list[float]](), [True] * 3
    with TemporaryDirectory() as folder, ExitStack() as stack:
        both = [worker(place, stack) for place in (checkout, HERE)]
        for picture in pictures:
            np.savez(Path(folder, "maps.npz"), **extractor.maps(cv2.resize(picture, SIZE[::-1])))  # type: ignore[arg-type]
            said = {"maps": str(Path(folder, "maps.npz")), "model": extractor.artifact.card.model}
            said["settings"] = {**extractor.settings, "top_k": TOP_K}  # type: ignore[assignment]
            first = [ask(process, said) for process in both]
            equal = [was and a == b for was, a, b in zip(equal, first[0][1], first[1][1], strict=True)]
            taken = [[ask(process, None)[0] for process in both] for _ in range(WARM_UP + REPEATS)]
            rows += taken[WARM_UP:]
    return np.array(rows), equal


def main(checkout: Path, heads: Path, photos: Path | None = None) -> str:
    """The table."""
    pictures = map(images.read, images.list_images(photos, limit=PICTURES)) if photos else islice(drawn(SIZE), PICTURES)
    times, equal = measure(checkout.absolute(), heads, pictures)
    before, after = np.median(times, axis=0)
    same = ", ".join(n for n, is_equal in zip(("points", "scores", "descriptors"), equal, strict=True) if is_equal)
    head = [f"{SIZE[0]}x{SIZE[1]}", "before, ms", "after, ms", "after / before", "bit for bit the same"]
    return markdown(head, [[heads.name, f"{before:.1f}", f"{after:.1f}", turns.times(times[:, 1], times[:, 0]), same]])


if __name__ == "__main__":
    turns.command("compare_decoders CHECKOUT HEADS.onnx [PHOTOS]", 2, 3, lambda words, given: main(*map(Path, words)))
