"""The help of every command: two examples that parse, short lines, nothing cut off at 80 columns."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperArgument, TyperGroup

from lf import cli

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 80
APP = typer.main.get_command(cli.app)


def commands(group, path=()):
    """Every command and group, by what is typed for it."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))


ALL = dict(commands(APP))
VERBS = {path: command for path, command in ALL.items() if not isinstance(command, TyperGroup)}
PARAMETERS = [
    (f"{' '.join(path)} {parameter.opts[-1]}", parameter)
    for path, command in VERBS.items()
    for parameter in command.params
    if not getattr(parameter, "hidden", False)
]
MODULES = [module for modules in cli.PANELS.values() for module in modules]
MODULES += [cli.baseline_accept, cli.data_draw, cli.data_get, cli.data_list, cli.data_masks, cli.data_show]

every = pytest.mark.parametrize("path", ALL, ids=" ".join)
verb = pytest.mark.parametrize("path", VERBS, ids=" ".join)


def examples(path):
    """The examples in the help of a command, as they stand there."""
    text = VERBS[path].epilog.partition("\n\n")[0].replace(r"\[", "[")
    head, *lines = text.strip().splitlines()
    assert head == "Examples:"
    return [line.strip() for line in lines]


def said(done):
    """Stdout of a command that did what it should."""
    code, text, error = done
    assert (code, error) == (0, "")
    return text


def parse(line):
    """Parse a command line as `lf` would, without running it; what it would run."""
    program, *words = shlex.split(line)
    assert program == "lf", line
    command, path = APP, []
    while isinstance(command, TyperGroup):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    command.make_context(path[-1], words)  # raises where an option is unknown or an argument is missing
    return tuple(path)


@verb
def test_a_command_has_two_examples_that_parse(path):
    lines = examples(path)
    assert len({*lines}) >= 2
    for line in lines:
        assert parse(line) == path
        assert len(line) + 3 <= WIDTH, "the terminal would break the line where it is copied"


def test_every_command_stands_in_a_file_with_its_examples():
    assert len(MODULES) == len(VERBS)


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=[name for name, _ in PARAMETERS])
def test_a_help_text_is_a_short_noun_phrase_or_imperative(name, parameter):
    text = parameter.help
    assert text, name
    assert len(text) < 60
    assert not re.search(r"[;.]$|;", text)
    assert "[" not in text  # markup of rich: it would vanish
    assert text[0].isupper()
    assert not re.match(r"(The|A|An|It|This|If|Where|When|Whether|How|To|Of)\b", text)


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=[name for name, _ in PARAMETERS])
def test_a_parameter_says_what_it_takes_and_has_a_panel(name, parameter):
    if isinstance(parameter, TyperArgument):
        assert parameter.metavar
    else:
        assert parameter.is_flag or parameter.metavar, name
        assert parameter.rich_help_panel, name


@every
def test_help_fits_a_terminal(lf, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    text = said(lf(*path, "--help"))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    assert not re.search(r"<(bool|str|int|path|list)", text)  # no types of Python
    assert said(lf(*path, "-h")) == text


@pytest.mark.parametrize("path", [(), *(path for path, command in ALL.items() if isinstance(command, TyperGroup))])
def test_a_summary_is_whole_at_80_columns(lf, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    text = said(lf(*path, "--help"))
    for name, command in (ALL[path] if path else APP).commands.items():
        summary = command.help.partition("\n\n")[0]
        assert re.search(rf"^│ {re.escape(name)} +{re.escape(summary)} +│$", text, re.MULTILINE), name
        assert ";" not in summary


@verb
def test_names_that_an_option_takes_are_listed(lf, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    words = " ".join(said(lf(*path, "--help")).split())
    for option in VERBS[path].params:
        if "listed below" in (option.help or ""):
            title, table = cli.help.LISTS[option.name]
            assert f" {title}: " in words
            assert all(name in words.partition(f" {title}: ")[2] for name in table)


def fenced(page):
    """The command lines of a page of documents: lines of its code blocks that begin with `lf`."""
    inside = False
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside and (found := re.match(r"(?:torchrun .*-m lf\.cli|lf) ", line)):
            yield "lf " + line[found.end() :]


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TYPED = [(page.name, line) for page in PAGES for line in fenced(page)]


@pytest.mark.parametrize(("page", "line"), TYPED)
def test_command_lines_in_the_documents_parse(page, line):
    bare = re.sub(r"\[([^\[\]:]*)\]", r"\1", line.partition(" #")[0])  # what is optional is typed
    parse(bare.replace("...", ""))


def test_a_wrong_size_names_its_own_option(lf):
    code, _, error = lf("label", "wren", "--photos", "x", "--out", "y", "--area", "240")
    assert code == 2
    assert error == "lf: --area 240: expected HEIGHTxWIDTH in pixels, for example --area 240x320\n"
