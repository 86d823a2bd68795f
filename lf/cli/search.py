"""`lf search`: find the fewest bits within an accuracy budget."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import (
    PROCEDURAL,
    WHAT,
    WHERE,
    Bits,
    Calibration,
    Data,
    Exclude,
    File,
    Images,
    KeepFloat,
    Limit,
    Out,
    Protocols,
    Rounding,
    Scheme,
    Seed,
    parse_bits,
)
from lf.cli.quantize import say
from lf.core import console
from lf.studies.budget_search import EVALUATIONS

EXAMPLES = 'lf search wren.onnx --max-drop "mma@3=0.01" --scheme w4a8 --images PHOTOS --data warps:OTHERS'


def search(
    model: File,
    max_drop: Annotated[
        str, typer.Option(metavar="METRIC=MOST,...", help="Budget, for example mma@3=0.01", rich_help_panel=WHAT)
    ],
    images: Images = None,
    scheme: Scheme = "w4a8",
    data: Data = PROCEDURAL,
    protocol: Protocols = None,
    limit_sequences: Annotated[
        int | None, typer.Option(min=2, help="Use only the first N sequences", rich_help_panel=WHAT)
    ] = None,
    max_evaluations: Annotated[int, typer.Option(min=1, help="Most files to evaluate")] = EVALUATIONS,
    calibration: Calibration = None,
    limit: Limit = None,
    seed: Seed = 0,
    exclude: Exclude = None,
    keep_float: KeepFloat = None,
    bits: Bits = None,
    rounding: Rounding = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to resume from; else OUTPUT.search", rich_help_panel=WHERE),
    ] = None,
    output: Out = None,
) -> None:
    """Find the fewest bits that keep an accuracy budget."""
    from lf.models.resolve import resolve
    from lf.studies.budget_search import Where, check_search, within
    from lf.studies.float_onnx import float_onnx_of

    artifact, place = resolve(model), output.parent if output else Path()
    asked = dict.fromkeys(keep_float or (), 32) | dict(map(parse_bits, bits or ()))
    where = Where(data, protocol, limit_sequences, max_evaluations, out)
    options = {"calibration": calibration, "limit": limit, "seed": seed, "exclude": exclude, "rounding": rounding}
    check = partial(check_search, max_drop, where, artifact, scheme, images, output, asked, options)
    with float_onnx_of(artifact, place, check) as parent:
        with console.progress() as progress:
            made = within(max_drop, where, parent, scheme, images, output, asked, options, progress)
        say(parent, made, images)
