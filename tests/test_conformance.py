"""Every engine on every family of networks: maps and keypoints of one reference, threads, lifetime, loud failure."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lf.core import Artifact, BadInput, Unavailable
from lf.export import export
from lf.models.resolve import resolve
from lf.quantize import quantize
from lf.runtimes import BACKENDS, agreement, doctor, open_session
from lf.runtimes.extract import Extractor

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.usefixtures("few_pictures")

FAMILIES = ("wren", "fast-r2d2", "kp2dtiny-s-coral")
ENGINES = [name for name, row in BACKENDS.items() if row.suffixes != (".card",)]
REFERENCE = "ort-cpu"
RELATIVE = {"openvino-bf16": 0.1}  # of the largest value; 8 bits of mantissa, through a dozen layers
SIZE = (64, 96)  # H, W


@pytest.fixture(scope="session")
def file(network, tmp_path_factory):
    """(family, suffix of a file that a backend runs) -> that float network in it; each made once."""
    made: dict[tuple[str, str], Artifact] = {}

    def make(family: str, suffix: str) -> Artifact:
        onnx = network(family, loud=True)
        if (family, suffix) not in made:
            out = tmp_path_factory.mktemp("files") / f"{family}{suffix}"
            made[family, suffix] = {
                ".onnx": lambda: onnx,
                ".safetensors": lambda: resolve(onnx.path.with_suffix(".safetensors")),
                ".tflite": lambda: export(onnx, "tflite", out),
            }[suffix]()
        return made[family, suffix]

    return make


@pytest.fixture(params=ENGINES)
def backend(request):
    """Every engine that is here."""
    found = next(row for row in doctor.examine() if row["name"] == request.param)
    return request.param if found["ok"] else pytest.skip(found["detail"])


def suffix(backend):
    return BACKENDS[backend].suffixes[0]


def tensor(artifact: Artifact, seed: int = 0):
    return np.random.default_rng(seed).random((1, artifact.card.input[0], *SIZE), np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_maps_and_keypoints(file, backend, family):
    reference = Extractor(file(family, ".onnx"), REFERENCE)
    other = Extractor(file(family, suffix(backend)), backend)
    relative = RELATIVE.get(backend, 1e-4)
    for a, b in agreement.both(reference, other, agreement.drawn(SIZE, 2)):
        assert a.maps.keys() == b.maps.keys()
        for head, expected in a.maps.items():
            assert np.abs(b.maps[head] - expected).max() <= relative * np.abs(expected).max(), head
        if relative <= 1e-4:
            shared = agreement.near(a.features.keypoints, b.features.keypoints, 0.05)
            assert shared.mean() >= 0.99
            assert abs(len(a.features) - len(b.features)) <= 0.01 * len(a.features)


@pytest.mark.parametrize("name", [name for name in ENGINES if ".onnx" in BACKENDS[name].suffixes])
@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_quantized_files_read_the_same(file, drawn_photos, name, scheme, tmp_path):
    if not next(row for row in doctor.examine() if row["name"] == name)["ok"]:
        pytest.skip("not here")
    parent = file("wren", ".onnx")
    small = quantize(parent, scheme, drawn_photos, tmp_path / "small.onnx", rounding="nearest")
    expected, found = (open_session(small, engine).run(tensor(parent)) for engine in (REFERENCE, name))
    for head, values in expected.items():
        noise = float(np.square(found[head] - values).sum() / np.square(values - values.mean()).sum())
        assert noise < 10**-2, f"{head}: another rounding of a few levels, not another network"


def test_one_thread_is_one_thread(file, backend):
    session = open_session(file("fast-r2d2", suffix(backend)), backend, 1)
    image = tensor(file("fast-r2d2", suffix(backend)))
    session.run(image)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(20):
        session.run(image)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert cpu <= 1.2 * wall + 0.02  # s; two would use twice the wall's
    assert session.info.threads == 1


def test_two_threads_share_a_session(file, backend):
    artifact = file("wren", suffix(backend))
    session = open_session(artifact, backend)
    images = [tensor(artifact, seed) for seed in range(2)]
    expected = [session.run(image) for image in images]
    wrong = []

    def work(index):
        for _ in range(50):
            found = session.run(images[index])
            wrong.extend(name for name, values in expected[index].items() if (found[name] != values).any())

    workers = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def status(name):
    """A line of what Linux tells of this process: kB of memory, or a count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_thousand_runs_leak_nothing(file, backend):
    artifact = file("wren", suffix(backend))
    session, image = open_session(artifact, backend), tensor(artifact)
    for _ in range(200):
        session.run(image)
    before = status("VmRSS")
    for _ in range(1000):
        session.run(image)
    maps = sum(values.nbytes for values in session.run(image).values())
    assert (status("VmRSS") - before) * 1024 < 100 * maps, "less than a tenth of the outputs of a thousand runs"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_sessions_close(file, backend):
    artifact = file("wren", suffix(backend))

    def open_and_close():
        session = open_session(artifact, backend, 2)
        session.run(tensor(artifact))
        del session
        gc.collect()

    for _ in range(3):
        open_and_close()
    before = status("Threads")
    for _ in range(10):
        open_and_close()
    assert status("Threads") <= before + 1


def test_a_damaged_file_is_refused(file, backend, tmp_path):
    whole = file("wren", suffix(backend))
    data = whole.path.read_bytes()
    damaged = tmp_path / whole.path.name
    damaged.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=damaged.name):
        open_session(Artifact(damaged, whole.card), backend).run(tensor(whole))


def test_a_picture_of_another_size_is_refused(file, backend):
    if backend == "torch":
        pytest.skip("takes every size")
    artifact = file("wren", suffix(backend))
    with pytest.raises(BadInput, match=artifact.path.name):
        open_session(artifact, backend).run(np.zeros((1, artifact.card.input[0], 32, 32), np.float32))


def test_a_precision_that_the_processor_lacks_is_not_replaced(file, monkeypatch):
    openvino = pytest.importorskip("openvino")
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32"])
    with pytest.raises(Unavailable, match=r"no bf16 instructions for OpenVINO; use --backend openvino"):
        open_session(file("wren", ".onnx"), "openvino-bf16")
