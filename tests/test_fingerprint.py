"""The fingerprint of the code: what changes it, what does not, and that whatever keeps results goes by it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from lf import __version__
from lf.core import fingerprint, registry
from lf.export import TARGETS
from lf.models import MODELS
from lf.quantize import WRITERS
from lf.runtimes import BACKENDS
from lf.train import RECIPES

ROOT = Path(fingerprint.__file__).parents[2]
ROOTS = {  # what keeps results -> the module that computes them
    "features": "lf.benchmarks.run.predict",
    "runs": "lf.benchmarks.run.evaluate",
    "extracted": "lf.extraction.store",
    "quantized": "lf.quantize",
    "exported": "lf.export",
    "studied": "lf.quantize.search.sensitivity",
    "searched": "lf.quantize.search.budget",
    "judged": "lf.studies.accuracy_drop",
    "labelled": "lf.train.label_photos",
    "trained": "lf.train.loop",
    "reconstructed": "lf.benchmarks.sfm.stages",
}

HOUSE = {
    "__init__.py": '"""lf."""\n__version__ = "0"\nPUBLIC = {"load": "lf.api"}\n',
    "api.py": "ANSWER = 1\n",
    "result.py": (
        '"""Of all."""\nfrom lf import __version__\nfrom lf.steps import first\n\n\ndef run():\n    return first()\n'
    ),
    "steps/__init__.py": "from lf.steps.one import first as first\n",
    "steps/one.py": (
        '"""One."""\nimport lf.family\n\n\nclass Step:\n    """A step."""\n\n\ndef first():\n'
        '    """Return the first."""\n    from lf.deep import value, other\n\n    return value, {1: other}  # px\n'
    ),
    "deep.py": "import lf.table\n\nvalue = 1.0\nother = (2,\n    3)\n",
    "table.py": (
        'from importlib import import_module\n\nROWS = {"a": "lf.rows.a", "b": "lf.rows.b:make"}\n'
        'JOB = ["-m", "lf.worker"]\n\n\ndef method(row):\n    return import_module(f"lf.methods.{row.method}")\n'
    ),
    "rows/__init__.py": "",
    "rows/a.py": "A = 1\n",
    "rows/b.py": "B = 1\n",
    "rows/c.py": "C = 1\n",
    "methods/__init__.py": "",
    "methods/m.py": "M = 1\n",
    "family/__init__.py": 'MODULE = f"{__name__}.network"\n',
    "family/network.py": "N = 1\n",
    "worker.py": 'W = f"{ROWS}" f""\n',
    "unrelated.py": "import lf.result\n\nU = 1\n",
}
REACHED = {
    *("result", "steps", "steps.one", "deep", "table", "rows.a", "rows.b", "methods.m"),
    *("family", "family.network", "worker"),
}


def forget():
    for function in (fingerprint.fingerprint, fingerprint._read, fingerprint._files, registry._points):
        function.cache_clear()


@pytest.fixture
def house(tmp_path, monkeypatch):
    """(file -> text that replaces it) -> the fingerprint of `lf.result` in a small package."""
    monkeypatch.setattr(fingerprint, "FOLDER", tmp_path)

    def build(changed=None):
        for name, text in {**HOUSE, **(changed or {})}.items():
            (tmp_path / "lf" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "lf" / name).write_text(text)
        forget()
        return fingerprint.fingerprint("lf.result")

    yield build
    forget()


def test_a_module_has_all_that_it_imports_and_nothing_else(house):
    house()
    assert fingerprint.closure("lf.result").keys() == {f"lf.{name}" for name in REACHED}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("result.py", "return first()", "return first() + 1"),
        ("result.py", "def run", "def ran"),
        ("steps/one.py", "return value, {1: other}", "return value, {True: other}"),
        ("steps/one.py", "    return value, {1: other}", "    return other, {1: value}"),
        ("steps/__init__.py", "first as first", "first"),
        ("deep.py", "value = 1.0", "value = 1"),  # below an import inside a function
        ("deep.py", "value = 1.0", "value: float = 1.0"),
        ("table.py", '"a"', '"z"'),
        ("rows/a.py", "1", "2"),  # a row of a table
        ("rows/b.py", "1", "2"),  # a row that names a function
        ("methods/m.py", "1", "2"),  # a row of a table elsewhere
        ("family/network.py", "1", "2"),  # a row that says where it is
        ("worker.py", "W", "V"),  # another process
    ],
)
def test_code_that_is_reached_counts(house, name, old, new):
    before = house()
    assert old in HOUSE[name]
    assert house({name: HOUSE[name].replace(old, new)}) != before
    assert house() == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("steps/one.py", "# px", "# pixels"),
        ("steps/one.py", '"""One."""', '"""Another\nword."""'),
        ("steps/one.py", '"""One."""', ""),
        ("steps/one.py", '    """Return the first."""\n', ""),
        ("steps/one.py", '"""A step."""', '"""A step."""\n    # no more'),
        ("result.py", "def run():\n", 'def run():\n    """Run."""\n'),
        ("deep.py", "(2,\n    3)", "((2), 3,)"),
        ("deep.py", "value = 1.0", "value   =   1.00  "),
        ("table.py", '"a"', "'a'"),
        ("rows/c.py", "1", "2"),
        ("unrelated.py", "1", "2"),
        ("api.py", "1", "2"),  # lf itself names all of its parts
        ("__init__.py", "0", "9"),
        ("new.py", "", "import lf.result\n"),
    ],
)
def test_words_layout_and_other_code_do_not_count(house, name, old, new):
    before = house()
    text = HOUSE.get(name, "")
    assert old in text
    assert house({name: text.replace(old, new) if old else new}) == before


def test_a_module_by_another_name_counts(house):
    before = house()
    moved = {name: HOUSE[name].replace("lf.deep", "lf.deeper") for name in ("steps/one.py",)}
    assert house({**moved, "deeper.py": HOUSE["deep.py"]}) != before


def test_a_plug_in_counts_by_its_version(house, monkeypatch):
    before = house()
    monkeypatch.setattr(registry, "plugins", lambda: ["lf.models:net=a_package:ROW a-package 1.0"])
    one = house()
    monkeypatch.setattr(registry, "plugins", lambda: ["lf.models:net=a_package:ROW a-package 1.1"])
    assert len({before, one, house()}) == 3


def test_a_name_that_is_no_module_is_an_error_of_ours(house):
    house()
    for name in ("lf.nothing", "__main__", "json"):
        with pytest.raises(KeyError, match=name):
            fingerprint.fingerprint(name)


def test_without_source_it_is_the_version_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "FOLDER", tmp_path)
    forget()
    assert fingerprint.fingerprint("lf.result") == f"no source, lf {__version__}"
    forget()


def test_from_a_zip_file_it_is_the_version_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "lf.zip", "w") as archive:
        for path in [*ROOT.glob("lf/*.py"), *ROOT.glob("lf/core/*.py")]:
            archive.write(path, path.relative_to(ROOT))
    source = f"import sys; sys.path.insert(0, {str(tmp_path / 'lf.zip')!r}); "
    source += "from lf.core import fingerprint as f; print(f.__file__); print(f.fingerprint('lf.core.types'))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=tmp_path)
    where, found = done.stdout.splitlines()
    assert ("lf.zip" in where, found) == (True, f"no source, lf {__version__}"), done.stderr


def test_versions_name_what_every_result_goes_through():
    found = fingerprint.versions("lf.core.types")
    assert found.keys() == {"lf", "code of lf", "numpy", "opencv"}
    assert (found["lf"], len(found["code of lf"])) == (__version__, 16)


# --- in lf itself


@pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS)
def test_reading_pixels_is_in_whatever_is_kept(root):
    found = fingerprint.closure(root)
    assert {"lf.data.images", "lf.data.headers"} <= found.keys()


@pytest.mark.parametrize(
    ("root", "modules"),
    [
        ("lf.benchmarks.run.predict", {row.module for row in BACKENDS.values()}),
        ("lf.benchmarks.run.predict", {row.module for row in MODELS.values()}),
        ("lf.extraction.store", {row.module for row in (*BACKENDS.values(), *MODELS.values())}),
        ("lf.benchmarks.run.predict", {"lf.benchmarks.protocols.geometry", "lf.data.drawn.procedural"}),
        ("lf.benchmarks.run.evaluate", {"lf.benchmarks.protocols.metrics", "lf.benchmarks.run.predict"}),
        ("lf.export", {row.module for row in TARGETS.values()}),
        ("lf.export", {row.decode_onnx and row.decode_onnx.partition(":")[0] for row in MODELS.values()}),
        ("lf.quantize", {row.module for row in WRITERS.values()} | {"lf.formats.onnx_to_tflite"}),
        ("lf.quantize.search.budget", {"lf.quantize.search.sensitivity", "lf.quantize.search.bits"}),
        ("lf.studies.accuracy_drop", {"lf.benchmarks.run.evaluate", "lf.benchmarks.run.record"}),
        ("lf.train.loop", {f"lf.train.methods.{row.method}" for row in RECIPES.values()}),
    ],
)
def test_the_rows_of_the_tables_are_reached(root, modules):
    assert modules - {None} <= fingerprint.closure(root).keys()


def test_what_does_not_compute_is_not_reached():
    found = fingerprint.closure("lf.benchmarks.run.predict")
    for name in ("lf.cli", "lf.api", "lf.train", "lf.quantize", "lf.studies", "lf.benchmarks.report"):
        assert not [module for module in found if module.startswith(name)]


def test_every_module_that_is_loaded_to_compute_is_in_the_closure(tiny):
    """Against Python itself: a run, by the modules that it left behind."""
    source = (
        "import json, sys\n"
        "from lf.benchmarks.run.evaluate import bench\n"
        "from lf.benchmarks import PROTOCOLS\nfrom lf.data import open_dataset\n"
        "from lf.extraction.variant import Variant\nfrom lf.formats import model_file\nfrom pathlib import Path\n"
        f"artifact = model_file.load(Path({str(tiny().path)!r}))\n"
        "bench(Variant(artifact, 'ort-cpu'), open_dataset('procedural:1'), 'drawn', PROTOCOLS['kp2d'])\n"
        "print(json.dumps([name for name in sys.modules if name.partition('.')[0] == 'lf']))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    known = fingerprint.closure("lf.benchmarks.run.evaluate").keys()
    doors = {name for name in loaded if any(other.startswith(f"{name}.") for other in loaded)}  # of packages
    assert not loaded - known - doors - {"lf.process", "lf.quota", "lf.core.fingerprint", "lf.core.machine"}
    assert len(loaded & known) > 30


def test_every_module_that_lf_asks_for_is_there():
    """A file that is renamed must not leave its old name behind in a string."""
    asked = []
    for path in ROOT.glob("lf/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("versions", "_recipe", "circumstances"):
                asked += [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    assert len(asked) >= 6
    for name in asked:
        fingerprint.closure(name)


def test_it_is_quick():
    forget()
    start = time.process_time()
    fingerprint.fingerprint("lf.benchmarks.run.predict")
    assert time.process_time() - start < 1.5  # s of CPU, of a busy machine; about as long as importing OpenCV takes
