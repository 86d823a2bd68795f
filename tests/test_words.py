"""The wording of the documents and of the texts in the code: forbidden words, inversions, long sentences.

codespell checks the spelling. The rules are those of CONTRIBUTING.md, "Documents".
"""

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

# prose that people wrote: not the changelog, not the pages of results that `lf sweep` writes
PROSE = [p for p in PAGES if p.name != "CHANGELOG.md" and (p.parent.name != "results" or p.stem == "README")]
LONGEST = 35  # words of a sentence
RIDDLES = re.compile(
    r"^(?:Of|Nor|Seldom|Nowhere)\b|\b(?:the one that|those that|what of it|as it stands|as it comes|was said of|as ever"
    r"|at hand|and its kin|anybody's|by nature)\b"
)


def texts(path):
    """(line, text) of the comments, docstrings and other strings of a file."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield token.start[0], token.string


def sentences(markdown):
    """The sentences of paragraphs and lists, with `code` for inline code; no tables, headings or fenced blocks."""
    text = re.sub(r"^```.*?^```\s*$|<!--.*?-->", "\n\n", markdown, flags=re.MULTILINE | re.DOTALL)
    for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)|\n(?=[|#])", text):
        if part.strip() and part.strip()[0] not in "|#!":
            part = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", part.strip())  # the text of a link
            part = re.sub(r"\[[^\]]*\]", "", re.sub(r"`[^`]*`", "code", part))  # intervals
            part = " ".join(re.sub(r"^(?:[-*]|\d+\.)\s+", "", part).split())
            yield from re.split(r"(?<=[.!?:;])\s+(?=[A-Z*(]|lf\b|code)", part)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_use_plain_words(page):
    found = [f"{number}: {line}" for number, line in enumerate(page.read_text().splitlines(), 1) if WORDS.search(line)]
    assert not found, "see the glossary for the term that is meant"


@pytest.mark.parametrize("page", PROSE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_sentences_are_short_and_direct(page):
    every = [*sentences(page.read_text())]
    long = [sentence for sentence in every if len(re.findall(r"[A-Za-z][\w'-]*", sentence)) > LONGEST]
    assert not long, f"more than {LONGEST} words; write two sentences, a list or a table"
    assert not [sentence for sentence in every if RIDDLES.search(sentence)], (
        "begin with the subject; name what you mean"
    )


def test_sentences_are_found():
    text = (
        "# Title\n\nOne `x. Y` [here](a.md).\nGoes on: Two\n\n- Of [0, 1] three\n\n| no | no |\n\n```sh\nNo. No.\n```\n"
    )
    assert [*sentences(text)] == ["One code here.", "Goes on:", "Two", "Of three"]
    assert RIDDLES.search("Of three")


def test_the_code_uses_plain_words():
    found = []
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        for line, text in texts(path):
            words = {word.lower().removesuffix("s") for word in WORDS.findall(text)} - {MEANT.get(name)}
            if words:
                found.append(f"{name}:{line}: {', '.join(sorted(words))}")
    assert not found
