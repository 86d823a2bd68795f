"""Look up rows of tables by name; unknown names get a hint."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from lf.core.errors import UsageError

T = TypeVar("T")


def pick(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`.

    Raises:
        UsageError: unknown name; the text offers the nearest name and lists all.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UsageError(f"unknown {kind} '{name}'; {hint}known: {', '.join(table)}")
