"""The page of the model cards of shipped weights."""

from __future__ import annotations

from lf import __version__
from lf.models.resolve import shipped
from lf.studies import model_card
from scripts.site.reference.text import GENERATED


def page() -> str:
    """The card of each network that ships, its headings one level lower."""
    parts = [
        "# Model cards",
        GENERATED.format(version=__version__)
        + " `lf models --card NAME` prints each card with the front matter of the hub. "
        "[Shipped weights](../weights.md) has the figures.",
    ]
    for name, path in shipped().items():
        if path.suffix == ".safetensors":
            text = model_card.page(name).partition("---\n\n")[2]
            parts.append(text.replace("\n## ", "\n### ").replace("# ", "## ", 1))
    return "\n\n".join(parts) + "\n"
