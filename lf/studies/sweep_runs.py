"""Compute the runs of a sweep; each is kept in its own file, so that a sweep can resume."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.run import results
from lf.benchmarks.run.evaluate import Progress, bench
from lf.benchmarks.run.pool import Pool, Work, located, needs_of
from lf.benchmarks.run.record import Run
from lf.benchmarks.run.suite import timings
from lf.benchmarks.timing.record import Timing
from lf.core import Artifact, BadInput, DiskFull, LfError, Unavailable, UsageError, ledger
from lf.core.fingerprint import versions
from lf.data import Pair, dataset_digest, open_dataset
from lf.extraction.variant import Variant
from lf.runtimes import backends_for
from lf.studies.sweep_plan import FLOAT, Data, Plan, Row

Name = tuple[str, str]  # network, scheme
TIMED = "kp2d"  # latency is measured at the size of this protocol, at one scale


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
        plan: the plan.
        out: a folder; `runs/` and `latency/` are kept, `cache/` holds only data of the current file.
        pool: evaluates and times on other machines; None does it here.
        needs: resources that these machines must have.
        failed: reason why a file could not be evaluated, by network and scheme.
    """

    plan: Plan
    out: Path
    pool: Pool | None = None
    needs: Mapping[str, float] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    _opened: dict[tuple[str, tuple[str, ...]], tuple[list[Pair], str]] = field(default_factory=dict)

    def pairs(self, data: Data, protocol: str) -> tuple[list[Pair], str]:
        """Open the pairs of a dataset under a protocol; also return their digest."""
        key = data.where, PROTOCOLS[protocol].without
        if key not in self._opened:
            found = open_dataset(data.where, exclude=key[1])
            if protocol in data.protocols:  # the protocol of times only needs an image
                PROTOCOLS[protocol].check(found, data.where)
            self._opened[key] = found, dataset_digest(found)
        return self._opened[key]

    def jobs(self, rows: Sequence[Row]) -> list[Job]:
        """Runs of the plan, file by file."""
        data = [(data, protocol) for data in self.plan.data for protocol in data.protocols]
        return [Job(row, *each) for row in rows for each in data]

    def todo(self, rows: Sequence[Row]) -> list[Job]:
        """Runs that are missing and can be computed."""
        return [job for job in self.jobs(rows) if job.row.artifact and self.kept(job) is None]

    def kept(self, job: Job) -> Run | None:
        """Return the stored run of a job with the same file, data, protocol, engine and code; None without one."""
        if job.row.artifact is None:
            return None
        try:
            (run,) = results.load(self._path(job))
        except (BadInput, ValueError):
            return None  # missing or damaged: compute again
        found = {
            **{name: getattr(run, name) for name in ("dataset_digest", "protocol_digest", "backend")},
            "sha256": run.artifact.sha256,
            "versions": run.environment.versions,
        }
        expected = {
            "dataset_digest": self.pairs(job.data, job.protocol)[1],
            "protocol_digest": PROTOCOLS[job.protocol].digest,
            "backend": self._backend(job.row.artifact),
            "sha256": job.row.artifact.sha256,
            "versions": versions("lf.benchmarks.run.evaluate"),
        }
        return None if ledger.differences(found, expected) else run

    def evaluate(self, jobs: Sequence[Job], progress: Progress, after: Callable[[], None]) -> None:
        """Compute the runs of `jobs`, grouped by file. A file that cannot be evaluated is recorded in `failed`.

        Args:
            jobs: jobs of `todo`.
            progress: (done, total, text), called per pair, over all pairs.
            after: called after each network.

        Raises:
            LfError: the error concerns a float file, or all files.
        """
        if self.pool:
            self._spread(self.pool, jobs, progress)
            return
        sizes = [len(self.pairs(job.data, job.protocol)[0]) for job in jobs]
        for index, job in enumerate(jobs):
            says = _within(sum(sizes[:index]), sum(sizes), f"{len(jobs) - index} runs left: {job.data.name}", progress)
            cache = self.out / "cache" / f"{job.row.network}.{job.row.scheme}"
            try:
                self._run(job, cache, says)
            except LfError as error:
                self._fail(job, error)
            following = jobs[index + 1].row if index + 1 < len(jobs) else None
            if following != job.row:  # features of one file at a time: they can be gigabytes
                shutil.rmtree(cache, ignore_errors=True)
            if following is None or following.network != job.row.network:
                after()
        shutil.rmtree(self.out / "cache", ignore_errors=True)

    def _spread(self, pool: Pool, jobs: Sequence[Job], progress: Progress) -> None:
        """Compute the runs of `jobs` on the machines of a pool; each is stored when it arrives."""
        for done, answer in enumerate(pool([self._work(job) for job in jobs]), 1):
            job = jobs[answer.index]
            if answer.error:
                self._fail(job, answer.error)
            elif answer.run:
                results.save(self._path(job), [replace(answer.run, dataset=job.data.root)])
            progress(done, len(jobs), f"{job.row.network} {job.row.scheme} {job.data.name} on {answer.machine}")

    def _work(self, job: Job) -> Work:
        assert job.row.artifact is not None
        variant = Variant(job.row.artifact, self._backend(job.row.artifact), size=self.plan.size)
        digest, needs = self.pairs(job.data, job.protocol)[1], needs_of(variant, self.needs)
        return Work((variant,), located(job.data.where), digest, job.protocol, self.plan.threads, needs=needs)

    def _fail(self, job: Job, error: LfError) -> None:
        """Record the reason why a file could not be evaluated; raise errors of float files and of all files."""
        if job.row.scheme == FLOAT or isinstance(error, UsageError | Unavailable | DiskFull):
            raise error
        self.failed[job.row.network, job.row.scheme] = str(error)

    def _run(self, job: Job, cache: Path, progress: Progress) -> None:
        assert job.row.artifact is not None
        pairs, _ = self.pairs(job.data, job.protocol)
        run = bench(
            Variant(job.row.artifact, self._backend(job.row.artifact), size=self.plan.size),
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

    def together(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Group the rows that are timed in turns: by network, or all together if the plan has a reference."""
        if self.plan.reference:
            return [[*rows]]
        return [list(some) for _, some in groupby(rows, lambda row: row.network)]

    def latency(self, rows: Sequence[Row]) -> dict[Name, Timing] | None:
        """Return the stored latency of rows timed together; None if it was not measured with exactly these files."""
        latency = self._latency(rows)
        try:
            kept = latency.content["timings"]
            return {
                (row.network, row.scheme): Timing.from_dict(kept[self._key(row)], str(latency.path), self._key(row))
                for row in self._timed(rows)
            }
        except (BadInput, KeyError, TypeError, AttributeError):
            return None  # missing or damaged: measure again

    def measure(self, rows: Sequence[Row], progress: Progress) -> None:
        """Time files in turns, on the first image of the first dataset, and store the times."""
        timed = self._timed(rows)
        pair = self.pairs(self.plan.data[0], TIMED)[0][0]
        variants = [Variant(row.artifact, self._backend(row.artifact)) for row in timed if row.artifact]
        base = next((n for n, row in enumerate(timed) if row.network == self.plan.reference), 0)
        if self.pool:
            found = self._timed_in(self.pool, variants, base)
        else:
            found = timings(variants, pair, PROTOCOLS[TIMED], self.plan.threads, self.plan.repeats, progress, base)
        kept = {self._key(row): timing.to_dict() for row, timing in zip(timed, found, strict=True)}
        self._latency(rows).write(timings=kept)

    def _timed_in(self, pool: Pool, variants: Sequence[Variant], base: int) -> list[Timing]:
        """Time variants in turns on one machine of a pool that has the resources of all."""
        needs = {name: amount for each in variants for name, amount in needs_of(each, self.needs).items()}
        data, digest = self.plan.data[0], self.pairs(self.plan.data[0], TIMED)[1]
        work = Work((*variants,), located(data.where), digest, TIMED, self.plan.threads, needs=needs)
        (answer,) = pool([replace(work, repeats=self.plan.repeats, reference=base)])
        if answer.error:
            raise answer.error
        return [*answer.timings]

    def _backend(self, artifact: Artifact) -> str:
        """Return the backend of the plan, or that of a baseline."""
        fits = backends_for(artifact.path)
        return self.plan.backend if self.plan.backend in fits else fits[0]

    def _key(self, row: Row) -> str:
        return f"{row.network} {row.scheme}" if self.plan.reference else row.scheme

    def _timed(self, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if row.artifact and (row.network, row.scheme) not in self.failed]

    def _latency(self, rows: Sequence[Row]) -> ledger.Ledger:
        identity = {
            "files": {self._key(row): row.artifact.sha256 for row in self._timed(rows) if row.artifact},
            "picture": self.pairs(self.plan.data[0], TIMED)[0][0].first.digest,
            **{name: getattr(self.plan, name) for name in ("backend", "threads", "repeats", "reference")},
            **versions("lf.benchmarks.run.suite"),
        }
        name = f"all to {self.plan.reference}" if self.plan.reference else rows[0].network
        return ledger.resume(self.out / "latency" / f"{name}.json", identity, "restart")


def timed(run: Run, timing: Timing | None) -> Run:
    """Return a run with the latency of its file, if the protocol evaluates at the size of the timed image."""
    return run.timed(timing) if timing and PROTOCOLS[run.protocol].size == PROTOCOLS[TIMED].size else run


def _within(before: int, whole: int, what: str, progress: Progress) -> Progress:
    """Return the progress of a part that begins after `before` of the `whole`."""
    return lambda done, total, text: progress(before + done, whole, f"{what} {text}")
