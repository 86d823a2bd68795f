"""`lf bench`: accuracy of files in engines, with times beside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import (
    HOW,
    PROCEDURAL,
    WHERE,
    Backends,
    Data,
    Files,
    Json,
    Keypoints,
    Protocol,
    Refine,
    Sequences,
    Size,
    Threads,
    parse_size,
)
from lf.core import console

EXAMPLES = "lf bench wren wren.w8a8.onnx sift\n\nlf bench wren.onnx --data HPATCHES --protocol mma --out results"


def bench(
    files: Files,
    backend: Backends = None,
    data: Data = PROCEDURAL,
    protocol: Protocol = "kp2d-fixed",
    limit_sequences: Sequences = None,
    threads: Threads = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="Parallel images; do not use when timing", rich_help_panel=HOW)
    ] = 1,
    repeats: Annotated[
        int, typer.Option(min=0, help="Timed extractions of each; 0 for none", rich_help_panel=HOW)
    ] = 30,
    keypoints: Keypoints = None,
    size: Size = None,
    nms: Annotated[
        int | None,
        typer.Option(min=1, metavar="PX", help="Let the best point suppress others within PX", rich_help_panel=HOW),
    ] = None,
    refine: Refine = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for results.json and features; it resumes", rich_help_panel=WHERE),
    ] = None,
    draw: Annotated[
        bool, typer.Option("--draw", help="Draw curves, best and worst pairs into --out", rich_help_panel=WHERE)
    ] = False,
    json: Json = False,
) -> None:
    """Measure accuracy on the same pairs, and the drops."""
    from lf.benchmarks.report import tables
    from lf.benchmarks.run import results
    from lf.benchmarks.run.suite import RESULTS, suite
    from lf.models.resolve import resolve

    with console.progress() as progress:
        runs = suite(
            [resolve(name) for name in files],
            backend.split(",") if backend else None,
            data,
            protocol,
            limit_sequences=limit_sequences,
            keypoints=keypoints,
            size=parse_size(size) if size else None,
            nms=nms,
            refine=refine,
            threads=threads,
            workers=workers,
            repeats=repeats,
            out=out,
            draw=draw,
            progress=progress,
        )
    console.as_json(results.document(runs)) if json else console.result(tables.page(runs))
    if out:
        console.note(f"wrote {out / RESULTS}") if json else console.result(out / RESULTS)
    if json and (void := tables.repeat(runs)):
        console.note(void)
