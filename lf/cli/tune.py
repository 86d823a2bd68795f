"""`lf tune`: find the fastest way to run a network within a budget."""

from __future__ import annotations

from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console
from lf.studies.tune import BACKENDS_TRIED, BUDGET

EXAMPLES = (
    "lf tune wren.onnx --images PHOTOS --data warps:OTHERS --out DIR",
    "lf tune wren --images PHOTOS --threads 1,2 --size 240x320 --out DIR",
)

Backends = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Backends to try",
        show_default=", ".join(BACKENDS_TRIED),
        rich_help_panel=opt.HOW,
    ),
]
Schemes = Annotated[str, typer.Option(metavar="NAME,...", help="Schemes to try beside fp32", rich_help_panel=opt.HOW)]
Threads = Annotated[str, typer.Option(metavar="N,...", help="Numbers of threads to try", rich_help_panel=opt.HOW)]
Sizes = Annotated[
    str | None,
    typer.Option(metavar="HxW,...", help="Input sizes beside the protocol's", rich_help_panel=opt.HOW),
]
Cut = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Also try this end of the graph: features", rich_help_panel=opt.HOW),
]
Budget = Annotated[
    str,
    typer.Option(
        metavar="METRIC=MOST,...",
        help="Budget of drops from fp32",
        show_default=BUDGET.replace(",", ", "),
        rich_help_panel=opt.WHAT,
    ),
]


def tune(
    model: opt.File,
    out: opt.Folder,
    data: opt.Data = opt.PROCEDURAL,
    protocol: opt.Protocol = "kp2d-fixed",
    max_drop: Budget = BUDGET,
    backend: Backends = None,
    scheme: Schemes = "w8a8",
    threads: Threads = "1",
    size: Sizes = None,
    cut: Cut = None,
    repeats: opt.Repeats = 30,
    images: opt.Images = None,
    json: opt.Json = False,
) -> None:
    """Find the fastest way to run a network within a budget."""
    from lf.studies.tune import tune as run

    with console.progress() as progress:
        found = run(
            model, out, images, data, backend, scheme, threads, size, cut, max_drop, protocol, repeats, progress
        )
    console.as_json(found.document()) if json else console.result(found.page())
    found.enforce()
    if not json:
        console.result(found.answer())
