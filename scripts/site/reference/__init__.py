"""Reference pages that are generated from the code."""

from __future__ import annotations

from scripts.site.reference import cards, commands, python, results, tables


def pages() -> dict[str, str]:
    """File name -> Markdown."""
    return {
        "model-cards.md": cards.page(),
        "cli.md": commands.page(),
        "python.md": python.page(),
        "tables.md": tables.page(),
        "results-schema.md": results.page(),
    }
