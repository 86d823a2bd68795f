"""Help texts: examples, lists of names, and no Python types."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from typer import core

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.sfm.matches import MATCHERS
from lf.cli.options import WHERE
from lf.data.layouts import LAYOUTS
from lf.models import NETWORKS
from lf.quantize import CALIBRATIONS
from lf.quantize.schemes import SCHEMES
from lf.runtimes import BACKENDS
from lf.train import RECIPES

LAST = {WHERE: 1, "Help": 2}  # panels below the others
WIDTH = 78  # of a terminal of 80 columns, less typer's margins

LISTS: dict[str, tuple[str, Mapping[str, Any]]] = {  # parameter of a command -> the names that it takes
    "recipe": ("Recipes", RECIPES),
    "family": ("Networks", NETWORKS),
    "scheme": ("Schemes", SCHEMES),
    "protocol": ("Protocols", PROTOCOLS),
    "backend": ("Backends", BACKENDS),
    "calibration": ("Calibrations", CALIBRATIONS),
    "layout": ("Layouts", LAYOUTS),
    "matcher": ("Matchers", MATCHERS),
}


def epilog(module: Any, command: Callable[..., None]) -> str:
    """Return the end of a command's help: its EXAMPLES, and the names that its parameters take.

    A file that sets DESCRIBED to names of parameters has their lists printed with a line for each name.
    """
    parts = ["\n".join(["\nExamples:", *(f"  {example}" for example in module.EXAMPLES)])]
    for name in inspect.signature(command).parameters:
        if name in LISTS:
            title, table = LISTS[name]
            parts.append(_described(title, table) if name in getattr(module, "DESCRIBED", ()) else _named(title, table))
    return "\n\n".join(parts).replace("[", r"\[")  # no markup of rich


def _named(title: str, table: Mapping[str, Any]) -> str:
    return textwrap.fill(f"{title}: {', '.join(table)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _described(title: str, table: Mapping[str, Any]) -> str:
    def line(name: str, row: Any) -> str:
        return textwrap.fill(
            f"{name}: {getattr(row, 'about', row)}",
            WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )

    return "\n".join([f"{title}:", *(line(name, row) for name, row in table.items())])


class _Plain:
    """Help without Python types, and with `--help` last if all other options have panels."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        options = [param for param in params if isinstance(param, core.TyperOption)]
        for param in params:
            if isinstance(param, core.TyperArgument):
                setattr(param, "display_type_rich", lambda ctx: None)  # noqa: B010  its metavar says enough
        for option in options:
            if option.is_flag and option.metavar is None:
                option.metavar = ""
        if options and all(option.rich_help_panel or option.hidden for option in options[:-1]):
            options[-1].rich_help_panel = "Help"  # typer adds it at the end
        return sorted(params, key=lambda param: LAST.get(getattr(param, "rich_help_panel", None) or "", 0))


class Command(_Plain, core.TyperCommand):
    """A command of lf."""


class Group(_Plain, core.TyperGroup):
    """A command with subcommands."""
