"""The Markdown of the site: the pages of docs/, CONTRIBUTING and CHANGELOG, and a reference made from the code."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from scripts.site import reference

ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
INTERVAL = re.compile(r"(\[[+-]?[\d.]+,) ([+-]?[\d.]+\])")  # [0.14, 0.15]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def write(root: Path, out: Path) -> None:
    """Write all pages to an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(root / "docs", out, ignore=shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints"))
    for name, page in ROOT_PAGES.items():
        (out / page).write_text(_moved((root / name).read_text()))
    for page in out.rglob("*.md"):
        page.write_text(_inside(page, out, root))
    for name, text in reference.pages().items():
        (out / "reference" / name).write_text(text)
    shutil.copytree(Path(__file__).parent / "assets", out / "assets", dirs_exist_ok=True)


def _moved(text: str) -> str:
    """The text of a page of the root as a page beside those of docs/."""
    return re.sub(r"\]\(docs/", "](", text)


def _inside(page: Path, out: Path, root: Path) -> str:
    """The text of a page, with the names of files that are no part of the site instead of links to them."""

    def link(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        path = target.partition("#")[0]
        if picture or not path or re.match(r"[a-z]+:", target):
            return match[0]
        found = (page.parent / path).resolve()
        if found.is_relative_to(out):
            if found.suffix in (".toml", ".ipynb"):
                return f"`docs/{found.relative_to(out)}`"
            return match[0]
        there = (root / "docs" / page.parent.relative_to(out) / path).resolve()
        for name, moved in ROOT_PAGES.items():
            if there == root / name:
                up = "../" * len(page.parent.relative_to(out).parts)
                return f"[{label}]({up}{moved})"
        return f"`{there.relative_to(root)}`"

    return _outside_code(page.read_text(), link)


def _outside_code(text: str, link: Callable[[re.Match[str]], str]) -> str:
    """Apply a replacement of links to all lines that are no code; keep intervals in cells of tables on one line."""
    lines, code = [], False
    for line in text.split("\n"):
        code ^= line.lstrip().startswith("```")
        if line.startswith("|"):
            line = INTERVAL.sub("\\1\u00a0\\2", line)
        lines.append(line if code else LINK.sub(link, line))
    return "\n".join(lines)
