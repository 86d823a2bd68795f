"""`lf score`: score features that another tool extracted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import UsageError, console

EXAMPLES = (
    "lf score FEATURES --data HPATCHES --layout hloc --protocol mma",
    "lf score PAIR.npz --protocol superpoint",
)


def score(
    paths: Annotated[
        list[Path], typer.Argument(readable=False, metavar="PAIR.npz|DIR", help="Stored pairs, or a features folder")
    ],
    protocol: opt.Protocol,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="ROOT", help="With DIR: HPatches folder, warps|posed:DIR, procedural:N", rich_help_panel=opt.WHAT
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME", help="Layout of DIR, listed below", rich_help_panel=opt.WHAT)
    ] = None,
    top_k: opt.TopK = None,
    ap: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Matches of nn_map: two-way, crosscheck", rich_help_panel=opt.HOW),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Score features that another tool extracted."""
    from lf.benchmarks.report import tables
    from lf.benchmarks.run import results
    from lf.benchmarks.run import score as scoring

    rule = scoring.choose(protocol, top_k, ap)
    if data is not None:
        if len(paths) != 1 or layout is None:
            raise UsageError("--data ROOT needs one DIR of features and their --layout")
        with console.progress() as progress:
            run = scoring.score_folder(paths[0], data, layout, rule, progress)
        if run.protocol_digest != rule.digest:
            console.note(f"{paths[0]}: no scores; all keypoints are used, and k of protocol {protocol} does not")
        console.as_json(results.document([run])) if json else console.result(tables.page([run]))
        return
    if folders := [path for path in paths if path.is_dir()]:
        raise UsageError(f"{folders[0]}: a folder of features needs --data ROOT and --layout")
    found = scoring.score_files(paths, rule, layout or "pair")
    unscored = [path for path, row in found.items() if row["protocol_digest"] != rule.digest]
    if unscored and ap is None and "ap" in rule.params:
        console.note(
            f"{unscored[0]}: no scores, as in files of SIFT; all keypoints are used. "
            "For the AP of SIFT: --ap crosscheck"
        )
    if json:
        console.as_json(found if len(found) > 1 else next(iter(found.values())))
    else:
        console.result(scoring.table(found))
