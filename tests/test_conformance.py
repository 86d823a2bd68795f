"""Every engine on every family of networks: maps and keypoints of one reference, threads, lifetime, loud failure."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from two_threads import wrong_answers

from lf.core import Artifact, BadInput, LfError, Unavailable, UsageError
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.models import MODELS, NETWORKS
from lf.models.resolve import resolve
from lf.quantize import WRITERS, quantize
from lf.runtimes import BACKENDS, open_session, opencv_dnn, ort
from lf.studies import doctor

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.usefixtures("few_pictures")

FAMILIES = (
    *("wren", "swift", "superpoint-small", "fast-r2d2", "kp2dtiny-s-coral", "edgepoint2-t32", "alike-t"),
    *("xfeat", "disk", "aliked-t16", "superpoint-small-seg", "posfeat-small"),
)
ENGINES = [name for name, row in BACKENDS.items() if row.suffixes != (".card",)]
REFERENCE = "ort-cpu"
SLOW = ("torch-compile",)  # compiles each family, a quarter of a minute and more
AT_NIGHT = (
    "swift",
    "superpoint-small",
    "fast-r2d2",
    "alike-t",
    "xfeat",
    "disk",
    "superpoint-small-seg",
    "posfeat-small",
)
CONVERTED = [("tflite", family) for family in AT_NIGHT]  # conversions of up to 30 s
ANY_SIZE = ("torch", "torch-compile")  # a checkpoint has no size of its own
RELATIVE = {"openvino-bf16": 0.1}  # of the largest value; 8 bits of mantissa, through a dozen layers
WRONGLY = r"OpenVINO computes 16-bit activations wrongly; type: `backend=ort-cpu`"
REFUSED = {
    ("openvino", "w8a16"): WRONGLY,
    ("openvino-bf16", "w8a16"): WRONGLY,
    ("ort-openvino", "w8a16"): "16-bit activations",
    ("opencv-dnn", "w8a16"): "OpenCV cannot run it",
    ("opencv-dnn", "w8a8-dynamic"): "OpenCV cannot load it",
}
SIZE = (64, 96)  # H, W


@pytest.fixture(scope="session")
def file(network, converted):
    """(family, suffix of a file that a backend runs) -> that float network in it; each made once."""

    def make(family: str, suffix: str) -> Artifact:
        if suffix == ".tflite":
            return converted(family)
        onnx = network(family, loud=True)
        return onnx if suffix == ".onnx" else resolve(onnx.path.with_suffix(suffix))

    return make


@pytest.fixture(scope="module")
def here():
    """Name of a row -> what `lf doctor` says of it."""
    return {row["name"]: row for row in doctor.examine()}


def marked(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@pytest.fixture(params=marked(ENGINES))
def backend(request, here):
    """Every engine that is here."""
    found = here[request.param]
    return request.param if found["ok"] else pytest.skip(found["detail"])


def suffix(backend):
    return BACKENDS[backend].suffixes[0]


def tensor(artifact: Artifact, seed: int = 0):
    return np.random.default_rng(seed).random((1, artifact.card.input[0], *SIZE), np.float32)


BOTH = [
    pytest.param(name, family, marks=pytest.mark.slow if name in SLOW or (name, family) in CONVERTED else [])
    for name in ENGINES
    for family in FAMILIES
]


@pytest.mark.parametrize(("backend", "family"), BOTH, indirect=["backend"])
def test_the_same_maps_and_keypoints(file, backend, family):
    if backend in MODELS[family].not_on:
        with pytest.raises(LfError):
            Extractor(file(family, suffix(backend)), backend)
        return
    reference = Extractor(file(family, ".onnx"), REFERENCE)
    other = Extractor(file(family, suffix(backend)), backend)
    relative = RELATIVE.get(backend, agreement.MAPS)
    for a, b in agreement.both(reference, other, agreement.drawn(SIZE, 2)):
        assert a.maps.keys() == b.maps.keys()
        for head, expected in a.maps.items():
            assert np.abs(b.maps[head] - expected).max() <= relative * np.abs(expected).max(), head
        if relative == agreement.MAPS:
            shared = agreement.near(a.features.keypoints, b.features.keypoints, agreement.NEAR)
            assert shared.mean() >= agreement.SHARED
            assert abs(len(a.features) - len(b.features)) <= (1 - agreement.SHARED) * len(a.features)
            assert agreement.differences(a, b, quantized=False) == "", "what lf calls equal output is the same rule"


def test_every_family_is_here():
    assert {row.family for row in NETWORKS.values()} == {MODELS[name].family for name in FAMILIES}
    assert all(set(row.not_on) <= set(ENGINES) for row in NETWORKS.values())
    assert all({"tflite", "edgetpu"} & set(row.not_on) != {"tflite"} for row in NETWORKS.values())


@pytest.fixture(scope="module")
def quantized(file, drawn_photos, tmp_path_factory):
    """Scheme -> wren in it; each made once."""

    @cache
    def make(scheme):
        out = tmp_path_factory.mktemp(scheme) / "small.onnx"
        return quantize(file("wren", ".onnx"), scheme, drawn_photos, out, rounding="nearest")

    return make


@pytest.mark.parametrize("name", [name for name in ENGINES if ".onnx" in BACKENDS[name].suffixes and name != REFERENCE])
@pytest.mark.parametrize("scheme", WRITERS["ort"].schemes)
def test_quantized_files_read_the_same_or_are_refused(quantized, here, name, scheme):
    if not here[name]["ok"]:
        pytest.skip(here[name]["detail"])
    small = quantized(scheme)
    if (name, scheme) in REFUSED:
        with pytest.raises((UsageError, BadInput), match=REFUSED[name, scheme]):
            open_session(small, name).run(tensor(small))
        return
    expected, found = (open_session(small, engine).run(tensor(small)) for engine in (REFERENCE, name))
    assert [*found] == [*expected] == [*small.card.outputs]
    for head, values in expected.items():
        noise = float(np.square(found[head] - values).sum() / np.square(values - values.mean()).sum())
        assert noise < agreement.NOISE, f"{head}: another rounding of a few levels, not another network"


@pytest.mark.alone
def test_one_thread_is_one_thread(file, backend):
    artifact = file("fast-r2d2", suffix(backend))
    session, other = (open_session(artifact, backend, threads) for threads in (1, 2))
    image = tensor(artifact)
    for opened in (session, other, session, session):  # the number of the other one is not left behind
        opened.run(image)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(20):
        session.run(image)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert cpu <= 1.2 * wall + 0.02  # s; two would use twice the wall's
    assert session.info.threads == 1


def test_two_threads_share_a_session(file, backend):
    artifact = file("wren", suffix(backend))
    session = open_session(artifact, backend)
    assert not wrong_answers(session, [tensor(artifact, seed) for seed in range(2)], 50)


def status(name):
    """A line of what Linux tells of this process: kB of memory, or a count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1])


THOUSAND = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_conformance import status, tensor
from lf.models import MODELS, NETWORKS
from lf.models.resolve import resolve
from lf.runtimes import open_session
artifact = resolve(sys.argv[2])
session, image = open_session(artifact, sys.argv[3]), tensor(artifact)
for _ in range(200):
    session.run(image)
before = status("VmRSS")
for _ in range(1000):
    session.run(image)
print(sum(values.nbytes for values in session.run(image).values()), (status("VmRSS") - before) * 1024)
"""


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_thousand_runs_leak_nothing(file, backend):
    artifact = file("wren", suffix(backend))
    words = [str(Path(__file__).parent), str(artifact.path), backend]  # alone: the memory of all other tests moves, too
    done = subprocess.run([sys.executable, "-c", THOUSAND, *words], capture_output=True, text=True, check=True)
    maps, grown = map(int, done.stdout.split())
    assert grown < 100 * maps, "less than a tenth of the outputs of a thousand runs"


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_sessions_close(file, backend):
    artifact = file("wren", suffix(backend))

    def open_and_close(times):
        for _ in range(times):
            open_session(artifact, backend, 2).run(tensor(artifact))
        gc.collect()
        return status("Threads")

    before = open_and_close(2)
    assert open_and_close(8) <= before + 1


def test_a_damaged_file_is_refused(file, backend, tmp_path):
    whole = file("wren", suffix(backend))
    data = whole.path.read_bytes()
    damaged = tmp_path / whole.path.name
    damaged.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=damaged.name):
        open_session(Artifact(damaged, whole.card), backend).run(tensor(whole))


def test_a_picture_of_another_shape_is_refused(file, backend):
    if backend in ANY_SIZE:
        pytest.skip("takes every size")
    artifact = file("wren", suffix(backend))
    session, channels = open_session(artifact, backend), artifact.card.input[0]
    for shape in ((1, channels, 32, 32), (1, channels + 1, *SIZE), (2, channels, *SIZE)):
        with pytest.raises(BadInput, match=artifact.path.name):
            session.run(np.zeros(shape, np.float32))


# --- loud where it is not there


def test_a_precision_that_the_processor_lacks_is_not_replaced(file, monkeypatch):
    openvino = pytest.importorskip("openvino")
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32"])
    lacks = r"no bf16 instructions for OpenVINO; type: `backend=openvino`"
    with pytest.raises(Unavailable, match=lacks):
        open_session(file("wren", ".onnx"), "openvino-bf16")
    assert "no bf16 instructions" in said_of("openvino-bf16")


@pytest.mark.parametrize("name", ["ort-cuda", "ort-tensorrt"])
def test_a_provider_that_is_listed_and_does_not_run(file, monkeypatch, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    provider = BACKENDS[name].options["provider"]
    if provider in onnxruntime.get_available_providers():
        pytest.skip("it is really there")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider, "CPUExecutionProvider"])
    with pytest.raises(Unavailable, match=f"{provider} was requested, but ONNX Runtime would use another"):
        open_session(file("wren", ".onnx"), name)
    assert f"{provider} was requested" in said_of(name)


def test_tensorrt_that_is_not_there_is_named(file, here):
    if here["ort-tensorrt"]["ok"]:
        pytest.skip("it is really there")
    with pytest.raises(Unavailable, match="TensorrtExecutionProvider") as caught:
        open_session(file("wren", ".onnx"), "ort-tensorrt")
    assert caught.value.exit_code == 4


def test_bound_memory_gives_the_same_maps(file, monkeypatch):
    """The path of a GPU, with the CPU's memory as the device's."""
    artifact = file("kp2dtiny-s-coral", ".onnx")
    session, image = open_session(artifact, REFERENCE), tensor(artifact)
    expected = session.run(image)
    monkeypatch.setitem(ort.MEMORY, "CPUExecutionProvider", "cpu")
    monkeypatch.setattr(session, "_plain", None)
    found = session.run(image)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[head], values) for head, values in expected.items())
    with pytest.raises(BadInput, match=r"cannot run it on \(1, 3, 32, 32\)"):
        session.run(np.zeros((1, 3, 32, 32), np.float32))


def test_a_compiler_that_is_not_there(file, monkeypatch):
    monkeypatch.setenv("CXX", "compiler-of-the-moon")
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler compiler-of-the-moon .+ or type: `backend=torch`"):
        open_session(file("wren", ".safetensors"), "torch-compile")
    assert "install g++" in said_of("torch-compile")


def test_an_opencv_that_is_too_old(file, monkeypatch):
    monkeypatch.setattr(opencv_dnn.cv2, "__version__", "4.12.0")
    with pytest.raises(Unavailable, match=r"this OpenCV 4\.12\.0 is too old.+type: pip install -U opencv"):
        open_session(file("wren", ".onnx"), "opencv-dnn")
    assert "too old" in said_of("opencv-dnn")


def said_of(name):
    """Return the detail of `lf doctor` for a missing row."""
    row = next(row for row in doctor.examine() if row["name"] == name)
    assert not row["ok"]
    return row["detail"]
