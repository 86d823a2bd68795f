"""Tables of latency, and the input of github-action-benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lf.benchmarks.report.header import header
from lf.benchmarks.report.tables import markdown, repeat
from lf.benchmarks.run.names import told_apart
from lf.benchmarks.run.record import Run
from lf.benchmarks.timing.latency_stats import said, written
from lf.benchmarks.timing.record import Percentiles

HEAD = (
    *("model", "scheme", "backend", "threads", "input", "p50 ms [p90 p99]", "ratio [95 %]", "CPU ms (ratio)"),
    *("prepare + network + decode", "load", "first", "RSS MB"),
)


def page(runs: Sequence[Run]) -> str:
    """Output of `lf time`: provenance, table and legend."""
    runs = told_apart(runs)
    notes = [f"- {run.label}: {'; '.join(remarks(run))}" for run in runs if remarks(run)]
    parts = [header(runs[0]), markdown(HEAD, [row(run) for run in runs]), "\n".join(notes), legend(runs)]
    return "\n\n".join(part for part in parts if part)


def row(run: Run) -> list[str]:
    """The cells of one run."""
    times, whole, cpu = run.phases, run.phases.end_to_end, run.cpu_ms
    size = run.input_size or run.artifact.input[1:]
    ratio = written(run.ratio.cpu, cpu.n, 3) if run.ratio.cpu and cpu else ""
    phases = " + ".join(map(_median, (times.preprocess, times.network, times.postprocess)))
    return [
        *(run.artifact.model, run.artifact.scheme, run.backend, str(run.environment.threads)),
        f"{size[0]}x{size[1]}" if all(size) else "any",
        f"{ms(whole.p50)} [{ms(whole.p90)} {ms(whole.p99)}]{' void' if run.void else ''}",
        said(run, "end_to_end", 3),
        _median(cpu) + (f" ({ratio})" if ratio else ""),
        *(phases, ms(run.load_ms), ms(run.cold_start_ms)),
        f"{run.peak_rss_bytes / 1e6:.0f}" if run.peak_rss_bytes else "-",
    ]


def _median(found: Percentiles | None) -> str:
    return ms(found.p50 if found else None)


def remarks(run: Run) -> list[str]:
    """Remarks on the times of a run: void, not stationary; and its energy if it was read."""
    found = [f"void: {run.void}"] if run.void else []
    if run.stationary is False and run.drift:
        found.append(f"not stationary: {run.drift.change:+.0%} from the first to the last third")
    if not run.warm_up.stationary:
        found.append(f"not steady after {run.warm_up.turns} turns of warm-up")
    return found + ([f"{run.energy_j:.3g} J per extraction"] if run.energy_j is not None else [])


def legend(runs: Sequence[Run]) -> str:
    """Legend of the columns, and advice on void runs."""
    says = (
        f"Ratios are to {runs[0].ratio.to} in the same turn: the median, and its bootstrap interval over turns. "
        "CPU: time of all threads. load: opening the file; first: that and one extraction, without Python's imports."
    )
    return says + (f"\n{repeat(runs)}" if repeat(runs) else "")


def github(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Input of github-action-benchmark with its tool `customSmallerIsBetter`: names stay the same between commits."""
    entries: list[dict[str, Any]] = []
    for run in told_apart(runs):
        name = f"{run.label}, {run.environment.threads} thread(s), {run.protocol}"
        ratio = f"{said(run, 'end_to_end', 3)} times {run.ratio.to}"
        lines = [str(run.environment.cpu), *remarks(run)]
        extra = "\n".join([*lines, ratio] if run.ratio.end_to_end else lines)
        for phase, of in (("end_to_end", run.phases.end_to_end), ("network", run.phases.network)):
            assert of is not None
            entry = {"name": f"{name}: {phase}", "unit": "ms", "value": of.p50, "range": f"p90 {of.p90}"}
            entries.append({**entry, "extra": extra})
        entries.append({"name": f"{name}: cold start", "unit": "ms", "value": run.cold_start_ms, "extra": extra})
        if run.peak_rss_bytes:
            megabytes = run.peak_rss_bytes / 1e6
            entries.append({"name": f"{name}: peak RSS", "unit": "MB", "value": megabytes, "extra": extra})
    return entries


def ms(value: float | None) -> str:
    """Milliseconds with three digits or more; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
