"""Pareto front of accuracy, latency and size, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lf.benchmarks.protocols.summary import brackets
from lf.benchmarks.report.latency_table import ms
from lf.benchmarks.report.tables import SHORT, digits, markdown, repeat, signed, voids
from lf.benchmarks.run.record import Run
from lf.benchmarks.timing.latency_stats import said

Lost = tuple[float, tuple[float, float] | None, int]  # drop from the reference, 95 % interval, number of pairs


@dataclass(frozen=True)
class Candidate:
    """One way to run a network, measured.

    Attributes:
        run: a run with its latency, see docs/reference/results-file.md.
        drops: metric -> Lost, in the unit of the metric.
        used: the largest drop as a share of its budget; 1 is the whole budget.
        shown: whether the upper ends of all 95 % intervals are within the budget, too; False for too few pairs.
    """

    run: Run
    drops: Mapping[str, Lost] = field(default_factory=dict)
    used: float = 0.0
    shown: bool = True

    @property
    def name(self) -> str:
        """`w8a8 at 180x240 ort-cpu 2t`."""
        return self.run.named("scheme", "cut", "settings", "backend", "threads")

    @property
    def form(self) -> str:
        """Number format, end of the graph if not raw heads, and requested size."""
        return self.run.named("scheme", "cut", "settings")

    @property
    def answer(self) -> dict[str, Any]:
        """Return the values that a program needs to use the candidate."""
        run, artifact, ratio = self.run, self.run.artifact, self.run.ratio
        return {
            "file": artifact.file,
            "sha256": artifact.sha256,
            "scheme": artifact.scheme,
            "outputs": [*artifact.outputs],
            "input_size": run.input_size,
            "backend": run.backend,
            "threads": run.environment.threads,
            "ms": self.ms,
            "bytes": artifact.bytes,
            "ratio": {"to": ratio.to, **(ratio.end_to_end.to_dict() if ratio.end_to_end else {})},
            "drops": {
                name: {"drop": drop, "interval": sure, "pairs": n} for name, (drop, sure, n) in self.drops.items()
            },
            "budget_used": self.used if self.used != float("inf") else None,
            "void": run.void,
        }

    @property
    def ms(self) -> float:
        """Median of the time from image to features."""
        return self.run.phases.end_to_end.p50

    @property
    def time(self) -> float:
        """Median over turns of the ratio to the first candidate's time in the same turn; it ranks candidates."""
        ratio = self.run.ratio.end_to_end
        return ratio.value if ratio else float("inf")

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.run.artifact.bytes or 0

    @property
    def objectives(self) -> tuple[float, float, float]:
        """Share of the budget, time, bytes; smaller is better."""
        return max(self.used, 0.0), self.time, float(self.size)


def judge(reference: Run, run: Run, budget: Mapping[str, float]) -> Candidate:
    """Compare a run with a reference on the same pairs; `budget` is metric -> largest drop.

    A metric without a value in both runs uses the whole budget.
    """
    drops: dict[str, Lost] = {}
    used, shown = 0.0, True
    for metric, limit in budget.items():
        found = run.drop(reference, metric)
        if found is None:
            return Candidate(run, drops, float("inf"), False)
        drops[metric] = found.drop, found.interval, found.n
        share = found.drop / limit if limit else (float("inf") if found.drop > 0 else 0.0)
        used, shown = max(used, share), shown and found.interval is not None and found.interval[1] <= limit
    return Candidate(run, drops, used, shown)


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the Pareto front of accuracy, latency and size, the fastest first."""

    def beaten(one: Candidate) -> bool:
        return any(
            other.objectives != one.objectives
            and all(a <= b for a, b in zip(other.objectives, one.objectives, strict=True))
            for other in candidates
        )

    return sorted((one for one in candidates if not beaten(one)), key=lambda one: one.time)


def fastest(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the fastest candidate with all mean drops within the budget; None if there is none."""
    return min((one for one in candidates if one.used <= 1), key=lambda one: one.time, default=None)


def table(candidates: Sequence[Candidate], budget: Mapping[str, float]) -> str:
    """Format all candidates, the fastest first, with the reasons of void times below."""
    best, undominated = fastest(candidates), front(candidates)
    head = ["", "scheme", "backend", "threads", "ms", "times the first", *(SHORT.get(name, name) for name in budget)]
    rows = []
    for one in sorted(candidates, key=lambda one: one.time):
        run = one.run
        rows.append(
            [
                "->" if one is best else "*" if one in undominated else "",
                *(one.form, run.backend, str(run.environment.threads)),
                f"{ms(one.ms)}{' void' if run.void else ''}",
                said(run, "end_to_end"),
                *(_cell(one, metric) for metric in budget),
                "within" if one.used <= 1 and one.shown else "not shown" if one.used <= 1 else "beyond",
                run.artifact.megabytes,
            ]
        )
    lines = [*voids((one.name, one.run.void) for one in candidates), repeat([one.run for one in candidates])]
    return "\n\n".join(filter(None, [markdown([*head, "budget", "MB"], rows), "\n".join(filter(None, lines))]))


def _cell(one: Candidate, metric: str) -> str:
    if metric not in one.drops:
        return "-"
    drop, sure, n = one.drops[metric]
    return f"{digits(one.run.summary[metric])} {signed(drop)} {brackets(sure, n, signed)}"
