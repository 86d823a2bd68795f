"""The structure: floors, heavy imports, tables that point at files, sizes, and no word of the machine it grew on."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tflite_files

from lf.core import packages
from lf.models import MODELS
from lf.runtimes import BACKENDS
from lf.train import RECIPES

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "lf").rglob("*.py"))

# lowest first; a room sees the floors below it and itself, never its neighbours
FLOORS = (
    ("quota",),
    ("process",),
    ("version",),
    ("core",),
    ("formats",),
    ("models", "data"),
    ("runtimes",),
    ("extraction",),
    ("train", "export", "edgetpu", "quantize", "benchmarks"),
    ("studies",),
    ("api",),
    ("cli",),
    ("__main__",),
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
    """The statements that run on import: everything but the bodies of functions, and what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        typing = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not (typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield node
            yield from at_module_level(node)


def imported(nodes):
    """Modules that the statements name: `from lf import files` is lf.core.files, `from lf import __version__` is lf."""
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
    if room(module) not in WORKSHOPS
    or path.stem in ("__init__", "decode", "decode_onnx", "recipe", "resolve", "row", "features")
]


def block(modules):
    """Source that makes modules impossible to import."""
    return (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {modules!r}:\n"
        "            raise ModuleNotFoundError(f'{name} is not installed on this device', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )


def outside(source):
    """Ask a fresh interpreter, in which no heavy module can be imported."""
    return subprocess.run([sys.executable, "-c", block(HEAVY) + source], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "lf"])  # which names the API lazily
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


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """Run a command with the extra `edge` alone: in it and in what it starts, LiteRT is the only heavy module."""
    folder = tmp_path_factory.mktemp("device")
    (folder / "sitecustomize.py").write_text(block(HEAVY - {"ai_edge_litert", "flatbuffers"}))
    model = tflite_files.heads("wren", (240, 320))[0]
    tflite_files.save(folder / "wren.tflite", model, "wren", (240, 320))

    def run(*arguments):
        env = {**os.environ, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-m", "lf.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, env=env)

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bench", "wren.tflite", "--backend", "tflite", "--data", "procedural:2", "--repeats", "2"), "| wren  | w8a8"),
        (("extract", "wren.tflite", "pictures", "--out", "features"), "features"),
        (("live", "pictures", "--model", "wren.tflite", "--out", "seen.avi"), "seen.avi"),
        (("inspect", "wren.tflite"), "scheme           w8a8"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_device_needs_nothing_but_litert(device, drawn_photos, arguments, said):
    done = device(*(str(drawn_photos) if argument == "pictures" else argument for argument in arguments))
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "not installed on this device" not in done.stderr


def test_a_device_says_what_the_rest_needs(device):
    done = device("export", "wren", "--to", "onnx")
    assert (done.returncode, "Traceback" in done.stderr) == (4, False)
    assert re.fullmatch(r"lf: the package \w+ is not installed; lf doctor says what to type\n", done.stderr)


@pytest.mark.alone
def test_help_is_quick():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "lf.cli", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5  # s of CPU


@pytest.mark.parametrize(
    "module",
    [
        *(row.module for row in MODELS.values() if row.module),
        *(row.module for row in BACKENDS.values()),
        *(f"lf.train.methods.{row.method}" for row in RECIPES.values()),
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


LONGEST = 40  # lines of code of a function, without its signature and its docstring


def functions(tree):
    """(name, lines of code) of every function of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            code = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, code[-1].end_lineno - code[0].lineno + 1 if code else 0


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_a_function_can_be_read_at_a_glance(path):
    long = {name: count for name, count in functions(ast.parse(path.read_text())) if count > LONGEST}
    assert not long, f"lines of code: split them, expected at most {LONGEST}"


def test_lines_of_code_are_those_of_the_body():
    source = 'def f(\n    a,\n):\n    """What it does.\n\n    More.\n    """\n    b = a\n    return b\n\n\n'
    assert [*functions(ast.parse(f'{source}def g():\n    """Nothing."""\n'))] == [("f", 2), ("g", 0)]


def kinds_compared(tree):
    """Comparisons of the very class of an error, which miss its subclasses."""
    caught = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)} | {"error", "exception"}
    for node in ast.walk(tree):
        for part in (node.left, *node.comparators) if isinstance(node, ast.Compare) else ():
            of = part.args[0] if isinstance(part, ast.Call) and ast.unparse(part.func) == "type" and part.args else None
            of = part.value if isinstance(part, ast.Attribute) and part.attr == "__class__" else of
            if isinstance(of, ast.Name) and of.id in caught:
                yield ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_errors_are_told_apart_by_their_types(path):
    found = [*kinds_compared(ast.parse(path.read_text()))]
    assert not found, "catch the type, or add one to lf/core/errors.py"


@pytest.mark.parametrize("text", ["type(e) is A", "A != type(error)", "type(e) not in (A, B)", "e.__class__ is A"])
def test_comparisons_of_the_class_of_an_error_are_found(text):
    source = f"try:\n    f()\nexcept A as e:\n    assert {text}\n"
    assert [*kinds_compared(ast.parse(source))] == [text]
    assert not [*kinds_compared(ast.parse("try:\n    f()\nexcept A as e:\n    assert isinstance(e, A)\n"))]


def test_nothing_names_the_machine_it_was_made_on():
    private = re.compile(r"/(work|home|root|Users)/\w|/tmp/\w")
    kept = [
        *ROOT.glob("*.*"),
        ROOT / "Makefile",
        *(p for room in ("lf", "tests", "docs") for p in (ROOT / room).rglob("*")),
    ]
    texts = [
        path
        for path in kept
        if path.suffix in ("", ".md", ".py", ".toml", ".txt", ".json", ".yaml")
        and path.is_file()
        and path.name != ".git"
    ]
    assert not [(path.name, found[0]) for path in texts if (found := private.search(path.read_text()))]


def texts(tree):
    """The string constants of a file that are no docstrings."""
    holders = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
    ]


COMMANDS = {"lf.studies.model_card"}  # writes the command of a training into a document
GIT = {"--short=12", "--porcelain"}  # options of another command, as those of pip


@pytest.mark.parametrize("module", sorted(name for name in {*MODULES} - COMMANDS if room(name) != "cli"))
def test_only_the_command_speaks_of_its_options(module):
    found = [text for text in texts(ast.parse(MODULES[module].read_text())) if re.search(r"(^|[\s(;'\"])--[a-z]", text)]
    assert not {text for text in found if "pip install" not in text} - GIT, (
        "name the parameter in backticks: see lf.cli.translate"
    )


def test_the_package_is_installed_under_one_name():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"] == packages.DISTRIBUTION
    texts = [*SOURCES, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    other = re.compile(r'pip install [^\n"]*"lf\[')
    assert not {path.name: found for path in texts if (found := other.findall(path.read_text()))}
