"""Tables of rows by name: look up a row with a hint, and add the rows of installed plug-ins."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from lf.core import console
from lf.core.errors import UsageError, one_line

T = TypeVar("T")

MOST_OFFERED = 3  # near names that an error lists; of more, it gives the first and the last

GROUPS = {  # entry-point group -> the tables of its rows, MODULE:TABLE
    "lf.models": ("lf.models:MODELS", "lf.models:NETWORKS"),
    "lf.backends": ("lf.runtimes:BACKENDS",),
    "lf.schemes": ("lf.quantize.schemes:SCHEMES",),
    "lf.datasets": ("lf.data:DATASETS",),
    "lf.protocols": ("lf.benchmarks:PROTOCOLS",),
    "lf.exports": ("lf.export:TARGETS",),
    "lf.recipes": ("lf.train:RECIPES",),
}


def pick(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`.

    Raises:
        UsageError: unknown name; the text offers the nearest names and lists all.
    """
    if name in table:
        return table[name]
    raise UsageError(f"unknown {kind} '{name}'; {hint(name, table)}known: {', '.join(table)}")


def hint(name: str, names: Iterable[str]) -> str:
    """Return `did you mean 'a' or 'b'? ` with the names nearest to `name`, or ""."""
    near = nearest(name, [*names])
    if len(near) > MOST_OFFERED:
        return f"did you mean one of '{near[0]}' ... '{near[-1]}'? "
    *most, last = [f"'{each}'" for each in near] or [""]
    return f"did you mean {', '.join(most)}{' or ' if most else ''}{last}? " if last else ""


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """Return the names that `name` may stand for, ignoring case.

    Names that begin with it are preferred to similar names: `mma` is short for `mma@1` to `mma@15`, not a misspelt
    `mma@9`. Variants are left out if their base name is there: `kp2` gives `kp2d`, not `kp2d-640`.
    """
    lower = {each.lower(): each for each in names}
    wanted = name.lower()
    if wanted in lower:
        return [lower[wanted]]
    stem, numbered, _ = wanted.partition("@")
    for start in ((f"{wanted}@", f"{wanted}-"), (wanted,) if len(name) > 1 else (), (f"{stem}@",) if numbered else ()):
        begin = [each for each in names if each.lower().startswith(start)]
        if begin:
            return [each for each in begin if not any(each.startswith((f"{root}-", f"{root}@")) for root in begin)]
    return [lower[each] for each in difflib.get_close_matches(wanted, lower, n=1)]


@cache
def _points() -> list[tuple[str, EntryPoint]]:
    found = entry_points()
    return [(group, point) for group in GROUPS for point in found.select(group=group)]


def plugins() -> list[str]:
    """List the rows of installed plug-ins, with their source and the version of their package."""
    return sorted(
        f"{group}:{point.name}={point.value} {point.dist.name} {point.dist.version}" if point.dist else str(point)
        for group, point in _points()
    )


@cache
def load_plugins() -> None:
    """Add the rows of installed packages to the tables of lf.

    The command and the Python API call this before they look anything up; a second call does nothing. A package adds a
    row with an entry point in its `pyproject.toml`; the groups are those of GROUPS:

        [project.entry-points."lf.models"]
        my-network = "my_package:ROW"

    A plug-in that cannot be loaded, takes the name of another row or gives a row of another type is left out with one
    line on stderr.
    """
    for group, point in _points():
        fault = _add(point, [_table(place) for place in GROUPS[group]])
        if fault:
            console.note(f"warning: plug-in {group}:{point.name} ({point.value}) is left out: {fault}")


def _table(place: str) -> dict[str, Any]:
    module, _, name = place.partition(":")
    table: dict[str, Any] = getattr(importlib.import_module(module), name)
    return table


def _add(point: EntryPoint, tables: list[dict[str, Any]]) -> str:
    """Add one row; return a description of an error, or ""."""
    if point.name in tables[0]:
        return f"there is a row '{point.name}' already; give it another name"
    try:
        row = point.load()
    except Exception as error:  # code of other packages may raise any error
        return f"{type(error).__name__}: {one_line(error)}"
    kind = type(next(iter(tables[0].values())))
    if not isinstance(row, kind):
        return f"it is a {type(row).__name__}; expected a {kind.__name__}"
    tables[0][point.name] = row
    if hasattr(row, "register"):
        row.register()
    if getattr(row, "module", None):  # a baseline has no network
        for table in tables[1:]:
            table[point.name] = row
    return ""
