"""The page of all commands, from what typer knows of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperArgument, TyperGroup

from lf import __version__, cli
from lf.core import BadInput, GateFailed, Unavailable, UsageError
from scripts.site.reference.text import GENERATED, cell, code, table


def page() -> str:
    """A section for each command: what it does, arguments, options, examples, names that it takes."""
    app = typer.main.get_command(cli.app)
    parts = ["# Commands in full", GENERATED.format(version=__version__) + " `lf COMMAND --help` prints the same."]
    parts.append(_exit_codes())
    for path, command in _commands(app):
        parts.append(f"## lf {path}\n\n{command.help}")
        parts.append(table(["argument or option", "default", "meaning"], _parameters(command)))
        for paragraph in (command.epilog or "").replace(r"\[", "[").strip().split("\n\n"):
            parts.append(_paragraph(paragraph))
    return "\n\n".join(parts) + "\n"


def _exit_codes() -> str:
    kinds = (UsageError, GateFailed, Unavailable, BadInput)
    rows = [[str(kind.exit_code), code(kind.__name__), cell((kind.__doc__ or "").splitlines()[0])] for kind in kinds]
    rows = [["0", "", "Done."], ["1", code("LfError"), "Any other error."], *rows]
    return "Exit codes, the same in every command:\n\n" + table(["code", "error in Python", "meaning"], rows)


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def _parameters(command: Any) -> Iterator[list[str]]:
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        if isinstance(parameter, TyperArgument):
            many = " ..." if parameter.nargs == -1 else ""
            yield [code(f"{parameter.metavar}{many}"), "needed" if parameter.required else "", cell(parameter.help)]
        else:
            metavar = "" if parameter.is_flag else f" {parameter.metavar}"
            yield [code(", ".join(parameter.opts) + metavar), _default(parameter), cell(parameter.help)]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    value = parameter.default
    if value is None or value is False or callable(value) or value == ():
        return ""
    return code(value)


def _paragraph(text: str) -> str:
    """Examples as a code block, a list of names as names in code."""
    head, _, rest = text.partition(":")
    if head == "Examples":
        return "```sh\n" + "\n".join(line.strip() for line in rest.strip().splitlines()) + "\n```"
    names = " ".join(rest.split())
    if "\n" in rest and rest.startswith("\n"):  # a line for each name
        lines = [line.rstrip() for line in rest.splitlines() if line.strip()]
        joined: list[str] = []
        for line in lines:
            if line.startswith("    ") and joined:
                joined[-1] += " " + line.strip()
            else:
                joined.append(line.strip())
        return f"{head}:\n\n" + "\n".join(f"- `{line.partition(':')[0]}`:{line.partition(':')[2]}" for line in joined)
    return f"{head}: " + ", ".join(code(name.strip()) for name in names.split(",") if name.strip())
