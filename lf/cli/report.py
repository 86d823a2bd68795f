"""`lf report`: write an HTML page of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import UsageError, console

EXAMPLES = (
    "lf report results/results.json",
    "lf report NEW.json --reference REF.json --gates gates.toml -o report.html",
)

Results = Annotated[
    list[Path],
    typer.Argument(readable=False, metavar="RESULTS", help="Results files, or folders that hold one, of any machines"),
]
Reference = Annotated[
    Path | None,
    typer.Option(readable=False, metavar="REF.json", help="Results to judge against", rich_help_panel=opt.WHAT),
]
Gates = Annotated[
    Path | None, typer.Option(readable=False, metavar="FILE", help="TOML file of gates", rich_help_panel=opt.WHAT)
]
Pictures = Annotated[
    bool,
    typer.Option("--pictures", help="Show best and worst pairs (lf bench --draw)", rich_help_panel=opt.WHAT),
]


def report(
    results: Results,
    reference: Reference = None,
    gates: Gates = None,
    pictures: Pictures = False,
    output: opt.Out = None,
) -> None:
    """Write one HTML page with a verdict, tables and charts."""
    from lf.benchmarks.report import web
    from lf.benchmarks.run import gate
    from lf.benchmarks.run import results as stored

    if (reference is None) != (gates is None):
        raise UsageError("`reference` and `gates` belong together; give both or none")
    located = web.located(results)
    runs = web.read(located)
    verdicts = gate.compare(stored.load(reference), runs, gate.load_gates(gates)) if reference and gates else ()
    out = output or Path(web.PAGE)
    console.result(web.write(runs, out, verdicts=verdicts, drawn=located if pictures else ()))
