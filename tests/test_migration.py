"""The migration page and the command agree."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import typer

from lf.cli import app, renamed

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "reference" / "migration.md").read_text()


@pytest.mark.parametrize(("place", "typed"), renamed.OPTIONS.items())
def test_every_renamed_option_is_on_the_page(place, typed):
    assert f"| `lf {' '.join(place)}` | `{typed}` |" in PAGE


def rows(title):
    """The two columns of the table below a heading."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return cells[2:]


COMMANDS = [(before.strip("`"), now.strip("`")) for before, now in rows("Commands and options")]


@pytest.mark.parametrize(("before", "now"), COMMANDS)
def test_everything_renamed_on_the_page_is_known_to_the_command(before, now):
    command, option = re.fullmatch(r"lf ([a-z ]+) (--[a-z-]+)", before).groups()
    assert renamed.OPTIONS[command, option] == now


def test_the_page_has_each_renaming_once():
    assert len(COMMANDS) == len({before for before, _ in COMMANDS}) == len(renamed.OPTIONS)


@pytest.mark.parametrize(("place", "typed"), renamed.OPTIONS.items())
def test_what_replaces_an_old_option_is_there_and_the_old_one_is_gone(place, typed):
    words, option = place
    assert option not in options(words.split())
    verb = re.match(r"lf ((?:data )?[a-z]+)", typed)[1]
    assert {*re.findall(r"--[a-z-]+", typed)} <= {*options(verb.split())}


def options(words):
    """The options of a command."""
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    return [option for parameter in command.params for option in parameter.opts]


def names(text):
    """The dotted names of modules that a cell of the table of imports gives."""
    return re.findall(r"`(lf\.[\w.]+)`", text)


@pytest.mark.parametrize(("before", "now"), rows("Imports"))
def test_the_page_names_modules_that_are_there(before, now):
    for name in names(now):
        module, _, thing = name.rpartition(".")
        assert importlib.util.find_spec(name) or hasattr(importlib.import_module(module), thing), name
