"""The fuzzer finds what is planted, by the number that it names again; what it once found stays mended."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
import zipfile

import numpy as np
import pytest
from fuzz import seeds
from fuzz.mutate_text import JSON
from fuzz.parsers import PARSERS
from fuzz.runner import Parser, damage, run

from lf.core import BadInput, LfError, UsageError
from lf.formats import tflite

WORDS = b'{"a": [1, 2, 3], "b": "text"}'


def make(folder):
    (folder / "x.json").write_bytes(WORDS)


def unchecked(folder):
    """Reads without a check what should be a list."""
    import json

    try:
        return len(json.loads((folder / "x.json").read_bytes())["a"])
    except (ValueError, KeyError) as error:
        raise BadInput("no JSON") from error


def broken(what):
    """A parser that is wrong as soon as a file differs."""

    def read(folder):
        if (folder / "x.json").read_bytes() != WORDS:
            what(folder)

    return read


def raising(kind):
    raise kind("a reason")


# module-level: they go to another process by name
def system(folder):
    broken(lambda _: os.system("true"))(folder)


def child(folder):
    broken(lambda _: subprocess.run(["true"], check=True))(folder)


def writes(folder):
    broken(lambda _: (folder / "half").write_text("x"))(folder)


def elsewhere(folder):
    broken(lambda _: (folder.parent / "half").write_text("x"))(folder)


def dies(folder):
    broken(lambda _: os.abort())(folder)


def hangs(folder):
    broken(lambda _: time.sleep(1000))(folder)


def large(folder):
    broken(lambda _: len(b"x" * (2200 << 20)))(folder)


def usage(folder):
    broken(lambda _: raising(UsageError))(folder)


def several(folder):
    broken(lambda _: raising(lambda text: BadInput(f"{text}\nmore")))(folder)


PLANTED = {  # what is said of it -> a parser
    "object of type": unchecked,
    "wrote: [(": writes,
    "the process died with -6": dies,
}
MORE = {
    "ran os.system": system,
    "ran subprocess.Popen": child,
    "changed open": elsewhere,
    "exit code 2, expected (5,): a reason": usage,
    "an error of several lines": several,
    "hangs for more than 0.3 s": hangs,
    "MiB of memory": large,
}


def planted(read):
    return Parser("planted", make, ["x.json"], read, (numbers,))


def numbers(data, rng):
    """The list becomes a number."""
    return data.replace(b"[1, 2, 3]", str(rng.randint(1, 99)).encode())


@pytest.mark.parametrize(("said", "read"), PLANTED.items())
def test_a_planted_fault_is_found_and_found_again(said, read, tmp_path):
    tally = run(planted(read), 5, 20, tmp_path, most=1)
    number, found = tally.findings[0]
    assert said in found
    assert (tmp_path / f"planted-5-{number}" / "x.json").read_bytes() != WORDS
    assert said in run(planted(read), 5, 1, first=number).findings[0][1]


@pytest.mark.slow
@pytest.mark.parametrize(("said", "read"), MORE.items())
def test_other_planted_faults_are_found(said, read):
    tally = run(planted(read), 5, 20, hang=0.3 if read is hangs else 20, most=1)
    assert said in tally.findings[0][1]


def test_cases_are_the_same_by_seed(tmp_path):
    parser, files = Parser("planted", make, ["*.json"], unchecked, JSON), []
    (tmp_path / "whole").mkdir()
    make(tmp_path / "whole")
    for seed, number in ((1, 0), (1, 1), (2, 0), (1, 0)):
        files.append((damage(parser, tmp_path, seed, number) / "x.json").read_bytes())
    assert files[0] == files[3]
    assert len({*files}) == 3


def test_a_whole_file_that_is_refused_is_a_finding():
    parser = Parser("planted", make, ["*.json"], refuses, JSON)
    assert run(parser, 1, 1).findings == [(0, "the whole file: refused")]


def refuses(folder):
    raise BadInput("never")


# --- what was found, as small files


def sql(*commands):
    def change(data):
        connection = sqlite3.connect(":memory:")
        connection.deserialize(data)
        connection.executescript("; ".join(commands))
        connection.commit()
        return connection.serialize()

    return change


def swapped(*pairs):
    """Bytes for bytes of the same length, so that no length around them changes."""

    def change(data):
        for old, new in pairs:
            assert len(old) == len(new)
            assert old in data
            data = data.replace(old, new)
        return data

    return change


def proto(edit):
    def change(data):
        import onnx

        model = onnx.load_from_string(data)
        edit(model)
        return model.SerializeToString()

    return change


def reversed_inputs(model):
    node = model.graph.node[1]
    node.input[:] = [*node.input][::-1]


def without_weights(data):
    """The TFLite file, the weights of its last convolution left out."""
    model = tflite.read(data, "a test")
    operator = model.subgraphs[0].operators[-1]
    operator.inputs = np.array([operator.inputs[0], -1, operator.inputs[2]], np.int32)
    return tflite.write(model) + data[len(tflite.without_archive(data)) :]  # the card


ENDLESS = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS image_id, x AS rows, x AS cols FROM n"
)
FOUND = {
    "a camera of text": (
        "colmap-databases",
        "database.db",
        sql("UPDATE cameras SET height = 'x'"),
        "'x' where a whole",
    ),
    "rows of text": (
        "colmap-databases",
        "plain.db",
        sql("UPDATE keypoints SET cols = 'x'"),
        "'x' where a whole number",
    ),
    "no camera": ("colmap-databases", "database.db", sql("DELETE FROM cameras"), "image 1.png has no camera"),
    "an endless view": (
        *("colmap-databases", "database.db"),
        sql("DROP TABLE descriptors", f"CREATE VIEW descriptors AS {ENDLESS}"),
        "it holds the view descriptors; expected tables only",
    ),
    "a zero byte in a list": ("cameras", "caps/img_cam.txt", swapped((b"1.png", b"1.pn\0")), "it holds a zero byte"),
    "a long name": ("cameras", "caps/img_cam.txt", lambda data: data.replace(b"1.png", b"9" * 300), "is no file name"),
    "points beyond any file": (
        *("colmap-binary", "bin/images.bin"),
        lambda data: data.replace(b"0.png\0" + bytes(8), b"0.png\0" + b"\xff" * 8),
        "cut short at byte",
    ),
    "a name of two lines": (
        *("colmap-binary", "bin/images.bin"),
        swapped((b"0.png", b"0\npng")),
        "expected a path without control characters",
    ),
    "a convolution without weights": (
        *("tflite-runtime", "q.tflite"),
        without_weights,
        "an operator without one of its inputs",
    ),
    "a card of brackets": ("toml-cards", "net.toml", lambda data: data + b"x = " + b"[" * 9000, "not TOML"),
    "a number of thousands of digits": (
        *("toml-cards", "net.toml"),
        lambda data: data.replace(b"length = 64", b"length = " + b"9" * 5000),
        "not TOML",
    ),
    "a word for a number": (
        "toml-cards",
        "net.toml",
        lambda data: data.replace(b"channels = 1", b'channels = "x"'),
        "channels = 'x'",
    ),
    "a path with a zero byte": (
        *("toml-plans", "plan.toml"),
        lambda data: data.replace(b'"procedural:2"', b'"x/\\u0000"'),
        "a path with a zero byte",
    ),
    "weights as a picture": ("onnx-opencv", "m.onnx", proto(reversed_inputs), "expected a map and then weights"),
    "no weights": ("onnx-openvino", "m.onnx", proto(lambda m: m.graph.node[1].input.pop()), "expected a map and then"),
    "an output of nothing": ("onnx-opencv", "m.onnx", proto(lambda m: m.graph.node.pop()), "nothing writes its output"),
    "a constant cut short": (
        *("onnx-opencv", "m.onnx"),
        proto(lambda m: m.graph.initializer[0].dims.append(7)),
        "the constant 'detector.weight' has 16640 bytes, expected 116480",
    ),
    "a far opset": (
        *("onnx-openvino", "m.onnx"),
        proto(lambda m: setattr(m.opset_import[0], "version", 1 << 40)),
        "operator set 1099511627776, expected 1 to 1000",
    ),
    "a name that is no text": ("onnx-passes", "m.onnx", swapped((b"Conv", b"Con\xff")), "a name is no UTF-8 text"),
}


@pytest.mark.parametrize(("name", "file", "change", "text"), FOUND.values(), ids=FOUND)
def test_what_was_found_stays_mended(name, file, change, text, tmp_path, monkeypatch):
    parser = PARSERS[name]
    parser.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(LfError) as refused:
        parser.read(tmp_path)
    assert text in str(refused.value)
    assert refused.value.exit_code in parser.codes


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_damaged_files(name):
    """A short run; the long one is that of the night: python -m tests.fuzz."""
    seed = int(os.environ.get("LF_FUZZ_SEED", "0"))
    tally = run(PARSERS[name], seed, int(os.environ.get("LF_FUZZ_COUNT", "20")))
    assert not tally.findings, f"python -m tests.fuzz --seed {seed} --only {name}"


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: b"no array",
        lambda raw: raw[:10] + b"(" + raw[11:],
        lambda raw: raw[:6] + b"\x09" + raw[7:],
        lambda raw: b"",
    ],
    ids=["text", "an open bracket", "a far version", "nothing"],
)
def test_kept_features_that_are_damaged_are_predicted_again(change, tmp_path):
    from lf.benchmarks.run import predict

    seeds.ledgers(tmp_path)
    assert predict._load(tmp_path / "kept.npz") is not None
    with zipfile.ZipFile(tmp_path / "kept.npz") as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "kept.npz", "w") as archive:
        for name, raw in arrays.items():
            archive.writestr(name, change(raw) if name == "size.npy" else raw)
    assert predict._load(tmp_path / "kept.npz") is None
