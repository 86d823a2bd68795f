"""Group the runs of a report that can be compared, and choose the reference of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lf.benchmarks.report.tables import columns
from lf.benchmarks.run.names import told_apart
from lf.benchmarks.run.record import Run


@dataclass(frozen=True)
class Group:
    """Runs of one protocol on the same pairs.

    Attributes:
        runs: in the order of the files, with unique labels.
        references: for each run the float run to compare with; None for float runs.
    """

    runs: tuple[Run, ...]
    references: tuple[Run | None, ...]

    @property
    def title(self) -> str:
        """`kp2d-fixed on HPATCHES, 43 pairs`."""
        first = self.runs[0]
        return f"{first.protocol} on {first.dataset}, {len(first.pairs)} pairs"

    @property
    def metrics(self) -> list[str]:
        """The columns of the protocol for which the first run has numbers."""
        first = self.runs[0]
        return [name for name in columns(first.protocol) if name in first.summary]

    @property
    def changed(self) -> list[tuple[Run, Run]]:
        """(run, float reference) of every run with a reference."""
        return [(run, of) for run, of in zip(self.runs, self.references, strict=True) if of is not None]


def grouped(runs: Sequence[Run]) -> tuple[list[Group], list[Run]]:
    """Return the groups of the runs on pairs, and the runs that were only timed.

    A run on pairs without times takes the times of a timed run with the same file, protocol, backend, threads, settings
    and kind of processor, if there is one. Of repeated measurements on the same kind of processor, the last counts.
    """
    timed = [run for run in runs if run.image_size]
    latest = {(run.measured, run.environment.cpu): run for run in runs if not run.image_size}
    kinds: dict[tuple[str, str], list[Run]] = {}
    for run in latest.values():
        kinds.setdefault((run.protocol_digest, run.dataset_digest), []).append(_with_times(run, timed))
    return [_group(told_apart(distinct(some))) for some in kinds.values()], timed


def _with_times(run: Run, timed: Sequence[Run]) -> Run:
    if run.latency_ms is not None:
        return run
    wanted = _timed_as(run)
    return next((run.timed(other) for other in timed if _timed_as(other) == wanted), run)


def _timed_as(run: Run) -> tuple[object, ...]:
    place = run.environment
    return run.artifact.sha256, run.protocol_digest, run.backend, place.threads, place.cpu, *_settings(run)


def _settings(run: Run) -> tuple[object, ...]:
    """Return the settings of extraction. A float file and its quantized form are compared only if these are equal."""
    return run.keypoints, tuple(run.input_size or ()), run.nms, run.refine, run.threshold, run.extraction


def _group(runs: Sequence[Run]) -> Group:
    return Group(tuple(runs), tuple(_reference(run, runs) for run in runs))


def _reference(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the float run with the same weights and settings, and the same backend if there is one."""
    if run.artifact.scheme == "fp32":
        return None
    floats = [other for other in runs if other.artifact.scheme == "fp32" and _kin(other) == _kin(run)]
    return next((other for other in floats if other.backend == run.backend), floats[0] if floats else None)


def _kin(run: Run) -> tuple[object, ...]:
    return run.artifact.weights.get("sha256"), *_settings(run)


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Return the runs; labels name the processor if there are several."""
    if len({run.environment.cpu for run in runs}) < 2:
        return list(runs)
    return [replace(run, backend=f"{run.backend} ({run.environment.cpu})") for run in runs]
