"""Sweep: networks x schemes x data x protocols, from one plan to one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lf.benchmarks.report import web
from lf.benchmarks.report.tables import markdown
from lf.benchmarks.run import results
from lf.benchmarks.run.pool import POOLS
from lf.core import UsageError, files, pick
from lf.core.console import Progress
from lf.quantize import WRITERS
from lf.studies import sweep_table
from lf.studies.sweep_files import OPTIONS, make
from lf.studies.sweep_plan import Row, load
from lf.studies.sweep_runs import Runs, timed

TABLE, RESULTS = "table.md", "results.json"


def sweep(
    plan: Path, out: Path, progress: Progress, pool: str | None = None, needs: Mapping[str, float] | None = None
) -> tuple[Path, Path, Path]:
    """Run a plan; return the table, the results file and the report. The same folder resumes.

    Args:
        plan: TOML file, see `lf.studies.sweep_plan`.
        out: folder for everything.
        progress: (done, total, text).
        pool: row of POOLS: its machines evaluate and time, files are made here. None does everything here.
        needs: resources that the machines must have, see `lf.benchmarks.run.pool`.
    """
    if needs and not pool:
        raise UsageError("`needs` says what the machines of a pool must have; type: `pool=ray`")
    runs = _opened(plan, out, pool, needs)
    rows = make(runs.plan, out, progress)
    runs.evaluate(runs.todo(rows), progress, lambda: _write(plan, runs, rows))
    for some in runs.together(rows) if runs.plan.repeats else ():
        if runs.latency(some) is None:
            runs.measure(some, progress)
    _write(plan, runs, rows)
    report = web.write(results.load(out / RESULTS), out / web.PAGE, title=f"Sweep {plan.stem}")
    return out / TABLE, out / RESULTS, report


def outline(plan: Path, out: Path) -> str:
    """List the files and runs that exist and those that are missing."""
    runs = _opened(plan, out)
    return _there(make(runs.plan, out, None), runs)


def _opened(plan: Path, out: Path, pool: str | None = None, needs: Mapping[str, float] | None = None) -> Runs:
    """Open the runs of a plan; a missing dataset raises before hours of work."""
    spread = pick(POOLS, pool, "pool") if pool else None
    runs = Runs(load(plan, WRITERS, OPTIONS), out, spread, needs or {})
    for data in runs.plan.data:
        for protocol in data.protocols:
            runs.pairs(data, protocol)
    return runs


def _write(plan: Path, runs: Runs, rows: Sequence[Row]) -> None:
    """Write the table and the results file from the existing runs."""
    measured = [runs.latency(some) or {} for some in runs.together(rows)] if runs.plan.repeats else []
    latency = {name: timing for found in measured for name, timing in found.items()}
    found = {(job.row.network, job.row.scheme, job.data.name, job.protocol): runs.kept(job) for job in runs.jobs(rows)}
    there = {name: timed(run, latency.get(name[:2])) for name, run in found.items() if run}
    text = sweep_table.page(
        f"Sweep {plan.stem}",
        runs.plan,
        rows,
        lambda data, protocol: {name[:2]: run for name, run in there.items() if name[2:] == (data.name, protocol)},
        runs.failed,
        latency,
    )
    results.save(runs.out / RESULTS, list(there.values()))
    files.write_bytes(runs.out / TABLE, (text + "\n").encode("utf-8", "surrogateescape"))


def _there(rows: Sequence[Row], runs: Runs) -> str:
    """Format the output of a dry run: missing files, runs and times."""
    todo = [job for job in runs.jobs(rows) if not job.row.refused and runs.kept(job) is None]
    lines, times = [], 0
    for some in runs.together(rows):
        measured = not runs.plan.repeats or runs.latency(some) is not None
        times += 0 if measured else len({row.network for row in some})
        for row in some:
            state = "refused" if row.refused else "there" if row.artifact else "to make"
            left = sum(job.row == row for job in todo)
            whole = len(runs.jobs([row]))
            lines.append([row.network, row.scheme, state, f"{whole - left} of {whole}" if not row.refused else "-"])
    made = sum(not row.artifact and not row.refused for row in rows)
    pairs = sum(len(runs.pairs(job.data, job.protocol)[0]) for job in todo)
    return (
        f"{markdown(['model', 'scheme', 'file', 'runs there'], lines)}\n\n"
        f"to do: {made} files, {len(todo)} runs of {pairs} pairs, latency of {times} networks"
    )
