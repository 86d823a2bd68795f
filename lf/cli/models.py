"""`lf models`: list networks with cost, licence and engines."""

from __future__ import annotations

from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import UsageError, console, pick

EXAMPLES = ("lf models", "lf models edgepoint2-e64", "lf models --json", "lf models --card wren")


def models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Network to show in full")] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Model card of shipped weights, as Markdown", rich_help_panel=opt.WHERE)
    ] = False,
    json: opt.Json = False,
) -> None:
    """List networks: cost, licences, where weights are, engines."""
    from lf.models import MODELS
    from lf.studies import model_card, models_page

    if card and name is None:
        raise UsageError("name the network of the model card, for example lf models --card wren")
    if name is not None:
        pick(MODELS, name, "network")
    if card and name is not None:
        console.result(model_card.page(name))
        return
    rows = MODELS if name is None else {name: MODELS[name]}
    if json:
        console.as_json({each: models_page.facts(each, row) for each, row in rows.items()})
    else:
        console.result(models_page.table(rows) if name is None else models_page.page(name, rows[name]))
