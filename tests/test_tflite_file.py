"""The flatbuffer of a TFLite file: what is written is read, what is damaged is named, nothing costs more than it."""

from __future__ import annotations

import io
import struct
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import tflite_files as made
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from lf.core import BadInput, Unavailable
from lf.formats import cards, model_file, tflite

MODEL, _ = made.heads("wren")
DATA = tflite.write(MODEL)


def changed(change):
    """The model with a change, as a file."""
    model, _ = made.heads("wren")
    change(model)
    return tflite.write(model)


def numbers(model):
    """Everything in a model, for comparison."""
    if isinstance(model, np.ndarray):
        return model.tolist()
    if isinstance(model, list):
        return [numbers(each) for each in model]
    return {k: numbers(v) for k, v in vars(model).items()} if hasattr(model, "__dict__") else model


# --- there and back


def test_what_is_written_is_read():
    model = tflite.read(DATA, "m")
    names = [tensor.name for tensor in model.subgraphs[0].tensors]
    assert names[:2] == [b"image", b"detector.weight"]
    kernel = model.buffers[model.subgraphs[0].tensors[1].buffer].data
    assert np.array_equal(kernel, MODEL.buffers[1].data)
    assert model.subgraphs[0].operators[0].builtinOptions.strideW == 8


def test_reading_and_writing_again_changes_nothing():
    first = tflite.read(DATA, "m")
    before = numbers(first)
    again = tflite.write(first)
    assert again == DATA
    assert numbers(first) == before
    assert numbers(tflite.read(again, "m")) == before


def test_constants_are_aligned_as_the_schema_asks():
    for buffer in MODEL.buffers:
        if buffer.data is not None:
            assert DATA.index(buffer.data.tobytes()) % 16 == 0


def test_a_card_and_what_else_is_appended_is_left_out():
    data = io.BytesIO(model_file.embed(".tflite", DATA, made.card("wren")))
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("labels.txt", "cat")
    assert tflite.without_archive(data.getvalue()) == DATA
    assert tflite.without_archive(DATA) == DATA
    assert numbers(tflite.read(data.getvalue(), "m")) == numbers(tflite.read(DATA, "m"))


def test_the_interpreter_takes_the_appended_card():
    interpreter = Interpreter(model_content=model_file.embed(".tflite", DATA, made.card("wren")))
    interpreter.allocate_tensors()
    assert [entry["name"] for entry in interpreter.get_output_details()] == ["detector", "descriptor"]


def test_a_damaged_archive_is_left_to_who_reads_cards():
    data = bytearray(model_file.embed(".tflite", DATA, made.card("wren")))
    data[data.rindex(b"PK\x01\x02") + 8] ^= 1  # its entry seems to be encrypted
    assert len(tflite.read(bytes(data), "m").subgraphs) == 1
    with pytest.raises(BadInput, match="the archive at its end is damaged"):
        cards.CODECS[".tflite"][0](bytes(data), "m")


def outside(model):
    """The layout of large models: constants behind the table, found by offset and size from the start of the file."""
    model, kept = tflite.read(tflite.write(model), "m"), [buffer.data for buffer in model.buffers]
    table = b""
    for _ in range(2):  # the first tells how long the table is
        tail, start = b"", len(table)
        for buffer, data in zip(model.buffers[1:], kept[1:], strict=True):
            buffer.data, buffer.offset, buffer.size = None, start + len(tail) + 2, len(data)
            tail += data.tobytes()
        builder = sys.modules["flatbuffers"].Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        table = bytes(builder.Output())
    return table + b"\0\0" + tail


def test_constants_outside_of_the_table_come_in():
    data = outside(MODEL)
    model = tflite.read(model_file.embed(".tflite", data, made.card("wren")), "m")
    assert [None if b.data is None else b.data.tolist() for b in model.buffers] == [
        None if b.data is None else b.data.tolist() for b in MODEL.buffers
    ]
    assert all(buffer.offset > 1 for buffer in model.buffers[1:])  # it tells that they were
    again = tflite.read(tflite.write(model), "m")
    assert all(buffer.offset == 0 for buffer in again.buffers)
    assert tflite.write(again) == DATA
    with pytest.raises(BadInput, match=r"a damaged TFLite model \(\d+ bytes at \d+ in a file of \d+\)"):
        tflite.read(data[:-1], "m")


# --- what is none


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", r"m: not a TFLite model \(no TFL3 identifier\)"),
        (DATA[:7], "no TFL3 identifier"),
        (b"\x08\x0a" + bytes(40), "no TFL3 identifier"),
        (DATA[:8], "a damaged TFLite model .*; make it again"),
        (DATA[:200], "a damaged TFLite model"),
        (struct.pack("<I", 2**32 - 8) + DATA[4:], "a damaged TFLite model"),
        (changed(lambda m: setattr(m, "version", 2)), "version 2 of the schema, expected 3"),
        (changed(lambda m: setattr(m, "subgraphs", [])), "no graph in it"),
    ],
)
def test_what_is_no_model_is_named(data, text):
    with pytest.raises(BadInput, match=text):
        tflite.read(data, "m")


def put(name, value, at=0, of="tensors"):
    return lambda model: setattr(getattr(model.subgraphs[0], of)[at], name, value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (put("buffer", 99, 1), "a tensor of an unknown buffer"),
        (put("shape", [1, -1, 24, 1]), "a tensor of negative size"),
        (put("shape", [1, 2**15, 2**15, 1]), "a tensor of 1073741824 values"),
        (put("shape", [65, 8, 8, 2], 1), "a constant of 4160 bytes for 8320 values of 1"),
        (put("name", b"\xff\xfe"), "'utf-8' codec can't decode"),
        (put("opcodeIndex", 7, 0, "operators"), "an operator of an unknown kind"),
        (put("inputs", [0, 1, 99], 0, "operators"), "a tensor of 7 that is not there"),
        (put("inputs", [0, 1, -2], 0, "operators"), "a tensor of 7 that is not there"),
        (put("outputs", [-1], 0, "operators"), "a tensor of 7 that is not there"),
        (lambda m: setattr(m.subgraphs[0], "outputs", [7]), "a tensor of 7 that is not there"),
        (put("quantization", schema.QuantizationParametersT(scale=[0.1, 0.2], zeroPoint=[0]), 1), "2 scales for 65"),
        (put("quantization", schema.QuantizationParametersT(scale=[np.nan], zeroPoint=[0])), "no positive number"),
        (put("sparsity", schema.SparsityParametersT(traversalOrder=[0]), 1), "sparse and variant tensors"),
        (put("builtinOptionsType", 111, 0, "operators"), "variables and composite operators"),
        (
            lambda m: setattr(
                m,
                "signatureDefs",
                [schema.SignatureDefT(inputs=[schema.TensorMapT(name=b"x", tensorIndex=9)], signatureKey=b"s")],
            ),
            "a signature of an unknown tensor",
        ),
    ],
)
def test_what_an_index_means_is_there(change, text):
    model, _ = made.heads("wren")
    change(model)
    for operator in model.subgraphs[0].operators:
        if operator.builtinOptionsType == 111:
            operator.builtinOptions = schema.VarHandleOptionsT(container=b"c", sharedName=b"s")
    with pytest.raises(BadInput, match=text):
        tflite.read(tflite.write(model), "m")


def test_an_absent_input_of_an_operator_is_none_of_these():
    data = changed(put("inputs", [0, 1, -1], 0, "operators"))
    assert tflite.read(data, "m").subgraphs[0].operators[0].inputs.tolist() == [0, 1, -1]


def test_tables_that_are_shared_without_end_cost_nothing():
    """Many graphs that are one: a small file that would unpack to gigabytes."""
    flatbuffers = pytest.importorskip("flatbuffers")
    count, builder = 3000, flatbuffers.Builder(1024)
    name = builder.CreateString(b"n" * 100_000)
    schema.TensorStart(builder)
    schema.TensorAddName(builder, name)
    tensor = schema.TensorEnd(builder)
    schema.SubGraphStartTensorsVector(builder, count)
    for _ in range(count):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, count)
    for _ in range(count):
        builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    data = bytes(builder.Output())
    start = time.process_time()
    tracemalloc.start()
    with pytest.raises(BadInput, match=r"a damaged TFLite model \(its tables overlap\)"):
        tflite.read(data, "m")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - start < 2
    assert peak < 10 * len(data)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_damage_raises_anything_else(data):
    damaged = bytearray(DATA)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255, damaged[at] ^ 1]))
    cut = data.draw(st.integers(8, len(damaged))) if data.draw(st.booleans()) else len(damaged)
    try:
        model = tflite.read(bytes(damaged[:cut]), "m")
    except BadInput as error:
        assert str(error).startswith("m: ")  # noqa: PT017
    else:
        tflite.read(tflite.write(model), "m")


def test_without_the_package_it_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.schema_py_generated", None)
    with pytest.raises(
        Unavailable, match=r'reading .tflite files needs ai_edge_litert; type: pip install "lf-keypoints\[edge\]"'
    ):
        tflite.read(DATA, "m")
