"""`lf search`: find the fewest bits within an accuracy budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.cli.quantize import say
from lf.core import Artifact, console
from lf.studies.budget_search import EVALUATIONS

EXAMPLES = (
    'lf search wren.onnx --max-drop "mma@3=0.01" --images PHOTOS',
    'lf search wren.onnx --max-drop "repeatability=0.005" --data warps:OTHERS',
)

Budget = Annotated[
    str, typer.Option(metavar="METRIC=MOST,...", help="Budget, such as mma@3=0.01", rich_help_panel=opt.WHAT)
]
Sequences = Annotated[
    int | None,
    typer.Option(min=2, metavar="N", help="Use only the first N sequences", rich_help_panel=opt.WHAT),
]
Evaluations = Annotated[int, typer.Option(min=1, metavar="N", help="Most files to evaluate", rich_help_panel=opt.WHAT)]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder to resume from", show_default="OUTPUT.search", rich_help_panel=opt.WHERE),
]


def search(
    model: opt.File,
    max_drop: Budget,
    data: opt.Data = opt.PROCEDURAL,
    protocol: opt.Protocols = None,
    limit_sequences: Sequences = None,
    max_evaluations: Evaluations = EVALUATIONS,
    scheme: opt.Scheme = "w4a8",
    keep_float: opt.KeepFloat = None,
    bits: opt.Bits = None,
    rounding: opt.Rounding = None,
    images: opt.Images = None,
    calibration: opt.Calibration = None,
    limit: opt.Limit = None,
    seed: opt.Seed = 0,
    exclude: opt.Exclude = None,
    out: Out = None,
    output: opt.Out = None,
) -> None:
    """Find the fewest bits within an accuracy budget."""
    from lf.studies.budget_search import Where, check_search, within
    from lf.studies.float_onnx import float_onnx_of

    asked = opt.layer_bits(keep_float, bits)
    where = Where(data, protocol, limit_sequences, max_evaluations, out)
    options = {"calibration": calibration, "limit": limit, "seed": seed, "exclude": exclude, "rounding": rounding}

    def check(checkpoint: Artifact) -> None:
        check_search(max_drop, where, checkpoint, scheme, images, output, asked, options)

    with float_onnx_of(model, output.parent if output else Path(), check) as parent:
        with console.progress() as progress:
            made = within(max_drop, where, parent, scheme, images, output, asked, options, progress)
        say(parent, made, images)
