"""The page of the Python API, from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from typing import Any

import lf
from scripts.site.reference.text import GENERATED

WIDTH = 96  # characters of a line of code that the page shows without scrolling
SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Example", "Yields")


def page() -> str:
    """A section for each public name."""
    parts = [
        "# Python API",
        GENERATED.format(version=lf.__version__),
        "`import lf` loads no engine; an engine is imported when it is first needed. These names are public, "
        "all others may change.",
    ]
    for name in lf.PUBLIC:
        value = getattr(lf, name)
        parts += _class(name, value) if inspect.isclass(value) else [_function(f"lf.{name}", value, "##")]
    return "\n\n".join(parts) + "\n"


def _class(name: str, value: Any) -> list[str]:
    parts = [f"## lf.{name}", docstring(value.__doc__ or "")]
    if issubclass(value, Exception):
        return [*parts, f"Exit code {value.exit_code}." if hasattr(value, "exit_code") else ""]
    for member, found in vars(value).items():
        if member.startswith("_") or not getattr(found, "__doc__", None):
            continue
        if isinstance(found, property):
            parts.append(f"### {name}.{member}\n\n" + docstring(found.__doc__ or ""))
        elif isinstance(found, classmethod | staticmethod):
            parts.append(_function(f"{name}.{member}", found.__func__, "###"))
        elif inspect.isfunction(found):
            parts.append(_function(f"{name}.{member}", found, "###"))
    return parts


def _function(name: str, value: Any, level: str) -> str:
    signature = re.sub(r"<function \S+ at 0x\w+>", "...", str(inspect.signature(value)))
    signature = re.sub(r"\b(?:lf|pathlib|collections|typing)\.(?:\w+\.)*(\w+)", r"\1", signature)
    signature = re.sub(r"(= )?'([^']*)'", lambda found: found[0] if found[1] else found[2], signature)  # annotations
    signature = re.sub(r"\((?:self|cls)(?:, )?", "(", signature, count=1).replace("'", '"')
    short = name.rpartition(".")[2]
    if len(short + signature) > WIDTH:
        signature = _lines(signature)
    return f"{level} {name}\n\n```python\n{short}{signature}\n```\n\n" + docstring(value.__doc__ or "")


def _lines(signature: str) -> str:
    """A signature with a line for each parameter."""
    inside, _, after = signature.removeprefix("(").rpartition(")")
    parts, depth = [""], 0
    for sign in inside:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return "(\n" + "".join(f"    {part.strip()},\n" for part in parts) + ")" + after


def docstring(text: str) -> str:
    """A docstring with sections of the Google style, as Markdown."""
    parts: list[str] = []
    section = ""
    for line in inspect.cleandoc(text).splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            parts += _closed(section)
            section = line[:-1]
            parts += ["", f"**{section}**", ""]
            if section == "Example":
                parts.append("```python")
        else:
            parts.append(_line(line, section))
    return "\n".join([*parts, *_closed(section)])


def _closed(section: str) -> list[str]:
    return ["```"] if section == "Example" else []


def _line(line: str, section: str) -> str:
    if section == "Example":
        return line.removeprefix("    ")
    if section in ("Args", "Raises", "Attributes") and (named := re.match(r"    (\w+): (.*)", line)):
        return f"- `{named[1]}`: {named[2]}"
    return line.strip() if section else line
