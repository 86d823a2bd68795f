"""`lf time`: latency of files in backends, in turns, without a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console, files

EXAMPLES = (
    "lf time sift wren.w8a8.onnx",
    "lf time wren.onnx wren.w8a8.onnx --protocol kp2d-640 --reference wren",
)

Photo = Annotated[
    Path | None,
    typer.Option(
        readable=False, metavar="PATH", help="Image to time", show_default="a drawn one", rich_help_panel=opt.WHAT
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Reference of ratios", show_default="first file", rich_help_panel=opt.WHERE),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for latency.json", rich_help_panel=opt.WHERE)]
GitHub = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File for github-action-benchmark", rich_help_panel=opt.WHERE),
]


def time(
    models: opt.Files,
    protocol: opt.Protocol = "kp2d-fixed",
    photo: Photo = None,
    backend: opt.Backends = None,
    threads: opt.Threads = 1,
    repeats: opt.Repeats = 30,
    keypoints: opt.Keypoints = None,
    size: opt.Size = None,
    extraction: opt.Extraction = None,
    pyramid: opt.Pyramid = False,
    reference: Reference = None,
    out: Out = None,
    github_benchmark: GitHub = None,
    json: opt.Json = False,
) -> None:
    """Time files in turns, from image to features."""
    from lf.benchmarks.report import latency_table, tables
    from lf.benchmarks.run import results
    from lf.benchmarks.run.suite import LATENCY, latencies
    from lf.models.resolve import resolve

    written = [path for path in (out and out / LATENCY, github_benchmark) if path]
    for path in written:
        files.check_place(path)  # raises before minutes of work
    with console.progress() as progress:
        runs = latencies(
            [resolve(name) for name in models],
            backend.split(",") if backend else None,
            protocol,
            photo=photo,
            keypoints=keypoints,
            size=opt.parse_size(size) if size else None,
            extraction=opt.extraction_of(extraction, pyramid),
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
