"""`lf baseline accept`: make results the reference of the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = (
    "lf baseline accept out/gate/results.json -o tests/baselines/default.json",
    "lf baseline accept results/results.json -o reference.json",
)


def accept(
    new: Annotated[Path, typer.Argument(readable=False, metavar="NEW.json", help="Results to accept")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="Baseline file to replace", rich_help_panel=opt.WHERE),
    ],
) -> None:
    """Make results the baseline of the gate."""
    from lf.benchmarks.run import results

    console.result(results.save(output, results.load(new)))
