"""`lf tune`: the fastest way to run a network here within a budget."""

from __future__ import annotations

from typing import Annotated

import typer

from lf.cli.options import HOW, PROCEDURAL, WHAT, Data, File, Folder, Images, Json, Protocol
from lf.core import console
from lf.studies.tune import BUDGET, ENGINES

EXAMPLES = "lf tune wren.onnx --images PHOTOS --data warps:OTHERS --out DIR"


def tune(
    model: File,
    out: Folder,
    images: Images = None,
    data: Data = PROCEDURAL,
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help=f"Engines; by default {', '.join(ENGINES)}", rich_help_panel=HOW),
    ] = None,
    scheme: Annotated[str, typer.Option(metavar="NAME,...", help="Schemes beside fp32", rich_help_panel=HOW)] = "w8a8",
    threads: Annotated[str, typer.Option(metavar="N,...", help="Numbers of threads", rich_help_panel=HOW)] = "1",
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW,...", help="Input sizes beside the protocol's", rich_help_panel=HOW),
    ] = None,
    cut: Annotated[
        str | None, typer.Option(metavar="NAME", help="Also try this end of the graph: features", rich_help_panel=HOW)
    ] = None,
    max_drop: Annotated[
        str, typer.Option(metavar="METRIC=MOST,...", help="Budget of drops from fp32", rich_help_panel=WHAT)
    ] = BUDGET,
    protocol: Protocol = "kp2d-fixed",
    repeats: Annotated[int, typer.Option(min=1, help="Timed extractions of each, in turns", rich_help_panel=HOW)] = 30,
    json: Json = False,
) -> None:
    """Find the fastest way to run a network in a budget."""
    from lf.studies.tune import tune as run

    with console.progress() as progress:
        found = run(
            model, out, images, data, backend, scheme, threads, size, cut, max_drop, protocol, repeats, progress
        )
    console.as_json(found.document()) if json else console.result(found.page())
    found.enforce()
    if not json:
        console.result(found.answer())
