"""`lf bench`: accuracy and times of files in backends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lf.cli import options as opt
from lf.core import UsageError, console

if TYPE_CHECKING:
    from lf.benchmarks.run.record import Run

EXAMPLES = (
    "lf bench wren wren.w8a8.onnx sift",
    "lf bench wren.onnx --data HPATCHES --protocol mma --out results",
    "lf bench wren.w8a8.tflite --on ssh://pi@raspberry --data procedural:20",
)

Workers = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Parallel images (do not use when timing)", rich_help_panel=opt.HOW),
]
Repeats = Annotated[
    int, typer.Option(min=0, metavar="N", help="Timed extractions of each, 0 for none", rich_help_panel=opt.HOW)
]
Nms = Annotated[
    int | None,
    typer.Option(min=1, metavar="PX", help="Suppress points within PX of a better one", rich_help_panel=opt.HOW),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Smallest score of a keypoint", show_default="of the network", rich_help_panel=opt.HOW
    ),
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder for results, and to resume from", rich_help_panel=opt.WHERE)
]
Draw = Annotated[
    bool, typer.Option("--draw", help="Draw curves, best and worst pairs into --out", rich_help_panel=opt.WHERE)
]


On = Annotated[
    str | None,
    typer.Option(metavar="ssh://HOST", help="Run on this machine, which has lf and the data", rich_help_panel=opt.HOW),
]


def bench(
    files: opt.Files,
    data: opt.Data = opt.PROCEDURAL,
    protocol: opt.Protocol = "kp2d-fixed",
    limit_sequences: opt.Sequences = None,
    backend: opt.Backends = None,
    threads: opt.Threads = 1,
    workers: Workers = 1,
    repeats: Repeats = 30,
    keypoints: opt.Keypoints = None,
    size: opt.Size = None,
    nms: Nms = None,
    refine: opt.Refine = None,
    threshold: Threshold = None,
    extraction: opt.Extraction = None,
    pyramid: opt.Pyramid = False,
    out: Out = None,
    draw: Draw = False,
    pool: opt.Pool = None,
    needs: opt.Needs = None,
    on: On = None,
    report: opt.Report = None,
    json: opt.Json = False,
) -> None:
    """Measure accuracy and its drops on the same image pairs."""
    from lf.benchmarks.report import tables, web
    from lf.benchmarks.run import results
    from lf.benchmarks.run.pool import parse_needs
    from lf.benchmarks.run.suite import RESULTS, suite
    from lf.models.resolve import resolve

    how: dict[str, Any] = {"limit_sequences": limit_sequences, "keypoints": keypoints, "nms": nms, "refine": refine}
    how |= {"threshold": threshold, "extraction": opt.extraction_of(extraction, pyramid)}
    how |= {"threads": threads, "workers": workers, "repeats": repeats}
    if on:
        _refuse_here(pool=pool, needs=needs, draw=draw)
        runs = _on(on, files, out, {"data": data, "protocol": protocol, "backend": backend, "size": size, **how})
    else:
        artifacts, backends = [resolve(name) for name in files], backend.split(",") if backend else None
        how |= {"out": out, "draw": draw, "pool": pool, "needs": parse_needs(needs or ())}
        with console.progress() as progress:
            sides = opt.parse_size(size) if size else None
            runs = suite(artifacts, backends, data, protocol, size=sides, progress=progress, **how)
    console.as_json(results.document(runs)) if json else console.result(tables.page(runs))
    if report:
        drawn = [out / RESULTS] if out and draw else []
        console.note(f"wrote {web.write(runs, report, drawn=drawn)}")
    if out:
        console.note(f"wrote {out / RESULTS}") if json else console.result(out / RESULTS)
    if json and (void := tables.repeat(runs)):
        console.note(void)


def _refuse_here(**options: object) -> None:
    """Raise UsageError for an option that cannot be combined with `--on`."""
    for name, value in options.items():
        if value:
            raise UsageError(f"--on runs on one other machine; leave out --{name}")


def _on(address: str, files: list[str], out: Path | None, options: dict[str, Any]) -> list[Run]:
    """Return the runs that another machine makes with the same options."""
    from lf.benchmarks.run import results
    from lf.benchmarks.run.remote import OUT, evaluate_on
    from lf.benchmarks.run.suite import RESULTS
    from lf.models.resolve import resolve

    words = [
        word
        for name, value in options.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    runs = evaluate_on(address, [resolve(name) for name in files], [*words, "--out", OUT])
    if out:
        results.save(out / RESULTS, runs)
    return runs
