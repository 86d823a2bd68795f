"""`lf compare`: judge new results by gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = (
    "lf compare REF.json results/results.json --gates gates.toml",
    "lf compare REF.json NEW.json --gates gates.toml --report gates.html",
)


def compare(
    reference: Annotated[Path, typer.Argument(readable=False, metavar="REF.json", help="Results to compare with")],
    new: Annotated[Path, typer.Argument(readable=False, metavar="NEW.json", help="Results to judge")],
    gates: Annotated[
        Path, typer.Option(readable=False, metavar="FILE", help="TOML file of gates", rich_help_panel=opt.WHAT)
    ],
    report: opt.Report = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JUnit XML to write", rich_help_panel=opt.WHERE)
    ] = None,
    json: opt.Json = False,
) -> None:
    """Judge new results by gates (exit code 3 if one fails)."""
    from dataclasses import asdict

    from lf.benchmarks.report import ci, tables, web
    from lf.benchmarks.run import gate, results

    runs = results.load(new)
    found = gate.compare(results.load(reference), runs, gate.load_gates(gates))
    if json:
        said = [{**asdict(v), "passed": v.passed, "undecided": v.bound is None} for v in found]
        console.as_json({"verdicts": said})
    else:
        console.result(tables.verdicts(found))
    console.summary(tables.verdicts(found))
    if ci.on_github():
        for line in ci.workflow_commands(found, gates):
            console.note(line)
    if report:
        console.note(f"wrote {web.write(runs, report, verdicts=found)}")
    if junit:
        console.note(f"wrote {ci.junit(found, junit)}")
    gate.enforce(found)
