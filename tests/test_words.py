"""Words that users and contributors should not have to read, in the documents and the texts of the code."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORDS = re.compile(r"\b(?:houses?|rooms?|told|loud(?:ly)?|mend(?:s|ed|ing)?)\b", re.IGNORECASE)
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted((ROOT / "lf").rglob("*.py"))
MEANT = {"lf/data/drawn/scenes.py": "house", "lf/data/masks/coco_categories.py": "house"}  # houses of pictures


def texts(path):
    """(line, text) of the comments, docstrings and other strings of a file."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield token.start[0], token.string


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_use_plain_words(page):
    found = [f"{number}: {line}" for number, line in enumerate(page.read_text().splitlines(), 1) if WORDS.search(line)]
    assert not found, "see the glossary for the term that is meant"


def test_the_code_uses_plain_words():
    found = []
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        for line, text in texts(path):
            words = {word.lower().removesuffix("s") for word in WORDS.findall(text)} - {MEANT.get(name)}
            if words:
                found.append(f"{name}:{line}: {', '.join(sorted(words))}")
    assert not found
