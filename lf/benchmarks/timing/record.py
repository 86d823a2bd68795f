"""The timing fields of a run: percentiles, ratios, warm-up and memory; see docs/reference/results-file.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lf.core.records import Record


@dataclass(frozen=True, kw_only=True)
class Percentiles(Record):
    """Percentiles over turns, ms, and the number of turns."""

    p50: float
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    n: int = 0


@dataclass(frozen=True, kw_only=True)
class Phases(Record):
    """Wall time by phase."""

    preprocess: Percentiles | None = None
    network: Percentiles | None = None
    postprocess: Percentiles | None = None
    end_to_end: Percentiles


@dataclass(frozen=True, kw_only=True)
class Drift(Record):
    """Medians of the first and of the last third of the turns, ms, and the relative change."""

    first_third_ms: float | None = None
    last_third_ms: float | None = None
    change: float


@dataclass(frozen=True, kw_only=True)
class WarmUp(Record):
    """Number of turns before measuring, and whether the last of them were steady."""

    turns: int = 0
    stationary: bool = True


@dataclass(frozen=True, kw_only=True)
class Ratio(Record):
    """Median over turns of the ratio within a turn, and its 95 % bootstrap interval; None for too few turns."""

    value: float
    interval: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Ratios(Record):
    """`to`: the name of the reference. Others: the ratio of each phase, and of the CPU time."""

    to: str = ""
    preprocess: Ratio | None = None
    network: Ratio | None = None
    postprocess: Ratio | None = None
    end_to_end: Ratio | None = None
    cpu: Ratio | None = None


@dataclass(frozen=True, kw_only=True)
class Timing(Record):
    """The timing fields of a run, by their names in docs/reference/results-file.md."""

    latency_ms: Phases | None = None
    cpu_ms: Percentiles | None = None
    cpu_share: float | None = None
    void: str | None = None
    stationary: bool | None = None
    drift: Drift | None = None
    samples_ms: Mapping[str, list[float]] = field(default_factory=dict)
    ratio: Ratios = field(default_factory=Ratios)
    energy_j: float | None = None
    warm_up: WarmUp = field(default_factory=WarmUp)
    import_ms: float | None = None
    load_ms: float | None = None
    cold_start_ms: float | None = None
    peak_rss_bytes: int | None = None
    operators: Mapping[str, int] | None = None
    provider_share: Mapping[str, float] | None = None
    allocator: Mapping[str, str] = field(default_factory=dict)

    @property
    def phases(self) -> Phases:
        """`latency_ms` of a timed run.

        Raises:
            ValueError: the run was not timed.
        """
        if self.latency_ms is None:
            raise ValueError("a run without latency")
        return self.latency_ms

    @property
    def p50(self) -> float | None:
        """Median of the time from image to features, ms; None without timing."""
        return self.latency_ms.end_to_end.p50 if self.latency_ms else None
