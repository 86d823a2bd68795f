"""The Edge TPU without one: a stand-in library is loaded, asked, given a file, refuses, crashes, and is let go of."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tflite_files as made

from lf.benchmarks.run import results
from lf.benchmarks.run.suite import latencies, suite
from lf.core import BadInput, Unavailable, UsageError
from lf.formats import tflite
from lf.runtimes import BACKENDS, backends_for, edgetpu, open_session
from lf.studies import doctor

SOURCE = Path(__file__).with_name("edgetpu_stub.c")
SIZE = (64, 96)
COMPILER = shutil.which("gcc") or shutil.which("cc")


def build(folder, *flags):
    """The stand-in as a shared library."""
    if COMPILER is None:
        pytest.skip("needs a C compiler (gcc or cc) to build the stand-in for libedgetpu")
    path = folder / "libstandin.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", *flags, "-o", path, SOURCE], check=True)
    return path


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    return build(tmp_path_factory.mktemp("library"))


@pytest.fixture
def stub(standin, tmp_path, monkeypatch):
    """Use the stand-in; returns (how it misbehaves) -> a function that reads what was done to it."""
    log = tmp_path / "calls.txt"
    monkeypatch.setenv(edgetpu.LIBRARY, str(standin))
    monkeypatch.setenv("LF_STUB_LOG", str(log))
    edgetpu.probe.cache_clear()

    def misbehave(how=""):
        monkeypatch.setenv("LF_STUB", how)
        return lambda: log.read_text().splitlines() if log.exists() else []

    yield misbehave
    edgetpu.probe.cache_clear()


@pytest.fixture
def compiled(tmp_path):
    """A file as the compiler leaves it."""
    return made.save(tmp_path / "wren_edgetpu.tflite", made.compiled("wren", SIZE), "wren", SIZE)


def open_it(artifact):
    return open_session(artifact, "edgetpu")


# --- it runs


def test_heads_come_from_the_device_at_their_own_scale(stub, compiled):
    stub()
    session = open_it(compiled)
    for value in (0.0, 0.4, 1.0):
        first = round(value * 255) - 128  # the first byte of the input, which the stand-in repeats
        maps = session.run(np.full((1, 1, *SIZE), value, np.float32))
        expected = {}
        for number, (head, tensor) in enumerate(zip(("detector", "descriptor"), (65, 64), strict=True)):
            level = np.int64(first + number).astype(np.int8).astype(float)
            expected[head] = ((1, tensor, 8, 12), pytest.approx((level - (3 - number)) * 0.02 * (number + 1), abs=1e-6))
        assert {head: (value.shape, float(value.max())) for head, value in maps.items()} == expected
        assert all(value.min() == value.max() for value in maps.values())
    assert session.info.notes["operators"] == {"edgetpu-custom-op": 1, "DELEGATE": 1}


def test_a_session_frees_the_device_once_and_last(stub, compiled):
    calls = stub()
    session = open_it(compiled)
    session.run(np.zeros((1, 1, *SIZE), np.float32))
    session.run(np.zeros((1, 1, *SIZE), np.float32))
    probed, here = ["create", "init", "prepare", "invoke", "free", "destroy"], ["create", "init", "prepare"]
    seen = [call for call in calls() if call != "devices freed"]
    assert seen == [*probed, *here, "invoke", "invoke"]
    del session
    gc.collect()
    assert [call for call in calls() if call != "devices freed"][len(seen) :] == ["free", "destroy"]


def test_sessions_come_and_go_without_a_trace(stub, compiled):
    calls = stub()
    for _ in range(5):
        open_it(compiled).run(np.zeros((1, 1, *SIZE), np.float32))
    gc.collect()
    assert calls().count("create") == calls().count("destroy") == 6  # and one more of the probe, which is not repeated
    assert calls().count("init") == calls().count("free") == 6


@pytest.mark.parametrize("wanted", ["usb", "pci", "usb:0", "pci:0", ":1"])
def test_a_device_is_chosen_by_its_port(stub, compiled, monkeypatch, wanted):
    calls = stub()
    monkeypatch.setenv(edgetpu.DEVICE, wanted)
    session = open_it(compiled)
    assert [call for call in calls() if call.startswith("create")] == [f"create device={wanted}"] * 2
    assert session.info.notes["library"]["chosen"] == wanted


# --- it does not


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("no devices", r"no Edge TPU is connected, .*; plug it in, .*lsusb"),
        ("refuse", r"an Edge TPU is connected \(usb /stub/usb, pci /stub/pci\) but cannot be opened: .*plugdev"),
        (
            "crash in prepare",
            r"crashes \(SIGSEGV\) when it should load the file: .* LiteRT \d.* do not match; inst",
        ),
        ("abort in invoke", r"crashes \(SIGABRT\) when it should run the file: .*do not match"),
        ("refuse in prepare", r"cannot load the file: .*Package requires runtime version \(15\)"),
        ("take nothing", r"RuntimeVersion\(14\) cannot load the file: .*unresolved custom op: edgetpu-custom-op"),
    ],
)
def test_what_goes_wrong_is_named_and_nothing_runs(stub, compiled, how, text):
    stub(how)
    with pytest.raises(Unavailable, match=text) as caught:
        open_it(compiled)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_device_that_does_not_answer_is_given_up(stub, compiled, monkeypatch):
    stub("hang")
    monkeypatch.setattr(edgetpu, "SECONDS", 2)
    with pytest.raises(Unavailable, match="did not answer within 2 s; unplug it"):
        open_it(compiled)


def test_a_port_without_a_device_is_named(stub, compiled, monkeypatch):
    stub()
    monkeypatch.setenv(edgetpu.DEVICE, "usb:1")
    with pytest.raises(Unavailable, match=r"no Edge TPU is at LF_EDGETPU_DEVICE=usb:1; there are: usb /stub/usb, pci"):
        open_it(compiled)


@pytest.mark.parametrize("wanted", ["usb0", "firewire", "usb:", "-1", "usb:0;reboot"])
def test_what_is_no_port_is_refused_before_anything_is_loaded(stub, compiled, monkeypatch, wanted):
    calls = stub()
    monkeypatch.setenv(edgetpu.DEVICE, wanted)
    with pytest.raises(UsageError, match=f"LF_EDGETPU_DEVICE={wanted}: expected usb, pci, or"):
        open_it(compiled)
    assert calls() == []


def test_a_missing_library_says_what_to_install(stub, compiled, monkeypatch):
    monkeypatch.setenv(edgetpu.LIBRARY, "libedgetpu_of_the_moon.so.1")
    with pytest.raises(Unavailable, match=r"cannot be loaded: libedgetpu_of_the_moon\.so\.1: .*; install libedgetpu1"):
        open_it(compiled)


def test_another_library_is_named(tmp_path, stub, compiled, monkeypatch):
    monkeypatch.setenv(edgetpu.LIBRARY, str(build(tmp_path, "-DNO_EDGETPU")))
    with pytest.raises(Unavailable, match=r"is no libedgetpu: .*edgetpu_version; unset LF_EDGETPU_LIBRARY"):
        open_it(compiled)


def test_what_is_not_compiled_never_runs_on_the_cpu_instead(stub, tmp_path):
    calls = stub()
    model, _ = made.heads("wren", SIZE)
    artifact = made.save(tmp_path / "wren_edgetpu.tflite", model, "wren", SIZE)
    with pytest.raises(UsageError, match=r"is not compiled for the Edge TPU .* `export\(FILE, to=edgetpu\)`"):
        open_it(artifact)
    plain = made.save(tmp_path / "wren.tflite", model, "wren", SIZE)
    with pytest.raises(
        UsageError, match=r"edgetpu runs _edgetpu.tflite; make such a file with `export\(MODEL\.tflite, to="
    ):
        open_it(plain)
    assert calls() == []


def test_what_is_compiled_does_not_run_without_the_device(compiled):
    with pytest.raises(Unavailable, match=r"wren_edgetpu\.tflite: is compiled for the Edge TPU and runs there only"):
        open_session(compiled, "tflite")


def test_a_compiled_file_with_other_heads_is_bad_input(stub, tmp_path):
    calls = stub()
    model = made.compiled("wren", SIZE)
    model.subgraphs[0].tensors[1].name = b"other"
    with pytest.raises(
        BadInput, match=r"has no tensor detector for head detector; its outputs: other \(1, 8, 12, 65\)"
    ):
        open_it(made.save(tmp_path / "wren_edgetpu.tflite", model, "wren", SIZE))
    assert calls() == []


# --- nobody takes the stand-in for the device


@pytest.mark.parametrize("how", ["", "other version"])
def test_the_stand_in_is_marked(stub, compiled, standin, how):
    stub(how)
    info = open_it(compiled).info
    assert (info.engine, info.provider) == ("litert", f"edgetpu (library {standin})")
    assert info.notes["library"]["path"] == str(standin)
    assert len(info.notes["library"]["sha256"]) == 64
    assert info.notes["library"]["version"] == ("stub 1" if how else "BuildLabel(stub), RuntimeVersion(14)")


def test_only_the_installed_library_with_a_device_is_the_edge_tpu(monkeypatch):
    monkeypatch.delenv(edgetpu.LIBRARY, raising=False)
    real = {
        "path": "/usr/lib/libedgetpu.so.1",
        "version": "BuildLabel(COMPILER=6.3.0,DATE=redacted), RuntimeVersion(14)",
    }
    assert edgetpu.provider({"library": real, "devices": ["usb /sys/bus/usb/devices/2-1"]}) == "edgetpu"
    marked = "edgetpu (library /usr/lib/libedgetpu.so.1)"
    assert edgetpu.provider({"library": real, "devices": []}) == marked
    assert edgetpu.provider({"library": {**real, "version": "stub 1"}, "devices": ["usb /x"]}) == marked
    monkeypatch.setenv(edgetpu.LIBRARY, "/usr/lib/libedgetpu.so.1")
    assert edgetpu.provider({"library": real, "devices": ["usb /x"]}) == marked


def test_a_run_through_the_stand_in_is_never_kept(stub, compiled, standin, tmp_path):
    stub()
    arguments = [compiled], ["edgetpu"], "procedural:2", "kp2d"
    text = f"figures of edgetpu .library {standin}. are no results of an Edge TPU"
    for out in (tmp_path / "out", None):
        with pytest.raises(Unavailable, match=text) as caught:
            suite(*arguments, limit_sequences=2, repeats=0, out=out)
        assert caught.value.exit_code == 4
    with pytest.raises(Unavailable, match=text):
        latencies([compiled], ["edgetpu"], "kp2d", repeats=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (run, _) = results.load(Path(__file__).parent / "records" / "results.json")
    run = replace(run, backend="edgetpu", provider=f"edgetpu (library {standin})")
    for keep in (results.document, lambda runs: results.save(tmp_path / "r.json", runs)):
        with pytest.raises(Unavailable, match="no results of an Edge TPU"):
            keep([run])
    assert not (tmp_path / "r.json").exists()
    assert results.document([replace(run, provider="edgetpu")])["runs"]


# --- the rest of the house


def test_files_go_to_the_engine_that_their_name_says():
    names = {"a_edgetpu.tflite": ["edgetpu"], "a.tflite": ["tflite"], "a.txt": []}
    assert {name: backends_for(Path(name)) for name in names} == names
    assert "ort-cpu" in backends_for(Path("edgetpu.onnx"))
    assert BACKENDS["edgetpu"].extra == "edge"


@pytest.mark.parametrize(("how", "there"), [("", True), ("no devices", False)])
def test_doctor_says_what_is_there(stub, standin, how, there):
    stub(how)
    row = next(row for row in doctor.examine() if row["name"] == "edgetpu")
    assert row["ok"] is there
    if there:
        assert row["detail"].endswith(
            f"edgetpu (library {standin}): usb /stub/usb, pci /stub/pci; BuildLabel(stub), RuntimeVersion(14)"
        )
    else:
        assert "no Edge TPU is connected" in row["detail"]


def test_the_probe_tells_what_it_found(stub, standin):
    stub()
    found = edgetpu.probe(str(standin), "")
    assert found["devices"] == ["usb /stub/usb", "pci /stub/pci"]
    assert json.dumps(found)
    assert os.environ[edgetpu.LIBRARY] == str(standin)


def test_the_compiled_file_is_what_the_compiler_leaves(compiled):
    model = tflite.read(compiled.path.read_bytes(), "it")
    assert [code.customCode for code in model.operatorCodes] == [made.COMPILED]
    assert len(model.subgraphs[0].operators) == 1
