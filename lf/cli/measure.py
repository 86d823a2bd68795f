"""The commands that measure and judge: bench, compare, baseline accept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lf.benchmarks import PROTOCOLS
from lf.cli.options import PROCEDURAL, Data, Json, Threads, parse_size
from lf.core import UsageError, console
from lf.models.resolve import resolve
from lf.runtimes import BACKENDS


def bench(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Model files or names of shipped weights")],
    backend: Annotated[
        str, typer.Option(help=f"Engines, with commas; each runs what it can: {', '.join(BACKENDS)}")
    ] = "ort-cpu",
    data: Data = PROCEDURAL,
    protocol: Annotated[str, typer.Option(help=f"How the numbers are made: {', '.join(PROTOCOLS)}")] = "kp2d",
    limit_sequences: Annotated[int | None, typer.Option(min=1, help="Use the first so many sequences")] = None,
    threads: Threads = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="Pictures at a time, an engine for each: the same numbers sooner; not for times")
    ] = 1,
    repeats: Annotated[int, typer.Option(min=0, help="Timed extractions per variant; 0 leaves latency out")] = 30,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep results.json and cached features here")] = None,
    keypoints: Annotated[
        str | None, typer.Option(metavar="NAME", help="Describe the points of a baseline, such as sift, instead")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Resize what the protocol gives for the network, its points back")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Draw curves and best and worst pairs; needs --out")
    ] = False,
    latency: Annotated[
        bool, typer.Option("--latency", help="Only time, without data: one picture of the protocol's size")
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            readable=False, metavar="PATH", help="With --latency: a photo, or a folder whose first one is timed"
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --latency: the file that ratios are to; else the first")
    ] = None,
    github_benchmark: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --latency: write customSmallerIsBetter of github-action-benchmark"),
    ] = None,
    json: Json = False,
) -> None:
    """Evaluate files in engines on the same pairs: accuracy, drop against the first, latency, size."""
    from lf.benchmarks.report import tables
    from lf.benchmarks.run import results
    from lf.benchmarks.run.suite import RESULTS, suite

    wanted = parse_size(size) if size else None
    if latency:
        if data != PROCEDURAL or limit_sequences or pictures or workers > 1:
            raise UsageError(
                "--latency needs no data: leave out --data, --limit-sequences, --workers and --pictures; "
                "--images PATH times a photo instead of a drawn picture"
            )
        asked = {"images": images, "keypoints": keypoints, "size": wanted, "reference": reference}
        _latency(files, backend, protocol, threads, repeats, out, github_benchmark, json, **asked)
        return
    if images or reference or github_benchmark:
        raise UsageError("--images, --reference and --github-benchmark belong to --latency; add it or leave them out")
    with console.progress() as progress:
        runs = suite(
            [resolve(name) for name in files],
            backend.split(","),
            data,
            protocol,
            limit_sequences=limit_sequences,
            keypoints=keypoints,
            size=wanted,
            threads=threads,
            workers=workers,
            repeats=repeats,
            out=out,
            pictures=pictures,
            progress=progress,
        )
    if json:
        console.as_json(results.document(runs))
    else:
        console.result(tables.page(runs))
    if out:
        console.note(f"wrote {out / RESULTS}") if json else console.result(out / RESULTS)


def _latency(
    files: list[str],
    backend: str,
    protocol: str,
    threads: int,
    repeats: int,
    out: Path | None,
    github_benchmark: Path | None,
    json: bool,
    **asked: Any,
) -> None:
    from lf.benchmarks.report import latency_table
    from lf.benchmarks.run import results
    from lf.benchmarks.run.suite import LATENCY, latencies
    from lf.core.files import check_place, write_json

    for path in filter(None, (out and out / LATENCY, github_benchmark)):
        check_place(path)  # said before minutes of work
    artifacts, backends = [resolve(name) for name in files], backend.split(",")
    with console.progress() as progress:
        runs = latencies(
            artifacts, backends, protocol, threads=threads, repeats=repeats, out=out, progress=progress, **asked
        )
    if json:
        console.as_json(results.document(runs))
    else:
        console.result(latency_table.page(runs))
    written = [out / LATENCY] if out else []
    if github_benchmark:
        written.append(write_json(github_benchmark, latency_table.github(runs)))
    for path in written:
        console.note(f"wrote {path}") if json else console.result(path)
    if json and (void := latency_table.repeat(runs)):
        console.note(void)


def compare(
    reference: Annotated[Path, typer.Argument(readable=False, metavar="REF.json", help="Results to compare with")],
    new: Annotated[Path, typer.Argument(readable=False, metavar="NEW.json", help="Results to judge")],
    gates: Annotated[Path, typer.Option(readable=False, metavar="FILE", help="TOML file of [[gate]] tables")],
    json: Json = False,
) -> None:
    """Judge new results by gates; exit code 3 when one fails."""
    from dataclasses import asdict

    from lf.benchmarks.report import tables
    from lf.benchmarks.run import gate, results

    found = gate.compare(results.load(reference), results.load(new), gate.load_gates(gates))
    if json:
        console.as_json({"verdicts": [{**asdict(verdict), "passed": verdict.passed} for verdict in found]})
    else:
        console.result(tables.verdicts(found))
    console.summary(tables.verdicts(found))
    gate.enforce(found)


def accept(
    new: Annotated[
        Path, typer.Argument(readable=False, metavar="NEW.json", help="Results to hold future ones against")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The baseline to replace")],
) -> None:
    """Make results the baseline; nothing else ever changes it."""
    from lf.benchmarks.run import results

    console.result(results.save(output, results.load(new)))
