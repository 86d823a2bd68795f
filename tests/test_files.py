"""Files are written whole or not at all, carry exactly one card, stay what they were, and damage is always named."""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lf.core import Artifact, BadInput, Card, LfError, UsageError, files
from lf.formats import cards, model_file

CARD = Card("wren", {"origin": "ß", "sha256": "00ff", "licence": "Apache-2.0"}, (1, None, None))
OTHER = replace(CARD, scheme="w8a8", made=({"command": "quantize", "notes": "x" * 300},))
TENSORS = {"odd": np.arange(3, dtype=np.uint8), "b": np.ones((2, 3), np.float32)}


def onnx_model():
    """y = -x, with a remark of its own in metadata_props, before the card and after it."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negation", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"author": "somebody"})
    return model.SerializeToString()


def tflite_model():
    """Return the parts that a reader of cards uses: the identifier, and bytes that must not move."""
    return b"\x1c\x00\x00\x00TFL3" + np.random.default_rng(0).bytes(500)


MODELS = {".onnx": onnx_model(), ".safetensors": safetensors.numpy.save(TENSORS), ".tflite": tflite_model()}


def card_in(folder, suffix, data):
    path = folder / f"m{suffix}"
    path.write_bytes(data)
    return model_file.read_card(path)


# --- whole or not at all


def test_a_file_appears_with_its_folder_and_usual_permissions(tmp_path):
    path = tmp_path / "new" / "folder" / "x.bin"
    assert files.write_bytes(path, b"one") == path
    assert path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o666 & ~files._umask()
    assert os.listdir(path.parent) == ["x.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [None, b"old"])
def test_what_breaks_off_leaves_what_was_there(tmp_path, error, before):
    path = tmp_path / "x.bin"
    if before:
        path.write_bytes(before)

    def write():
        with files.atomic(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.suffix == path.suffix
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before] * bool(before)


@pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (errno.ENOSPC, LfError, "x.bin: the disk is full; nothing was written. Free some space"),
        (errno.EDQUOT, LfError, "x.bin: the disk is full"),
        (errno.EROFS, UsageError, r"x.bin: cannot be written \(Read-only file system\); choose another place"),
    ],
)
@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_disk_that_refuses(tmp_path, monkeypatch, number, error, text, step):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, step, refuse)
        with pytest.raises(error, match=text):
            files.write_bytes(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_a_place_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"x\.bin: cannot be written \(.+\); choose another place"):
        files.write_bytes(tmp_path / "file" / "x.bin", b"new")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_devices_and_folders_are_not_replaced(tmp_path, make):
    """Such as /dev/null, which root could replace by a file for everybody."""
    place = tmp_path / "x"
    make(place)
    with pytest.raises(UsageError, match=r"cannot be written \(it exists and is not a regular file\)"):
        files.write_bytes(place, b"new")
    assert not place.is_file()


# --- reading


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", r"x: is empty; expected a list$"),
        (b"{", r"x: not JSON \(.+\); expected a list$"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[NaN]", r"not JSON \(it holds NaN\)"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_json_is_named(tmp_path, data, text):
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=text):
        files.read_json(path, "a list")


def test_json_is_strict_and_returns(tmp_path):
    assert files.read_json(files.write_json(tmp_path / "x", {"a": [1.5, None]}), "a table") == {"a": [1.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "y", float("nan"))
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none", "none: no such file; expected a thing$"),
        (".", "is a folder; expected a thing$"),
        ("file/x", r"cannot be read \(Not a directory\)"),
        ("file", r"file: 4 bytes are more than the 3 that a thing may have$"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text):
    (tmp_path / "file").write_bytes(b"1234")
    with pytest.raises(BadInput, match=text):
        files.read_bytes(tmp_path / name, "a thing", limit=3)


# --- cards


@pytest.mark.parametrize("suffix", MODELS)
def test_every_format_carries_a_card_and_replaces_it(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    assert card_in(tmp_path, suffix, MODELS[suffix]) is None
    with pytest.raises(BadInput, match=r"carries no card to say what it is.*; make it with: `export\(CHECKPOINT, to="):
        model_file.load(path)
    if suffix == ".tflite":
        with pytest.raises(BadInput, match=r"what it is \(or is cut short\); make it with: .* to=tflite"):
            model_file.load(path)
    once = model_file.save(path, MODELS[suffix], OTHER)
    assert once == model_file.load(path) == Artifact(path, OTHER)
    twice = model_file.embed(suffix, path.read_bytes(), CARD)
    assert twice == model_file.embed(suffix, MODELS[suffix], CARD)  # nothing of the first card is left
    assert card_in(tmp_path, suffix, twice) == CARD


def test_a_baseline_is_nothing_but_its_card(tmp_path):
    path = tmp_path / "sift.card"
    assert model_file.save(path, b"", CARD) == model_file.load(path)
    assert path.read_text() == CARD.to_json() + "\n"
    with pytest.raises(BadInput, match=r"m\.card: its embedded card is damaged"):
        card_in(tmp_path, ".card", b"\xff")


@pytest.mark.parametrize("rounds", [1, 2])
def test_onnx_stays_a_valid_model_with_one_card(rounds):
    data = MODELS[".onnx"]
    for _ in range(rounds):
        data = model_file.embed(".onnx", data, CARD)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert {p.key: p.value for p in model.metadata_props} == {"author": "somebody", cards.KEY: CARD.to_json()}
    assert len(model.metadata_props) == 2
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map[cards.KEY] == CARD.to_json()
    assert session.run(None, {"x": np.float32([1, -2])})[0].tolist() == [-1, 2]


def test_onnx_keeps_what_follows_the_card():
    model = onnx.load_from_string(model_file.embed(".onnx", MODELS[".onnx"], OTHER))
    entry = model.metadata_props.add()
    entry.key, entry.value = "later", "remark"
    model = onnx.load_from_string(model_file.embed(".onnx", model.SerializeToString(), CARD))
    assert [p.key for p in model.metadata_props] == ["author", "later", cards.KEY]


@pytest.mark.parametrize("card", [CARD, OTHER, replace(CARD, model="wrens")])
def test_safetensors_loads_elsewhere_and_stays_aligned(tmp_path, card):
    path = tmp_path / "m.safetensors"
    data = safetensors.numpy.save(TENSORS, {"format": "pt"})
    model_file.save(path, data, card)
    assert struct.unpack_from("<Q", path.read_bytes())[0] % 8 == 0
    with safetensors.safe_open(path, "numpy") as opened:
        assert opened.metadata() == {"format": "pt", cards.KEY: card.to_json()}
        assert {name: opened.get_tensor(name).tolist() for name in opened.keys()} == {  # noqa: SIM118
            name: value.tolist() for name, value in TENSORS.items()
        }


def test_tflite_grows_at_its_end_only_and_keeps_other_files():
    model = io.BytesIO(MODELS[".tflite"])
    with zipfile.ZipFile(model, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    data = model_file.embed(".tflite", model_file.embed(".tflite", model.getvalue(), OTHER), CARD)
    assert data.startswith(MODELS[".tflite"])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {n: archive.read(n).decode() for n in archive.namelist()} == {
            "labels.txt": "cat\ndog\n",
            cards.ENTRY: CARD.to_json(),
        }


# --- damage


@pytest.mark.parametrize(
    ("suffix", "data", "text"),
    [
        (".onnx", b"", "is empty; expected an ONNX model$"),
        (".onnx", b"hello, world", "not an ONNX model, or a truncated one"),
        (".onnx", b"\x08\x0a", r"not an ONNX model, or a truncated one \(no graph in it\)$"),
        (".onnx", b"\x08" + b"\xff" * 12, "more than 64 bit"),
        (".safetensors", b"\x00" * 7, "not a safetensors file, or a truncated one"),
        (".safetensors", struct.pack("<Q", 2**60) + b"{}", "a header of 1152921504606846976 bytes in a file of 10"),
        (".safetensors", struct.pack("<Q", 2) + b"{}more", "4 bytes of tensors, expected 0"),
        (".safetensors", struct.pack("<Q", 100_000) + b"[" * 100_000, "not a safetensors file"),
        (".tflite", b"\x1c\x00\x00\x00TFL2more", r"not a TFLite model \(no TFL3 identifier\)"),
    ],
)
def test_what_is_no_model_is_named(tmp_path, suffix, data, text):
    with pytest.raises(BadInput, match=text):
        card_in(tmp_path, suffix, data)


def test_a_card_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "MAX_CARD_BYTES", 100)
    with pytest.raises(BadInput, match=r"the archive at its end is damaged \(a card of more than 100 bytes\)"):
        card_in(tmp_path, ".tflite", model_file.embed(".tflite", MODELS[".tflite"], CARD))


def test_another_kind_of_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"unknown model file type '\.onx'; did you mean '\.onnx'"):
        model_file.read_card(tmp_path / "m.onx")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", model_file.CODECS)
@given(data=st.data())
def test_no_damage_raises_anything_else(tmp_path_factory, suffix, data):
    whole = bytearray(model_file.embed(suffix, MODELS.get(suffix, b""), CARD))
    kind = data.draw(st.sampled_from(["cut", "flip", "both"]))
    if kind != "cut":
        for bit in data.draw(st.lists(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=3)):
            whole[bit // 8] ^= 1 << bit % 8
    if kind != "flip":
        del whole[data.draw(st.integers(1, len(whole) - 1)) :]
    card = None
    with suppress(BadInput):
        card = card_in(tmp_path_factory.getbasetemp(), suffix, bytes(whole))
    assert card is None or isinstance(card, Card)


@pytest.mark.parametrize("suffix", model_file.CODECS)
def test_no_truncation_keeps_its_card(tmp_path, suffix):
    whole = model_file.embed(suffix, MODELS.get(suffix, b""), CARD)
    for end in range(1, len(whole.rstrip())):
        with suppress(BadInput):
            assert card_in(tmp_path, suffix, whole[:end]) is None
