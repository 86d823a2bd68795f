"""The runs of a sweep: each is computed once and kept in a file of its own, from which the sweep goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.run import results
from lf.benchmarks.run.evaluate import Progress, bench
from lf.benchmarks.run.record import Run
from lf.benchmarks.run.suite import timings
from lf.benchmarks.timing.record import Timing
from lf.core import BadInput, DiskFull, LfError, Unavailable, UsageError, ledger
from lf.core.fingerprint import versions
from lf.data import Pair, dataset_digest, open_dataset
from lf.extraction.variant import Variant
from lf.studies.sweep_plan import FLOAT, Data, Plan, Row

TIMED = "kp2d"  # the protocol at whose size, one scale, latency is measured


@dataclass(frozen=True)
class Job:
    """A file over a dataset under a protocol."""

    row: Row
    data: Data
    protocol: str


@dataclass
class Runs:
    """The runs of a plan, kept below `out`.

    Attributes:
        plan: what is to be run.
        out: a folder; `runs/` and `latency/` are for keeps, of `cache/` only what the file at work needs.
        failed: why a file could not be evaluated, by network and scheme.
    """

    plan: Plan
    out: Path
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    _opened: dict[tuple[str, tuple[str, ...]], tuple[list[Pair], str]] = field(default_factory=dict)

    def pairs(self, data: Data, protocol: str) -> tuple[list[Pair], str]:
        """The pairs of a dataset under a protocol, and their digest."""
        key = data.where, PROTOCOLS[protocol].without
        if key not in self._opened:
            found = open_dataset(data.where, exclude=key[1])
            if protocol in data.protocols:  # not that of the times, which only takes a picture
                PROTOCOLS[protocol].check(found, data.where)
            self._opened[key] = found, dataset_digest(found)
        return self._opened[key]

    def jobs(self, rows: Sequence[Row]) -> list[Job]:
        """What there is to evaluate, file by file."""
        data = [(data, protocol) for data in self.plan.data for protocol in data.protocols]
        return [Job(row, *each) for row in rows for each in data]

    def todo(self, rows: Sequence[Row]) -> list[Job]:
        """What of it is not there yet, and can be computed."""
        return [job for job in self.jobs(rows) if job.row.artifact and self.kept(job) is None]

    def kept(self, job: Job) -> Run | None:
        """The run of a job, if it was computed of the same file, data, protocol and engine, by the same code."""
        if job.row.artifact is None:
            return None
        try:
            (run,) = results.load(self._path(job))
        except (BadInput, ValueError):
            return None  # absent or damaged: computed again
        found = {
            **{name: getattr(run, name) for name in ("dataset_digest", "protocol_digest", "backend")},
            "sha256": run.artifact.sha256,
            "versions": run.environment.versions,
        }
        expected = {
            "dataset_digest": self.pairs(job.data, job.protocol)[1],
            "protocol_digest": PROTOCOLS[job.protocol].digest,
            "backend": self.plan.backend,
            "sha256": job.row.artifact.sha256,
            "versions": versions("lf.benchmarks.run.evaluate"),
        }
        return None if ledger.differences(found, expected) else run

    def evaluate(self, jobs: Sequence[Job], progress: Progress, after: Callable[[], None]) -> None:
        """Compute the runs of `jobs`, those of one file together; a file that cannot be evaluated goes to `failed`.

        Args:
            jobs: of `todo`.
            progress: (done, total, text), called per pair, of all pairs.
            after: called whenever a network is done.

        Raises:
            LfError: of a float file, or where it would be of every file.
        """
        sizes = [len(self.pairs(job.data, job.protocol)[0]) for job in jobs]
        for index, job in enumerate(jobs):
            says = _within(sum(sizes[:index]), sum(sizes), f"{len(jobs) - index} runs left: {job.data.name}", progress)
            cache = self.out / "cache" / f"{job.row.network}.{job.row.scheme}"
            try:
                self._run(job, cache, says)
            except LfError as error:
                if job.row.scheme == FLOAT or isinstance(error, UsageError | Unavailable | DiskFull):
                    raise
                self.failed[job.row.network, job.row.scheme] = str(error)
            following = jobs[index + 1].row if index + 1 < len(jobs) else None
            if following != job.row:  # gigabytes, where points are many: those of one file at a time
                shutil.rmtree(cache, ignore_errors=True)
            if following is None or following.network != job.row.network:
                after()
        shutil.rmtree(self.out / "cache", ignore_errors=True)

    def _run(self, job: Job, cache: Path, progress: Progress) -> None:
        assert job.row.artifact is not None
        pairs, _ = self.pairs(job.data, job.protocol)
        run = bench(
            Variant(job.row.artifact, self.plan.backend, size=self.plan.size),
            pairs,
            job.data.root,
            PROTOCOLS[job.protocol],
            threads=self.plan.threads,
            cache=cache,
            progress=progress,
        )
        results.save(self._path(job), [run])

    def _path(self, job: Job) -> Path:
        name = f"{job.row.network}.{job.row.scheme}.{job.data.name}.{job.protocol}.json"
        return self.out / "runs" / name

    def latency(self, rows: Sequence[Row]) -> dict[str, Timing] | None:
        """The kept latency of the rows of one network, by scheme; None if it was not measured of just these files."""
        latency = self._latency(rows)
        try:
            kept = latency.content["timings"]
            return {name: Timing.from_dict(timing, str(latency.path), name) for name, timing in kept.items()}
        except (BadInput, KeyError, AttributeError):
            return None  # absent or damaged: measured again

    def measure(self, rows: Sequence[Row], progress: Progress) -> None:
        """Time the files of one network in turns, on the first picture of the first dataset, and keep it."""
        timed = self._timed(rows)
        pair = self.pairs(self.plan.data[0], TIMED)[0][0]
        variants = [Variant(row.artifact, self.plan.backend) for row in timed if row.artifact]
        found = timings(variants, pair, PROTOCOLS[TIMED], self.plan.threads, self.plan.repeats, progress)
        kept = {row.scheme: timing.to_dict() for row, timing in zip(timed, found, strict=True)}
        self._latency(rows).write(timings=kept)

    def _timed(self, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if row.artifact and (row.network, row.scheme) not in self.failed]

    def _latency(self, rows: Sequence[Row]) -> ledger.Ledger:
        identity = {
            "files": {row.scheme: row.artifact.sha256 for row in self._timed(rows) if row.artifact},
            "picture": self.pairs(self.plan.data[0], TIMED)[0][0].first.digest,
            **{name: getattr(self.plan, name) for name in ("backend", "threads", "repeats")},
            **versions("lf.benchmarks.run.suite"),
        }
        return ledger.resume(self.out / "latency" / f"{rows[0].network}.json", identity, "restart")


def timed(run: Run, timing: Timing | None) -> Run:
    """A run with the latency of its file, if its protocol evaluates at the size at which that was measured."""
    return run.timed(timing) if timing and PROTOCOLS[run.protocol].size == PROTOCOLS[TIMED].size else run


def _within(before: int, whole: int, what: str, progress: Progress) -> Progress:
    """Progress of a part that begins after `before` of the `whole`."""
    return lambda done, total, text: progress(before + done, whole, f"{what} {text}")
