"""The code blocks of the README, the tutorial, the how-to pages and others run unchanged, on drawn images.

Lines of `sh` blocks are commands of lf; `exit code N` in their comment is what they must end with. `python` blocks of a
page share their names. A block with a title is a file. `<!-- not run: REASON -->` before a block leaves it out, and
NOT_RUN counts these; `<!-- before: COMMAND -->` is run and not shown.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lf.data.drawn import folders

ROOT = Path(__file__).resolve().parents[1]
SIZE = (240, 320)  # px of PHOTOS and OTHERS
NOT_RUN = {  # page -> how many of its blocks are left out
    "README.md": 2,
    "docs/tutorial.md": 1,
    "docs/ci.md": 0,
    "docs/concepts/cards.md": 0,
    "docs/costs.md": 1,
    "docs/families.md": 1,
    "docs/how-to/coral.md": 3,
    "docs/how-to/export.md": 0,
    "docs/how-to/extract.md": 3,
    "docs/how-to/gpu.md": 1,
    "docs/how-to/labelled-images.md": 1,
    "docs/how-to/own-network.md": 1,
    "docs/how-to/quantize.md": 3,
    "docs/how-to/raspberry-pi.md": 2,
    "docs/how-to/reproduce.md": 2,
    "docs/how-to/score.md": 0,
    "docs/how-to/ship.md": 1,
    "docs/how-to/speed.md": 1,
    "docs/pools.md": 2,
    "docs/posed.md": 1,
    "docs/results/README.md": 1,
    "docs/segmentation.md": 3,
    "docs/sfm.md": 2,
    "docs/training.md": 5,
    "docs/weights.md": 4,
}
QUICK = ("docs/tutorial.md",)
FENCE = re.compile(r"((?:^<!-- [^\n]* -->\n)*)^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    """A fenced block: its language, title and text, the comments before it, and its line."""

    language: str
    title: str
    text: str
    notes: list[tuple[str, str]]
    line: int

    @property
    def left_out(self):
        return any(kind == "not run" for kind, _ in self.notes)


def blocks(page):
    text = page.read_text()
    for found in FENCE.finditer(text):
        notes = re.findall(r"<!-- (not run|before): (.+) -->", found[1])
        yield Block(found[2], found[3] or "", found[4], notes, text.count("\n", 0, found.start(2)) + 1)


def commands(text):
    """(words, exit code) of each line."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            code = re.search(r"#.*exit code (\d)", line)
            yield words, int(code[1]) if code else 0


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with drawn images under the names that the pages use."""
    folders.write_pictures(tmp_path / "OTHERS", 16, SIZE)
    (tmp_path / "PHOTOS").mkdir()
    for picture in sorted((tmp_path / "OTHERS").iterdir())[:4]:  # no image is in both
        picture.rename(tmp_path / "PHOTOS" / picture.name)
    folders.write_pairs(tmp_path / "HPATCHES", 2, SIZE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(lf, words, wanted, where):
    assert words[0] == "lf", f"{where}: only commands of lf are run: {shlex.join(words)}"
    code, _, error = lf(*words[1:])
    assert code == wanted, f"{where}: {shlex.join(words)} ended with {code}: {error}"


def run_page(lf, page):
    names = {"__name__": "__main__"}
    for block in blocks(ROOT / page):
        where = f"{page}:{block.line}"
        for kind, text in block.notes:
            if kind == "before":
                run(lf, shlex.split(text), 0, where)
        if block.left_out or block.language not in ("sh", "python", "toml"):
            continue
        if block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "sh":
            for words, wanted in commands(block.text):
                run(lf, words, wanted, where)
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)


@pytest.mark.parametrize("page", QUICK)
def test_the_tutorial_runs(lf, workspace, page):
    run_page(lf, page)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter that most projects still use
@pytest.mark.parametrize("page", sorted(NOT_RUN.keys() - {*QUICK}))
def test_a_page_runs(lf, workspace, page):
    run_page(lf, page)


def test_every_page_is_listed_and_its_blocks_say_what_they_are():
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "how-to").glob("*.md")}
    assert pages <= NOT_RUN.keys()
    for page, count in NOT_RUN.items():
        found = [*blocks(ROOT / page)]
        assert (ROOT / page).read_text().count("\n```") == 2 * len(found), f"{page}: a fence is not closed"
        assert all(block.language for block in found), f"{page}: name the language of every block, such as ```sh"
        for block in found:
            if block.language == "yaml":
                assert yaml.safe_load(block.text)
        assert sum(block.left_out for block in found) == count, f"{page}: blocks marked as not run"
