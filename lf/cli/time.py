"""`lf time`: latency of files in engines, in turns, without a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import HOW, WHERE, Backends, Files, Json, Keypoints, Protocol, Size, Threads, parse_size
from lf.core import console, files

EXAMPLES = "lf time sift wren.w8a8.onnx\n\nlf time wren.onnx wren.w8a8.onnx --protocol kp2d-640 --reference wren"


def time(
    models: Files,
    backend: Backends = None,
    protocol: Protocol = "kp2d-fixed",
    photo: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="PATH", help="Image to time, else a drawn one", rich_help_panel=HOW),
    ] = None,
    threads: Threads = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed extractions of each, in turns", rich_help_panel=HOW)] = 30,
    keypoints: Keypoints = None,
    size: Size = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Reference of ratios; by default the first file", rich_help_panel=HOW),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for latency.json", rich_help_panel=WHERE)
    ] = None,
    github_benchmark: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a file for github-action-benchmark", rich_help_panel=WHERE),
    ] = None,
    json: Json = False,
) -> None:
    """Time files in turns, from image to features."""
    from lf.benchmarks.report import latency_table, tables
    from lf.benchmarks.run import results
    from lf.benchmarks.run.suite import LATENCY, latencies
    from lf.models.resolve import resolve

    written = [path for path in (out and out / LATENCY, github_benchmark) if path]
    for path in written:
        files.check_place(path)  # fails before minutes of work
    with console.progress() as progress:
        runs = latencies(
            [resolve(name) for name in models],
            backend.split(",") if backend else None,
            protocol,
            photo=photo,
            keypoints=keypoints,
            size=parse_size(size) if size else None,
            threads=threads,
            repeats=repeats,
            reference=reference,
            out=out,
            progress=progress,
        )
    console.as_json(results.document(runs)) if json else console.result(latency_table.page(runs))
    if github_benchmark:
        files.write_json(github_benchmark, latency_table.github(runs))
    for path in written:
        console.note(f"wrote {path}") if json else console.result(path)
    if json and (void := tables.repeat(runs)):
        console.note(void)
