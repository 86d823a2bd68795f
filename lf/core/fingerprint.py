"""Fingerprint of the code that computes a result; results of other code are computed again or refused.

It covers the modules of lf that a module imports, directly or not, also inside functions and by the rows of a table.
Comments, docstrings and layout do not count. Plug-ins count by their version.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lf import __version__
from lf.core import registry

FOLDER = Path(__file__).parents[2]  # folder of the package
DOCUMENTED = {ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef}
NOTICED = DOCUMENTED | {ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Constant}


class Source(NamedTuple):
    """A module: the digest of its syntax tree, and the modules of lf that it imports."""

    digest: str
    imports: frozenset[str]


def versions(*modules: str) -> dict[str, str]:
    """Return the versions that a result depends on: lf, its code, and the packages of every result.

    Args:
        modules: dotted names of the computing modules; KeyError for a module outside lf.
    """
    import cv2
    import numpy as np

    return {
        "lf": __version__,
        "code of lf": fingerprint(*modules),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


@cache
def fingerprint(*modules: str) -> str:
    """Return the digest of the source of `modules`, of all that they import within lf, and of installed plug-ins.

    Returns:
        Hex digits; "no source, lf VERSION" if lf is installed without source files.
    """
    try:
        with _no_garbage_collection():
            found = closure(*modules)
    except OSError:
        return f"no source, lf {__version__}"
    lines = [f"{name} {found[name].digest}" for name in sorted(found)]
    return hashlib.sha256("\n".join([*lines, *registry.plugins()]).encode()).hexdigest()[:16]


def closure(*modules: str) -> dict[str, Source]:
    """Return the sources of `modules` and of all that they import within lf, by name.

    Raises:
        OSError: there are no source files.
        KeyError: no such module.
    """
    found: dict[str, Source] = {}
    waiting = [*modules]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _read(name)
            waiting += found[name].imports
    return found


@cache
def _files() -> dict[str, Path]:
    """Return the source files of the modules of lf by name; for a package its `__init__.py`."""
    found = {}
    for folder, _, names in os.walk(FOLDER / "lf"):
        place = Path(folder)
        package = ".".join(place.relative_to(FOLDER).parts)
        for path in (place / name for name in names if name.endswith(".py")):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


def _module(name: str) -> str | None:
    """Return the module with that name or that defines it; None for lf itself and for names outside lf."""
    while name.startswith("lf."):
        if name in _files():
            return name
        name = name.rpartition(".")[0]
    return None


@cache
def _read(module: str) -> Source:
    if not _files():
        raise OSError("lf has no source files here")
    reader = _Reader(module)
    reader.take(ast.parse(_files()[module].read_bytes()))
    digest = hashlib.sha256("\n".join(reader.text).encode()).hexdigest()
    return Source(digest, frozenset(reader.imports))


class _Reader:
    """Reads a syntax tree.

    Attributes:
        module: its name.
        text: its content, without positions and empty fields, which differ between versions of Python.
        imports: modules of lf.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self.text: list[str] = []
        self.imports: set[str] = set()

    def take(self, value: Any) -> None:
        """Add a node, or a list or value in a node, with everything below it."""
        text, kind = self.text, value.__class__
        if kind is list:
            text.append(f"[{len(value)}")
            for each in value:
                self.take(each)
        elif isinstance(value, ast.AST):
            text.append(kind.__name__)
            if kind in NOTICED:
                self._notice(value)
            for name in value._fields:
                inner = getattr(value, name, None)
                if inner is not None and inner != []:
                    text.append(name)
                    self.take(inner)
            text.append(";")
        else:
            text.append(ascii(value))

    def _notice(self, node: Any) -> None:
        """Find the modules that a node imports or names, and remove a docstring."""
        if isinstance(node, ast.Import):
            self._add(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            self._add(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.JoinedStr):
            self._formatted(node)
        elif isinstance(node, ast.Constant):
            self._named(node.value)
        elif ast.get_docstring(node, clean=False) is not None:
            del node.body[0]

    def _formatted(self, node: ast.JoinedStr) -> None:
        """Read f-strings: f"{__name__}.network" is a name, f"lf.train.methods.{row.method}" any module of a package."""
        text = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                text += str(part.value)
            elif isinstance(part, ast.FormattedValue) and ast.unparse(part.value) == "__name__":
                text += self.module
            else:
                package = text if text.startswith("lf.") and text.endswith(".") else "nothing"
                self._add(name for name in _files() if name.rpartition(".")[0] + "." == package)
                return
        self._named(text)

    def _named(self, value: Any) -> None:
        """Read a string that may name a module, as MODULE or MODULE:FUNCTION: in a row, or in python -m MODULE.

        Names of packages, which are also groups of plug-ins, and of tables for plug-ins do not count.
        """
        if isinstance(value, str) and value.startswith("lf."):
            name, _, thing = value.partition(":")
            if name in _files() and _files()[name].stem != "__init__" and not thing.isupper():
                self.imports.add(name)

    def _add(self, names: Iterable[str]) -> None:
        self.imports.update(module for name in names if (module := _module(name)))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: syntax trees have many objects without cycles, and it would double the time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
