"""Fixtures that more than one file needs."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import onnx_files
import originals
import pytest
from filelock import FileLock

from lf.cli import main
from lf.core import Artifact, Card
from lf.extraction import auto, store
from lf.formats import model_file
from lf.models import MODELS
from lf.quantize.write import checks

Once = Callable[[str, Callable[[Path], object]], Path]


os.environ.setdefault("LF_CACHE", tempfile.mkdtemp(prefix="lf-tests-"))  # never the user's own measurements
os.environ["LF_PROGRESS"] = "off"  # on a busy machine any command may take longer than the first line waits


@pytest.fixture
def measured_backend() -> None:
    """Let `auto` measure, in tests of `auto` itself; see `_fixed_backend`."""


@pytest.fixture(autouse=True)
def _fixed_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `auto` take the first backend in all other tests, so that they do not depend on measured times."""
    if "measured_backend" not in request.fixturenames:
        monkeypatch.setattr(auto, "candidates", lambda artifact: [store.backend_for(artifact)])


@pytest.fixture
def measured_ratio() -> None:
    """Let `lf quantize` measure if its file is slower, in a test of that; see `_fixed_ratio`."""


@pytest.fixture(autouse=True)
def _fixed_ratio(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every quantized file as fast as its float file in all other tests: no test depends on measured times."""
    if "measured_ratio" not in request.fixturenames:
        monkeypatch.setattr(checks, "time_ratio", lambda parent, made: 1.0)


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export checkpoints in the process of the tests, where parts of the exporter can be replaced."""
    from lf.export import apart

    @contextmanager
    def opened(source: str, folder: Path) -> Iterator[tuple[Artifact, Callable[[], Artifact]]]:
        steps = apart.steps(source, folder)
        yield next(steps), lambda: next(steps)

    monkeypatch.setattr(apart, "opened", opened)


@pytest.fixture
def lf(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, stdout, stderr; even what C libraries print is seen."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lf", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), *capfd.readouterr()

    return call


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data beside the repository; without it the test is skipped."""
    return originals.SHARED if originals.SHARED.is_dir() else pytest.skip("needs ../shared (development data)")


@pytest.fixture(scope="session")
def original(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """("kp2d/expected.json", say) -> that file of the original evaluators; only what is in ../shared may be skipped."""

    def path(name: str) -> Path:
        if name.endswith(originals.ELSEWHERE):
            request.getfixturevalue("shared")
        return originals.find(name)

    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Artifact]:
    """(name, row of MODELS, size) -> an ONNX file with the heads of that row, a random convolution each."""
    return lambda name="tiny.onnx", row="wren", size=None: model_file.save(
        tmp_path / name, *onnx_files.heads(row, size)
    )


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """(name, make) -> a folder that `make` has filled, once for all test processes: the others wait and read."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        place = root / "once" / name
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".lock"):
            if not (place / ".made").exists():
                make(place)
                (place / ".made").touch()
        return place

    return folder


@pytest.fixture(scope="session")
def network(once: Once) -> Callable[..., Artifact]:
    """(row of MODELS, size, loud) -> that network with random weights, exported to ONNX; each once a run.

    Loud ones have Kaiming's weights: at its smaller initial ones a network says little but its biases.
    """

    @cache
    def make(name: str, size: tuple[int, int] | None = (64, 96), loud: bool = False) -> Artifact:
        sides = "x".join(map(str, size or ("free",)))
        folder = once(f"{name}-{sides}{'-loud' * loud}", lambda place: _exported(place, name, size, loud))
        return model_file.load(folder / f"{name}.onnx")

    return make


@pytest.fixture(scope="session")
def converted(network: Callable[..., Artifact], once: Once) -> Callable[[str], Artifact]:
    """(row of MODELS) -> that loud network of 64x96 converted to float TFLite; each once a run."""

    @cache
    def make(name: str) -> Artifact:
        from lf.export import export

        parent = network(name, loud=True)
        with _two_pictures():
            folder = once(f"{name}-tflite", lambda place: export(parent, "tflite", place / f"{name}.tflite"))
        return model_file.load(folder / f"{name}.tflite")

    return make


@pytest.fixture(scope="session")
def drawn_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four drawn images, 80x120."""
    import cv2

    from lf.extraction.agreement import drawn

    folder = tmp_path_factory.mktemp("photos")
    for index, picture in enumerate(drawn((80, 120), 4)):
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


@pytest.fixture(scope="module")
def few_pictures() -> Iterator[None]:
    """Use two images for agreement and few windows for rounding, in modules that do not test a network's figures."""
    from lf.quantize.round import rounding

    with _two_pictures() as patch:
        patch.setattr(rounding, "WINDOWS", 256)
        yield


@contextmanager
def _two_pictures() -> Iterator[pytest.MonkeyPatch]:
    """Conversions are compared on two images."""
    from lf.extraction import agreement

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "PICTURES", 2)
        yield patch


def _exported(folder: Path, name: str, size: tuple[int, int] | None, loud: bool) -> None:
    """Write a checkpoint of random weights into the folder, and its export beside it."""
    import torch

    from lf.export import export, parity
    from lf.models import checkpoint

    row = MODELS[name]
    torch.manual_seed(1)
    net = checkpoint.build(name)
    for values in (values for values in net.parameters() if loud and values.ndim == 4):
        torch.nn.init.kaiming_normal_(values)
    card = Card(name, {"origin": "test"}, (row.channels, None, None), outputs=dict(row.heads))
    parent = checkpoint.save(folder / f"{name}.safetensors", net, card)
    with _two_pictures() as patch:
        patch.setattr(parity, "FREE_SIZES", ((64, 96), (96, 72)))
        export(parent, "onnx", folder / f"{name}.onnx", size=size)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium that keeps its console and its network log."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("no chromium and chromedriver; on Debian: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as opened:
        yield opened
