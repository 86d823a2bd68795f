"""The page of the results file's schema, from the types that read and write it."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from lf import __version__
from lf.benchmarks.run.record import Run
from lf.benchmarks.run.results import SCHEMA
from lf.core.records import OWN, Record
from lf.core.steps import Step
from scripts.site.reference.text import GENERATED, cell, code, table

NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", types.NoneType: "null", Any: "anything"}


def page() -> str:
    """A section for each kind of object in a results file and in a card."""
    parts = [
        "# Schema of results",
        GENERATED.format(version=__version__)
        + " [The results file](results-file.md) says what each field means. A field that is not needed may be absent.",
        f'A results file is `{{"schema": {SCHEMA}, "runs": [...]}}`: a list of [Run](#run).',
    ]
    waiting: list[type[Record]] = [Run, Step]
    done: set[str] = set()
    while waiting:
        kind = waiting.pop(0)
        if kind.__name__ in done:
            continue
        done.add(kind.__name__)
        rows, found = _rows(kind)
        waiting += found
        about = re.sub(r"\s+", " ", (kind.__doc__ or "").partition("\n\n")[0])
        parts.append(f"## {kind.__name__}\n\n{about}\n\n{table(['field', 'type', 'needed'], rows)}")
    return "\n\n".join(parts) + "\n"


def _rows(kind: type[Record]) -> tuple[list[list[str]], list[type[Record]]]:
    hints = typing.get_type_hints(kind)
    rows, found = [], []
    for each in fields(kind):
        if each.name not in OWN:
            rows.append([code(each.name), _named(hints[each.name], found), "yes" if _needed(each) else ""])
    return rows, found


def _needed(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _named(hint: Any, found: list[type[Record]]) -> str:
    """A type in words, with a link where it has a section; such types are added to `found`."""
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Record):
        found.append(hint)
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_named(each, found) for each in given)
    if origin in (list, tuple):
        return f"list of {_named(given[0], found)}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"object of {_named(given[1], found)}"
    return NAMES.get(hint) or cell(getattr(hint, "__name__", hint))
