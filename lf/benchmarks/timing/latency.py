"""Latency of files that take turns, each in its own process.

A worker (`python -m lf.benchmarks.timing.latency`) opens the file, reports how long that took, and then times one
extraction per line it reads. The parent asks A, B, C, A, B, C ..., so a change of the machine's speed falls on all.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.protocols.protocol import Protocol
from lf.benchmarks.run.names import references
from lf.benchmarks.run.predict import published
from lf.benchmarks.timing import energy
from lf.benchmarks.timing import latency_stats as stats
from lf.benchmarks.timing.record import Timing
from lf.core import Array, BadInput, LfError, Unavailable, UsageError
from lf.core.registry import load_plugins
from lf.extraction.extractor import Clock, Extractor
from lf.extraction.variant import Variant
from lf.models.resolve import resolve
from lf.runtimes import BACKENDS

WINDOW = 6  # the times of this many last turns must be steady before measuring begins
LONGEST = 30  # largest number of warm-up turns
# glibc returns torch's large activations to the system after every call; without that, times are shorter and steady
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**29)}
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}  # waiting threads that spin would slow down the worker being timed

Progress = Callable[[int, int, str], None]
KINDS = (UsageError, Unavailable, BadInput)  # kinds of errors of a worker, by exit code


def measure(
    variants: Sequence[Variant],
    image: Array,
    protocol: Protocol,
    *,
    threads: int | Sequence[int],
    repeats: int,
    reference: int = 0,
    progress: Progress = lambda done, total, text: None,
) -> list[Timing]:
    """Time `repeats` extractions of one prepared uint8 image (H, W) or (H, W, 3) by each variant, interleaved.

    Each extracts as in `protocol`: its `k` best points; R2D2's pyramid in `mma`, one scale in others. `threads` is one
    number for all variants, or one for each.

    Returns:
        The timing fields of a run for each variant, see docs/reference/results-file.md; ratios are relative to the
        variant with the index `reference`.

    Raises:
        LfError: a worker failed; the error has the kind and text of the worker's error.
    """
    counts = [threads] * len(variants) if isinstance(threads, int) else [*threads]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "image.npy"
        np.save(source, image, allow_pickle=False)
        jobs = [_job(*each, protocol, source) for each in zip(variants, counts, strict=True)]
        measured = _in_turns(jobs, counts, repeats, progress)
    return _timings(measured, references(variants, counts)[reference], reference)


class Measured(NamedTuple):
    """Measurements of one worker: opening the file, warm-up, every turn, end."""

    threads: int
    opened: dict[str, Any]
    warm_up: dict[str, Any]
    turns: list[dict[str, Any]]
    closed: dict[str, Any]

    @property
    def times(self) -> dict[str, list[float]]:
        """Return the times of each phase, ms per turn."""
        return {phase: [turn["ms"][phase] for turn in self.turns] for phase in self.turns[0]["ms"]}


def _in_turns(jobs: Sequence[str], counts: Sequence[int], repeats: int, progress: Progress) -> list[Measured]:
    """Start a worker for each job, warm them up, and time them in turns."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(job, count)) for job, count in zip(jobs, counts, strict=True)]
        opened = [_answer(worker) for worker in workers]
        warm = _warm_up(workers, lambda turn: progress(turn, LONGEST + repeats, "warm-up"))
        samples: list[list[dict[str, Any]]] = [[] for _ in workers]
        for turn in range(repeats):
            progress(LONGEST + turn, LONGEST + repeats, "latency")
            for worker, kept in zip(workers, samples, strict=True):
                kept.append(_ask(worker))
        closed = [_ask(worker, "end") for worker in workers]
    return [Measured(*each) for each in zip(counts, opened, warm, samples, closed, strict=True)]


def _timings(measured: Sequence[Measured], to: str, reference: int) -> list[Timing]:
    """Return the timing fields of each; ratios are relative to index `reference`, named `to`."""
    base, found = measured[reference].times, []
    for one in measured:
        provider = one.opened["provider"]
        said = {
            **stats.summarise(one.times, one.threads, _on_cpu(provider)),
            "ratio": {"to": to, **stats.ratios(one.times, base)},
            "energy_j": _mean([turn["energy_j"] for turn in one.turns]),
            "warm_up": one.warm_up,
            **{name: value for name, value in one.opened.items() if name != "provider"},
            **one.closed,
            "allocator": ALLOCATOR,
        }
        found.append(Timing.from_dict(said, "the latency worker"))
    return found


def _job(variant: Variant, threads: int, protocol: Protocol, source: Path) -> str:
    """Return the job for `serve`, as JSON."""
    asked = variant.keypoints, variant.size, variant.nms, variant.refine, variant.threshold, False, variant.extraction
    what = [str(variant.artifact.path), variant.backend, *asked]
    return json.dumps([*what, threads, protocol.name, str(source)])


def _warm_up(workers: Sequence[subprocess.Popen[str]], progress: Callable[[int], None]) -> list[dict[str, Any]]:
    """Run turns until the last of every worker are steady, at most `LONGEST`; return their number and steadiness."""
    seen: list[list[float]] = [[] for _ in workers]
    while True:
        progress(len(seen[0]))
        for worker, times in zip(workers, seen, strict=True):
            times.append(_ask(worker)["ms"]["end_to_end"])
        steady = [bool(stats.steady(times[-WINDOW:])) for times in seen]
        if all(steady) or len(seen[0]) == LONGEST:
            return [{"turns": len(times), "stationary": calm} for times, calm in zip(seen, steady, strict=True)]


def _on_cpu(provider: str) -> bool:
    return "CPU" in provider.upper() or provider == "XNNPACK"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if known and len(known) == len(values) else None


def _worker(job: str, threads: int) -> subprocess.Popen[str]:
    # the engine receives the number of threads; these variables limit the libraries that numpy calls
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return subprocess.Popen(
        [sys.executable, "-m", "lf.benchmarks.timing.latency", job],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ALLOCATOR, **WAITING, **limits},
    )


def _answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    line = worker.stdout.readline() if worker.stdout else ""
    if not line:
        message = worker.stderr.read().strip().splitlines() if worker.stderr else []
        kind = next((kind for kind in KINDS if kind.exit_code == worker.wait()), LfError)
        raise kind(f"the latency worker stopped: {message[-1] if message else 'no message'}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _ask(worker: subprocess.Popen[str], what: str = "run") -> dict[str, Any]:
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        print(what, file=worker.stdin, flush=True)
    return _answer(worker)


def serve(job: str, questions: IO[str], answers: IO[str]) -> None:
    """Run a worker: open the file, extract once, then time one extraction per line read, until `end`."""
    load_plugins()
    path, backend, keypoints, size, *asked, threads, protocol, source = json.loads(job)
    cv2.setNumThreads(threads)
    image = np.load(source, allow_pickle=False)
    start = time.perf_counter()
    importlib.import_module(BACKENDS[backend].package)
    imported = time.perf_counter()
    rule = PROTOCOLS[protocol]
    extractor = Variant(resolve(path), backend, keypoints, size and (size[0], size[1]), *asked).open(threads)
    extractor.settings["top_k"] = rule.params.get("k")  # do not describe points that the protocol drops
    loaded = time.perf_counter()
    extract = extractor.pyramid if published(extractor, rule) else extractor
    extract(image)
    first = time.perf_counter()
    seconds = {"import_ms": imported - start, "load_ms": loaded - imported, "cold_start_ms": first - imported}
    opened = {"provider": extractor.session.info.provider, **_milliseconds(seconds)}
    print(json.dumps(opened), file=answers, flush=True)
    for question in questions:
        if question.strip() == "end":
            closed = {"peak_rss_bytes": peak_memory(), **_operators(extractor, backend, threads, image)}
            print(json.dumps(closed), file=answers, flush=True)
            return
        print(json.dumps(_timed(extract, image)), file=answers, flush=True)


def _timed(extract: Callable[[Array, Clock], object], image: Array) -> dict[str, Any]:
    """Time one extraction: {"ms": {phase: wall time, "end_to_end": total, "cpu": all threads}, "energy_j"}."""
    clock, before = Clock(), energy.read()
    cpu, start = time.process_time(), time.perf_counter()
    extract(image, clock)
    end, worked = time.perf_counter(), time.process_time()
    seconds = {**clock.seconds, "end_to_end": end - start, "cpu": worked - cpu}
    return {"ms": _milliseconds(seconds), "energy_j": energy.joules(before, energy.read())}


def _milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value * 1e3, 4) for name, value in seconds.items()}


def _operators(extractor: Extractor, backend: str, threads: int, image: Array) -> dict[str, Any]:
    """Return {"operators", "provider_share"} of the graph that the engine runs; None if it does not report them."""
    row = BACKENDS[backend]
    if row.module != "lf.runtimes.ort":
        return {"operators": extractor.session.info.notes.get("operators"), "provider_share": None}
    from lf.runtimes import ort

    return ort.census(extractor.artifact, threads, extractor.tensor(extractor.fit(image)), **row.options)


def peak_memory() -> int | None:
    """Return the peak resident memory of this process in bytes; None if the system does not report it.

    `ru_maxrss` is not used, because a process inherits it from its parent.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024  # kB
    return None


if __name__ == "__main__":
    try:
        serve(sys.argv[1], sys.stdin, sys.stdout)
    except LfError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
