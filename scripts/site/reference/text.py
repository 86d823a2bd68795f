"""Markdown helpers of the generated pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GENERATED = "This page is generated from the code of lf {version}."


def cell(value: object) -> str:
    """A value as text of a table cell."""
    return str(value).replace("\n", " ").replace("|", "\\|").replace("<", "&lt;")


def code(value: object) -> str:
    """A value as code in a table cell; nothing for an empty one."""
    return f"`{str(value).replace('|', chr(0x2223))}`" if str(value) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
