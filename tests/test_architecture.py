"""The house itself: floors, heavy imports, tables that point at files, sizes, and no word of the machine it grew on."""

from __future__ import annotations

import ast
import importlib.util
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lf.models import MODELS
from lf.runtimes import BACKENDS
from lf.train import RECIPES

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "lf").rglob("*.py"))

# lowest first; a room sees the floors below it and itself, never its neighbours
FLOORS = (
    ("version",),
    ("core", "console", "protobuf"),
    ("cards",),
    ("files",),
    ("models", "data"),
    ("runtimes",),
    ("train", "export", "quantize", "benchmarks"),
    ("demo",),
    ("cli",),
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

RUFF = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
HEAVY = set(RUFF["flake8-tidy-imports"]["banned-module-level-imports"])
WORKSHOPS = ("models", "train", "export", "quantize")  # where files may be nothing without torch or onnx


def dotted(path):
    """`lf.core` of lf/core.py, `lf.data` of lf/data/__init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module):
    """`data` of lf.data.images; `version` of lf itself, which holds nothing else."""
    return module.split(".")[1] if "." in module else "version"


def at_module_level(tree):
    """The statements that run on import: everything but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_module_level(node)


def imported(nodes):
    """Modules that the statements name: `from lf import files` is lf.files, `from lf import __version__` is lf."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


MODULES = {dotted(path): path for path in SOURCES}


# what a device needs, and the door of every room
LIGHT = [
    module
    for module, path in MODULES.items()
    if room(module) not in WORKSHOPS or path.stem in ("__init__", "decode", "decode_kp2d", "recipe", "resolve")
]


def outside(source):
    """Ask a fresh interpreter, in which no heavy module can be imported."""
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {HEAVY!r}:\n"
        "            raise ImportError(f'{name} is not installed on this device')\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    return subprocess.run([sys.executable, "-c", block + source], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards_only(module):
    own = room(module)
    assert own in FLOOR, f"give {own} a floor"
    for name in imported(ast.walk(ast.parse(MODULES[module].read_text()))):
        if name.partition(".")[0] == "lf" and room(name) != own:
            assert FLOOR[room(name)] < FLOOR[own], f"{module} imports {name}"


@pytest.mark.parametrize("module", LIGHT)
def test_heavy_modules_wait_until_they_are_needed(module):
    found = {name.partition(".")[0] for name in imported(at_module_level(ast.parse(MODULES[module].read_text())))}
    assert not found & HEAVY


def test_light_rooms_import_without_any_heavy_module():
    done = outside(f"import importlib\nfor name in {LIGHT}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_the_command_works_without_any_heavy_module():
    done = outside("sys.argv = ['lf', 'models']\nfrom lf.cli import main\nmain()")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in MODELS)


def test_help_is_quick():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "lf.cli", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5  # s of CPU


@pytest.mark.parametrize(
    "module",
    [
        *(f"lf.models.{row.module}" for row in MODELS.values() if row.module),
        *(f"lf.runtimes.{row.module}" for row in BACKENDS.values()),
        *(f"lf.train.{row.method}" for row in RECIPES.values()),
    ],
)
def test_every_row_has_its_file(module):
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("extra", [row.extra for row in BACKENDS.values() if row.extra])
def test_every_backend_has_its_extra(extra):
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_a_file_can_be_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= 300


def test_nothing_names_the_machine_it_was_made_on():
    private = re.compile(r"/(work|home|root|Users)/\w|/tmp/\w")
    kept = [
        *ROOT.glob("*.*"),
        ROOT / "Makefile",
        *(p for room in ("lf", "tests", "docs") for p in (ROOT / room).rglob("*")),
    ]
    texts = [
        path for path in kept if path.suffix in ("", ".md", ".py", ".toml", ".txt", ".json", ".yaml") and path.is_file()
    ]
    assert not [(path.name, found[0]) for path in texts if (found := private.search(path.read_text()))]
