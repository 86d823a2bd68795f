"""The command `lf sweep`: networks x schemes x data x protocols, from one file, into one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lf.core import console, files

if TYPE_CHECKING:
    from lf.studies.sweep_plan import Row
    from lf.studies.sweep_runs import Runs

TABLE, RESULTS = "table.md", "results.json"


def sweep(
    plan: Annotated[Path, typer.Argument(readable=False, metavar="SWEEP.toml", help="What to run; see docs/results")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Files, runs and tables; the same DIR resumes")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is there and what is to do")] = False,
) -> None:
    """Quantize networks in many schemes and evaluate all on all data: one table, with what each drop is worth."""
    from lf.quantize import ENGINES
    from lf.studies import sweep_plan as plans
    from lf.studies.sweep_files import OPTIONS, make
    from lf.studies.sweep_runs import Runs

    asked = plans.load(plan, ENGINES, OPTIONS)
    runs = Runs(asked, out)
    for data in asked.data:
        for protocol in data.protocols:
            runs.pairs(data, protocol)  # what is not there is said before hours of work
    if dry_run:
        console.result(_there(make(asked, out, None), runs))
        return
    with console.progress() as progress:
        rows = make(asked, out, progress)
        runs.evaluate(runs.todo(rows), progress, lambda: _write(plan, runs, rows))
        for of_one in _by_network(rows) if asked.repeats else ():
            if runs.latency(of_one) is None:
                runs.measure(of_one, progress)
        _write(plan, runs, rows)
    console.result(out / TABLE)
    console.result(out / RESULTS)


def _by_network(rows: Sequence[Row]) -> Iterator[list[Row]]:
    return (list(some) for _, some in groupby(rows, lambda row: row.network))


def _write(plan: Path, runs: Runs, rows: Sequence[Row]) -> None:
    """Both files, of the runs there are by now."""
    from lf.benchmarks.run import results
    from lf.studies import sweep_table
    from lf.studies.sweep_runs import timed

    of_networks = {some[0].network: runs.latency(some) or {} for some in _by_network(rows)} if runs.plan.repeats else {}
    latency = {(network, scheme): timing for network, found in of_networks.items() for scheme, timing in found.items()}
    found = {(job.row.network, job.row.scheme, job.data.name, job.protocol): runs.kept(job) for job in runs.jobs(rows)}
    there = {name: timed(run, latency.get(name[:2], {})) for name, run in found.items() if run}
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
    """What a dry run says: what is to be made, evaluated and timed."""
    from lf.benchmarks.report.tables import markdown

    todo = [job for job in runs.jobs(rows) if not job.row.refused and runs.kept(job) is None]
    lines, times = [], 0
    for some in _by_network(rows):
        measured = not runs.plan.repeats or runs.latency(some) is not None
        times += not measured
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
