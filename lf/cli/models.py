"""`lf models`: networks and shipped weights."""

from __future__ import annotations

from lf.cli import options as opt
from lf.core import console

EXAMPLES = ("lf models", "lf models --json")


def models(json: opt.Json = False) -> None:
    """List the networks and the weights that ship."""
    from lf.models import MODELS
    from lf.models.resolve import shipped

    weights = {name: path.stat().st_size for name, path in shipped().items()}
    if json:
        rows = {n: {"about": m.about, "parameters": m.parameters, "shipped": weights.get(n)} for n, m in MODELS.items()}
        console.as_json(rows)
        return
    for name, model in MODELS.items():
        ships = f"ships, {weights[name] / 1e6:.1f} MB" if name in weights else "bring a checkpoint"
        origin = ships if model.module else "no weights"
        console.result(f"{name:17} {model.parameters:>10,} parameters  {origin:18}  {model.about}")
