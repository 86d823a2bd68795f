"""Pareto front of accuracy, latency and size, as a table and a chart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lf.benchmarks.protocols.summary import brackets
from lf.benchmarks.report.figures import plotter
from lf.benchmarks.report.latency_table import ms
from lf.benchmarks.report.tables import SHORT, digits, markdown, repeat, signed, voids
from lf.benchmarks.run.record import Run
from lf.benchmarks.timing.latency_stats import said
from lf.core import files

Lost = tuple[float, tuple[float, float] | None, int]  # how much worse than the reference, 95 % interval, pairs
MARKERS = "os^Dv*PX<>phd8H"


@dataclass(frozen=True)
class Candidate:
    """One way to run a network, measured.

    Attributes:
        run: a run with its latency, see docs/reference/results-file.md.
        drops: metric -> Lost, in the unit of the metric.
        used: the largest drop as a share of what the budget allows; 1 uses it up.
        shown: whether all of the 95 % interval of every drop is within, too; not where the pairs are too few for one.
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
        """The values that a program needs to use it."""
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
        """Median of the time from picture to features."""
        return self.run.phases.end_to_end.p50

    @property
    def time(self) -> float:
        """That time over the first candidate's in the same turn, the median over turns: what candidates compare by."""
        ratio = self.run.ratio.end_to_end
        return ratio.value if ratio else float("inf")

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.run.artifact.bytes or 0

    @property
    def objectives(self) -> tuple[float, float, float]:
        """Share of the budget, time, bytes: all the better the smaller."""
        return max(self.used, 0.0), self.time, float(self.size)


def judge(reference: Run, run: Run, budget: Mapping[str, float]) -> Candidate:
    """A run held against another of the same pairs; `budget` is metric -> how much worse it may be.

    A metric without a value in both runs uses up everything.
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
    """Those that no other one equals or beats in accuracy, latency and size at once; the fastest first."""

    def beaten(one: Candidate) -> bool:
        return any(
            other.objectives != one.objectives
            and all(a <= b for a, b in zip(other.objectives, one.objectives, strict=True))
            for other in candidates
        )

    return sorted((one for one in candidates if not beaten(one)), key=lambda one: one.time)


def fastest(candidates: Sequence[Candidate]) -> Candidate | None:
    """The fastest one whose drops are within the budget in the mean; None if there is none."""
    return min((one for one in candidates if one.used <= 1), key=lambda one: one.time, default=None)


def table(candidates: Sequence[Candidate], budget: Mapping[str, float]) -> str:
    """All candidates, the fastest first; below, why times are void."""
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


def draw(candidates: Sequence[Candidate], path: Path) -> Path:
    """Time against the share of the budget that is used: colours are backends, shapes are files, areas are bytes.

    A line joins those that nothing is at once as quick and as accurate as; those of them within the budget are named.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    figure = plotter()(figsize=(8, 5), dpi=130, layout="constrained")
    axes = figure.subplots()
    worst = max((one.used for one in candidates if one.used != float("inf")), default=1.0)
    top = max(1.25, min(worst, 5.0) * 1.1)  # what is far beyond is drawn at the edge
    _scatter(axes, candidates, top)
    _join(axes, _quick_or_accurate(candidates), top)
    _scales(axes, candidates, top)
    figure.legend(loc="outside right upper", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    files.write_bytes(path, buffer.getvalue())
    return path


def _scatter(axes: Any, candidates: Sequence[Candidate], top: float) -> None:
    """A point for each candidate, and the legend of colours and shapes."""
    largest = max(one.size for one in candidates)
    backends = [*dict.fromkeys(one.run.backend for one in candidates)]
    forms = [*dict.fromkeys(one.form for one in candidates)]
    for one in candidates:
        axes.scatter(
            one.time,
            _height(one, top),
            s=30 + 170 * one.size / largest,
            color=f"C{backends.index(one.run.backend)}",
            marker=MARKERS[forms.index(one.form) % len(MARKERS)],
            alpha=0.6,
            linewidths=0,
        )
    for index, backend in enumerate(backends):
        axes.scatter([], [], color=f"C{index}", label=backend)
    for index, form in enumerate(forms):
        axes.scatter([], [], color="0.4", marker=MARKERS[index % len(MARKERS)], label=form)


def _join(axes: Any, line: Sequence[Candidate], top: float) -> None:
    """The line, and the names of its candidates within the budget."""
    axes.step(
        [one.time for one in line], [_height(one, top) for one in line], where="post", color="0.5", lw=1, zorder=0
    )
    for index, one in enumerate(one for one in line if one.used <= 1):
        place = {"xytext": (6, 8 + 10 * (index % 2)), "textcoords": "offset points"}
        axes.annotate(one.name, (one.time, _height(one, top)), fontsize=8, **place)
    axes.axhline(1, color="0.3", ls="--", lw=1)
    axes.annotate("budget", (1, 1), (-4, 3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right")


def _scales(axes: Any, candidates: Sequence[Candidate], top: float) -> None:
    """Labels, limits and ticks of both axes."""
    xlabel = f"time from picture to features, times that of {candidates[0].run.ratio.to} in the same turn"
    axes.set(xlabel=xlabel, ylabel="share of the budget used", ylim=(-0.08 * top, top))
    axes.set_xscale("log")
    axes.margins(x=0.15)
    ticks = [min(one.time for one in candidates), max(one.time for one in candidates)]
    axes.set_xticks(ticks, [*map("{:.2f}".format, ticks)])
    axes.minorticks_off()


def _quick_or_accurate(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The front without regard to size, the fastest first."""
    line: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.time, one.used)):
        if not line or max(one.used, 0.0) < max(line[-1].used, 0.0):
            line.append(one)
    return line


def _height(one: Candidate, top: float) -> float:
    return min(max(one.used, 0.0), top * 0.97)
