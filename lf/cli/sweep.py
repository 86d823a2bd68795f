"""`lf sweep`: evaluate networks x schemes x data x protocols of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = (
    "lf sweep docs/results/schemes-real.toml --out sweeps/real",
    "lf sweep SWEEP.toml --out sweeps/new --dry-run",
)


def sweep(
    plan: Annotated[Path, typer.Argument(readable=False, metavar="SWEEP.toml", help="Plan, as those in docs/results")],
    out: opt.Folder,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what exists and what is to do", rich_help_panel=opt.WHERE)
    ] = False,
    pool: opt.Pool = None,
    needs: opt.Needs = None,
) -> None:
    """Evaluate networks in many schemes on all data."""
    from lf.benchmarks.run.pool import parse_needs
    from lf.studies import sweep as study

    if dry_run:
        console.result(study.outline(plan, out))
        return
    with console.progress() as progress:
        for path in study.sweep(plan, out, progress, pool, parse_needs(needs or ())):
            console.result(path)
