"""The commands that measure and judge: bench, compare, baseline accept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf import console
from lf.benchmarks import PROTOCOLS
from lf.cli.options import Data, Json, Threads
from lf.models.resolve import resolve
from lf.runtimes import BACKENDS


def bench(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Model files or names of shipped weights")],
    backend: Annotated[
        str, typer.Option(help=f"Engines, with commas; each runs what it can: {', '.join(BACKENDS)}")
    ] = "ort-cpu",
    data: Data = "procedural",
    protocol: Annotated[str, typer.Option(help=f"How the numbers are made: {', '.join(PROTOCOLS)}")] = "kp2d",
    limit_sequences: Annotated[int | None, typer.Option(min=1, help="Use the first so many sequences")] = None,
    threads: Threads = 1,
    repeats: Annotated[int, typer.Option(min=0, help="Timed extractions per variant; 0 leaves latency out")] = 30,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep results.json and cached features here")] = None,
    keypoints: Annotated[
        str | None, typer.Option(metavar="NAME", help="Describe the points of a baseline, such as sift, instead")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Draw curves and best and worst pairs; needs --out")
    ] = False,
    json: Json = False,
) -> None:
    """Evaluate files in engines on the same pairs: accuracy, drop against the first, latency, size."""
    from lf.benchmarks import report, results
    from lf.benchmarks.suite import RESULTS, suite

    with console.progress() as progress:
        runs = suite(
            [resolve(name) for name in files],
            backend.split(","),
            data,
            protocol,
            limit_sequences=limit_sequences,
            keypoints=keypoints,
            threads=threads,
            repeats=repeats,
            out=out,
            pictures=pictures,
            progress=progress,
        )
    if json:
        console.as_json(results.document(runs))
    else:
        console.result(report.page(runs))
    if out:
        console.note(f"wrote {out / RESULTS}") if json else console.result(out / RESULTS)


def compare(
    reference: Annotated[Path, typer.Argument(metavar="REF.json", help="Results to compare with")],
    new: Annotated[Path, typer.Argument(metavar="NEW.json", help="Results to judge")],
    gates: Annotated[Path, typer.Option(metavar="FILE", help="TOML file of [[gate]] tables")],
    json: Json = False,
) -> None:
    """Judge new results by gates; exit code 3 when one fails."""
    from dataclasses import asdict

    from lf.benchmarks import gate, report, results

    found = gate.compare(results.load(reference), results.load(new), gate.load_gates(gates))
    if json:
        console.as_json([{**asdict(verdict), "passed": verdict.passed} for verdict in found])
    else:
        console.result(report.verdicts(found))
    console.summary(report.verdicts(found))
    gate.enforce(found)


def accept(
    new: Annotated[Path, typer.Argument(metavar="NEW.json", help="Results to hold future ones against")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The baseline to replace")],
) -> None:
    """Make results the baseline; nothing else ever changes it."""
    from lf.benchmarks import results

    console.result(results.save(output, results.load(new)))
