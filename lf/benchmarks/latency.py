"""Latency: every variant in a process of its own, taking turns, so that none profits from the others' state.

A worker (`python -m lf.benchmarks.latency`) opens the file, reports how long that took, and then times one extraction
per line it reads. The parent asks A, B, C, A, B, C ... : whatever the machine does meanwhile falls on all alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.predict import Variant, published
from lf.benchmarks.protocols import Protocol
from lf.core import Array, LfError
from lf.models.resolve import resolve
from lf.runtimes.extract import Clock

WARM_UP = 5
# glibc gives torch's large activations back to the system after every call; kept, its times are steady and shorter
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**29)}


def measure(
    variants: Sequence[Variant],
    image: Array,
    protocol: Protocol,
    *,
    threads: int,
    repeats: int,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> list[dict[str, Any]]:
    """Time `repeats` extractions of one prepared uint8 image (H, W) or (H, W, 3) by each variant, interleaved.

    Each extracts as `protocol` has it: R2D2's pyramid in `mma`, one scale elsewhere.

    Returns:
        Per variant {"latency_ms": {phase: {"p50", "p90", "p99", "n"}}, "cold_start_ms", "load_ms", "peak_rss_bytes",
        "allocator"}; cold start is loading plus the first extraction, without the import of Python packages.

    Raises:
        LfError: a worker died; the text is its last line.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        source = Path(folder) / "image.npy"
        np.save(source, image, allow_pickle=False)
        jobs = [
            json.dumps([str(v.artifact.path), v.backend, v.keypoints, threads, protocol.name, str(source)])
            for v in variants
        ]
        workers = [stack.enter_context(_worker(job, threads)) for job in jobs]
        opened = [_answer(worker) for worker in workers]
        samples: list[list[dict[str, float]]] = [[] for _ in workers]
        for turn in range(WARM_UP + repeats):
            progress(turn, WARM_UP + repeats, "latency")
            for worker, kept in zip(workers, samples, strict=True):
                sample = _ask(worker)
                if turn >= WARM_UP:
                    kept.append(sample)
        closed = [_ask(worker, "end") for worker in workers]
    return [
        {"latency_ms": _percentiles(kept), **first, **last, "allocator": ALLOCATOR}
        for kept, first, last in zip(samples, opened, closed, strict=True)
    ]


def _percentiles(samples: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    result = {}
    for phase in samples[0] if samples else ():
        values = [sample[phase] for sample in samples]
        p50, p90, p99 = np.percentile(values, (50, 90, 99)).round(4).tolist()
        result[phase] = {"p50": p50, "p90": p90, "p99": p99, "n": len(values)}
    return result


def _worker(job: str, threads: int) -> subprocess.Popen[str]:
    # the engine is told itself; these bind what numpy calls before and after it
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return subprocess.Popen(
        [sys.executable, "-m", "lf.benchmarks.latency", job],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ALLOCATOR, **limits},
    )


def _answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    line = worker.stdout.readline() if worker.stdout else ""
    if not line:
        message = worker.stderr.read().strip().splitlines() if worker.stderr else []
        raise LfError(f"the latency worker stopped: {message[-1] if message else 'no message'}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _ask(worker: subprocess.Popen[str], what: str = "run") -> dict[str, Any]:
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        print(what, file=worker.stdin, flush=True)
    return _answer(worker)


def serve(job: str, questions: IO[str], answers: IO[str]) -> None:
    """The worker: open, extract once, then time one extraction per line read, until `end`."""
    path, backend, keypoints, threads, protocol, source = json.loads(job)
    cv2.setNumThreads(threads)
    image = np.load(source, allow_pickle=False)
    start = time.perf_counter()
    extractor = Variant(resolve(path), backend, keypoints).open(threads)
    loaded = time.perf_counter()
    extract = extractor.pyramid if published(extractor, PROTOCOLS[protocol]) else extractor
    extract(image)
    first = time.perf_counter()
    opened = {"load_ms": (loaded - start) * 1e3, "cold_start_ms": (first - start) * 1e3}
    print(json.dumps(opened), file=answers, flush=True)
    for question in questions:
        if question.strip() == "end":
            print(json.dumps({"peak_rss_bytes": peak_memory()}), file=answers, flush=True)
            return
        clock = Clock()
        start = time.perf_counter()
        extract(image, clock)
        total = time.perf_counter() - start
        sample = {**clock.seconds, "end_to_end": total}
        print(json.dumps({phase: seconds * 1e3 for phase, seconds in sample.items()}), file=answers, flush=True)


def peak_memory() -> int | None:
    """Largest resident memory of this process in bytes; None where the system does not tell.

    Not `ru_maxrss`, which a process inherits from the one that started it.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024  # kB
    return None


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdin, sys.stdout)
