"""Check that a built site needs nothing from elsewhere, and that the menu lists every page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# what a browser loads by itself; links that a reader clicks may lead elsewhere
LOADED = re.compile(r'<(?:script|img|iframe|source|video)[^>]*\ssrc="([^"]+)"|<link[^>]*\shref="([^"]+)"[^>]*>')
ELSEWHERE = re.compile(r"(?:https?:)?//")
NOT_LOADED = re.compile(r'rel="(?:canonical|prev|next|alternate|edit)"')
LOADED_BY_STYLE = re.compile(r"url\(\s*[\"']?(?:https?:)?//|@import")


def problems(site: Path) -> list[str]:
    """A line for each thing that a page would load from elsewhere, and for each page that the menu leaves out."""
    return [*_elsewhere(site), *_unlisted(site)]


def _elsewhere(site: Path) -> Iterator[str]:
    for page in sorted(site.rglob("*.html")):
        for match in LOADED.finditer(page.read_text()):
            address = match[1] or match[2]
            if ELSEWHERE.match(address) and not NOT_LOADED.search(match[0]):
                yield f"{page}: loads {address}; the site must work offline"
    for sheet in sorted(site.rglob("*.css")):
        if LOADED_BY_STYLE.search(sheet.read_text()):
            yield f"{sheet}: loads from elsewhere; the site must work offline"


def _unlisted(site: Path) -> Iterator[str]:
    entries = re.findall(r"<a [^>]*md-nav__link[^>]*>", (site / "index.html").read_text())
    menu = {found[1].removeprefix("./") for entry in entries if (found := re.search(r'href="([^"#]+)"', entry))}
    for page in sorted(site.rglob("*.html")):
        name = page.relative_to(site).as_posix()
        if name not in {*menu, "index.html", "404.html"} and not name.startswith("results/"):  # its index lists them
            yield f"{name}: in no menu; add it to nav in mkdocs.yml"
