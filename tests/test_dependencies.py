"""docs/dependencies.md names every dependency of the default install, with what for, licence, size and last release."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def tables():
    """The rows of both tables by package: the cells after it."""
    found, rows = [], {}
    for line in [*(ROOT / "docs" / "dependencies.md").read_text().splitlines(), ""]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] not in ("package", "---"):
            rows[cells[0]] = cells[1:]
        elif rows and not line.startswith("|"):
            found.append(rows)
            rows = {}
    return found


def wanted():
    """Return the requirements of pyproject.toml and their requirements."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = {canonicalize_name(Requirement(text).name) for text in table["project"]["dependencies"]}
    seen, todo = set(), [*direct]
    while todo:
        name = todo.pop()
        for text in metadata.requires(name) or []:
            asked = Requirement(text)
            inner = canonicalize_name(asked.name)
            if (asked.marker is None or asked.marker.evaluate({"extra": ""})) and inner not in seen | direct:
                seen.add(inner)
                todo.append(inner)
    return direct, seen


def test_every_dependency_has_its_row():
    direct, brought = tables()
    assert (set(direct), set(brought)) == wanted()


def test_every_row_is_complete():
    for rows in tables():
        for name, (about, licence, size, released) in rows.items():
            assert len(about) > 2, name
            assert licence in ("MIT", "ISC", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "PSF-2.0"), name
            assert 0 < float(size) < 200, name
            assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", released), name


def test_who_brings_a_package_is_true():
    for name, (by, *_) in tables()[1].items():
        assert name in {canonicalize_name(Requirement(text).name) for text in metadata.requires(by) or []}, name
