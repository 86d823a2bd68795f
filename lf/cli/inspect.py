"""`lf inspect`: print the card of a model file."""

from __future__ import annotations

from lf.cli import options as opt
from lf.core import console

EXAMPLES = ("lf inspect wren.w8a8.onnx", "lf inspect superpoint.pth --json")


def inspect(file: opt.File, json: opt.Json = False) -> None:
    """Print what a model file is and how it was made."""
    from lf.models.resolve import resolve
    from lf.studies import card_page

    artifact = resolve(file)
    if json:
        card = {"file": str(artifact.path), "bytes": artifact.bytes, "sha256": artifact.sha256}
        console.as_json({**card, **artifact.card.to_dict()})
    else:
        console.result(card_page.page(artifact))
