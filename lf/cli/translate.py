"""Translate parameter names in error texts to options of the command line.

Code outside this folder names parameters, in backticks, because it is also called from Python:

    `size`                            -> --size
    `scheme=w8a16`                    -> --scheme w8a16
    `export(CHECKPOINT, to=onnx)`     -> lf export CHECKPOINT --to onnx
    `init=CHECKPOINT`                 -> --set init=CHECKPOINT, where `init` is a setting of a recipe, not an option
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MARKED = re.compile(r"`([a-z_][\w.]*)(?:=([^`]*)|\(([^`]*)\))?`")
COMMANDS = {"accept": "baseline accept"}  # functions whose command has another name


def translate(text: str, app: Any) -> str:
    """Return `text` with parameters replaced by options; other text in backticks does not change.

    Args:
        text: text of an error or a remark.
        app: the click command with these options, with all its subcommands.
    """
    flags = dict(_flags(app))

    def spell(found: re.Match[str]) -> str:
        name, value, arguments = found.groups()
        if arguments is not None:
            verb = COMMANDS.get(name, name.replace(".", " ").replace("_", "-"))
            return " ".join(["lf", verb, *(_argument(each, flags) for each in filter(None, arguments.split(", ")))])
        if value is not None:
            return _option(name, value, flags)
        return flags.get(name, found[0])

    return MARKED.sub(spell, text)


def _argument(given: str, flags: dict[str, str]) -> str:
    name, equals, value = given.partition("=")
    return _option(name, value, flags) if equals and name.isidentifier() else given


def _option(name: str, value: str, flags: dict[str, str]) -> str:
    if name not in flags:
        return f"--set {name}={value}"
    return flags[name] if value == "True" else f"{flags[name]} {value}"


def _flags(command: Any) -> Iterator[tuple[str, str]]:
    """Yield (parameter, option) for every option of a command and of its subcommands."""
    for parameter in command.params:
        if parameter.param_type_name == "option":
            yield parameter.name, next((opt for opt in parameter.opts if opt.startswith("-o")), parameter.opts[-1])
    for inner in getattr(command, "commands", {}).values():
        yield from _flags(inner)
