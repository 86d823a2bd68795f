"""LiteRT on the CPU: known answers from files of integers, heads by name, heads of the host, files that are wrong."""

from __future__ import annotations

import gc
import resource
import sys
from dataclasses import replace

import numpy as np
import pytest
import tflite_files as made
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from two_threads import wrong_answers

from lf.core import BadInput, UsageError
from lf.extraction.extractor import Extractor
from lf.formats import model_file, tflite
from lf.models import MODELS
from lf.runtimes import open_session
from lf.runtimes.float_heads import host_heads
from lf.runtimes.tflite_signature import Port

SIZE = (64, 96)
R2D2_HOST = [
    {"head": "reliability", "input": "descriptor", "square": True, "weight": [[0.01] * 128], "bias": [0.5]},
    {"head": "repeatability", "input": "descriptor", "square": False, "weight": [[0.02] * 128], "bias": [-1]},
]


def picture(row, size=SIZE, seed=1):
    return np.random.default_rng(seed).random((1, MODELS[row].channels, *size), np.float32)


def opened(tmp_path, model, row="wren", **changes):
    return open_session(made.save(tmp_path / "m.tflite", model, row, SIZE, **changes), "tflite")


# --- known answers


@pytest.mark.parametrize("floats", [False, True], ids=["int8", "float32"])
@pytest.mark.parametrize("row", ["wren", "r2d2", "kp2dtiny-s-coral"])
def test_every_head_is_what_its_numbers_say(tmp_path, row, floats):
    model, answer = made.heads(row, SIZE, floats)
    maps, image = opened(tmp_path, model, row).run(picture(row)), picture(row)
    expected = answer(image)
    assert list(maps) == list(MODELS[row].heads)
    for head, value in maps.items():
        assert (value.shape, value.dtype) == (expected[head].shape, np.float32)
        assert value.flags.c_contiguous
        error = np.abs(value - expected[head])
        if floats:
            assert error.max() < 1e-5
        else:  # a tie may be rounded either way by the kernel, whose multipliers have 31 bits
            assert (error > 1e-5).mean() < 1e-3
            assert error.max() < 1.01 * 0.02 * (1 + list(maps).index(head))


def test_heads_are_known_by_name_and_never_by_place(tmp_path):
    maps = [opened(tmp_path, made.heads("wren", SIZE, order=order)[0]).run(picture("wren")) for order in (1, -1)]
    assert all(np.array_equal(maps[0][name], maps[1][name]) for name in MODELS["wren"].heads)


def tensor(dtype, scale=None, zero=None, shape=(1, 2, 3, 4)):
    graph = made.Graph()
    graph.tensor("t", shape, dtype, None if scale is None else (scale, zero))
    return tflite.read(tflite.write(graph.model), "m").subgraphs[0].tensors[0]


def test_levels_are_rounded_half_to_even_and_clipped():
    port = Port("m", 0, tensor(np.int8, 0.5, 3))
    values = np.array([0.25, 0.75, 1.25, -0.25, 1e9, -1e9, 0, 0.26], np.float32).reshape(1, 1, 2, 4)
    assert port.encode(values).ravel().tolist() == [3, 5, 5, 3, 127, -128, 3, 4]
    unsigned = Port("m", 0, tensor(np.uint8, 1 / 255, 0))
    image = np.array([0, 1, 0.4, 2, -1, 0.2, 0.9, 1 / 255], np.float32).reshape(1, 1, 2, 4)
    assert unsigned.encode(image).ravel().tolist() == [0, 255, 102, 255, 0, 51, 229, 1]


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 1e3), st.integers(-128, 127))
def test_every_level_survives_decoding_and_encoding(seed, scale, zero):
    port = Port("m", 0, tensor(np.int8, scale, zero))
    levels = np.random.default_rng(seed).integers(-128, 128, (1, 2, 3, 4)).astype(np.int8)
    values = port.decode(levels)
    assert values.shape == (1, 4, 2, 3)
    assert np.array_equal(port.encode(values), levels)
    assert values[0, 2, 1, 0] == (np.float32(levels[0, 1, 0, 2]) - zero) * np.float32(scale)


def test_a_session_says_what_runs(tmp_path):
    artifact = made.save(tmp_path / "m.tflite", made.heads("wren", SIZE)[0], "wren", SIZE)
    info = open_session(artifact, "tflite", threads=2).info
    assert (info.engine, info.provider, info.threads) == ("litert", "XNNPACK", 2)
    assert info.version[0].isdigit()
    assert info.notes == {"operators": {"CONV_2D": 2, "DELEGATE": 1}, "host_heads": []}


def test_the_engine_keeps_quiet(tmp_path, capfd):
    opened(tmp_path, made.heads("wren", SIZE)[0]).run(picture("wren"))
    print("still there", file=sys.stderr)
    assert capfd.readouterr().err == "still there\n"


def test_sessions_are_warm_and_leave_nothing_behind(tmp_path):
    artifact = made.save(tmp_path / "m.tflite", made.heads("wren", SIZE)[0], "wren", SIZE)
    image = picture("wren")
    before = image.copy()
    session = open_session(artifact, "tflite")
    first = {name: value.copy() for name, value in session.run(image).items()}
    second = session.run(picture("wren", seed=2))
    assert not np.array_equal(first["detector"], second["detector"])
    again = session.run(image)
    assert np.array_equal(image, before)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    peaks = []
    for _ in range(2):
        for _ in range(40):
            open_session(artifact, "tflite").run(image)
        gc.collect()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # kB
    assert peaks[1] - peaks[0] < 8_000  # a session that stays has some 200 kB and more


def test_threads_take_turns(tmp_path):
    session = opened(tmp_path, made.heads("wren", SIZE)[0])
    assert not wrong_answers(session, [picture("wren", seed=seed) for seed in range(2)], 200)


def test_an_extractor_runs_it(tmp_path):
    extractor = Extractor(made.save(tmp_path / "m.tflite", made.heads("wren", SIZE)[0], "wren", SIZE), "tflite")
    found = extractor(np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8))
    assert found.size == (192, 128)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)


# --- heads of the host


def r2d2(only=("descriptor",)):
    model, answer = made.heads("r2d2", SIZE)
    graph = model.subgraphs[0]
    graph.outputs = [index for index in graph.outputs if graph.tensors[index].name in only]
    return model, answer


def test_the_host_computes_what_the_file_leaves_to_it(tmp_path):
    model, _ = r2d2()
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((1, 128)), rng.standard_normal(1)
    steps = [{**step, "weight": weight.tolist(), "bias": bias.tolist()} for step in R2D2_HOST]
    session = opened(
        tmp_path, model, "r2d2", made=({"command": "a"}, {"command": "quantize", "host": steps}, {"command": "b"})
    )
    maps = session.run(picture("r2d2"))
    assert list(maps) == ["descriptor", "reliability", "repeatability"]
    x = maps["descriptor"].astype(np.float64)
    for head, value in {"reliability": x * x, "repeatability": x}.items():
        expected = np.einsum("oi,bihw->bohw", weight, value) + bias[:, None, None]
        assert maps[head].dtype == np.float32
        np.testing.assert_allclose(maps[head], expected, rtol=1e-4, atol=1e-3)
    assert session.info.notes["host_heads"] == ["reliability", "repeatability"]


def test_the_last_step_that_left_something_counts():
    steps = [{"command": "a", "host": R2D2_HOST}, {"command": "b", "host": R2D2_HOST[:1]}, {"command": "export"}]
    assert [head.name for head in host_heads(made.card("r2d2", made=steps), "m")] == ["reliability"]
    assert host_heads(made.card("r2d2"), "m") == ()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weight": [[1, 2], [3]]}, "the head of the host in its card is damaged"),
        ({"weight": [1, 2]}, r"weights \(2,\) and biases \(1,\)"),
        ({"bias": [1, 2]}, r"weights \(1, 128\) and biases \(2,\)"),
        ({"weight": [["a"] * 128]}, "the head of the host in its card is damaged"),
        ({"weight": [[float("nan")] * 128]}, "a weight that is no finite number"),
        ({"weight": [[1] * 64]}, r"tensor descriptor is \(1, 64, 96, 128\), head reliability needs \(1, 64, 96, 64\)"),
        ({"weight": [[1] * 128] * 2, "bias": [0, 0]}, "head reliability needs"),
        ({"head": "colour"}, "has the host compute colour, which is no head of r2d2"),
        ({"input": "trunk"}, r"has no tensor trunk for head reliability; its outputs: descriptor \(1, 64, 96, 128\)"),
        ({"square": None, "input": None}, "has no tensor None"),
    ],
)
def test_what_the_card_says_wrongly_of_the_host_is_named(tmp_path, change, text):
    steps = [{**R2D2_HOST[0], **change}, R2D2_HOST[1]]
    with pytest.raises(BadInput, match=text):
        opened(tmp_path, r2d2()[0], "r2d2", made=({"command": "quantize", "host": steps},))
    with pytest.raises(BadInput, match="the head of the host in its card is damaged"):
        opened(tmp_path, r2d2()[0], "r2d2", made=({"command": "quantize", "host": [{"head": "reliability"}]},))


# --- what does not fit


def put(name, value, at):
    def change(model):
        setattr(model.subgraphs[0].tensors[at], name, value)

    return change


def rule(scale, zero):
    return schema.QuantizationParametersT(scale=scale, zeroPoint=zero)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            put("name", b"other", 3),
            r"has no tensor detector for head detector; its outputs: other \(1, 8, 12, 65\), de",
        ),
        (put("shape", [1, 8, 12, 64], 3), r"tensor detector is \(1, 8, 12, 64\), head detector needs \(1, 8, 12, 65\)"),
        (put("shape", [1, 4, 12, 65], 3), r"tensor detector is \(1, 4, 12, 65\), head detector needs \(1, 8, 12, 65\)"),
        (put("shape", [8, 12, 65], 3), "head detector needs"),
        (
            put("shape", [1, 64, 96, 3], 0),
            r"has the inputs image \(1, 64, 96, 3\); its card says one, \(1, 64, 96, 1\)",
        ),
        (put("shape", [2, 64, 96, 1], 0), r"has the inputs image \(2, 64, 96, 1\); its card says one"),
        (put("type", 7, 3), "tensor detector has type 7; expected int8, uint8 or float32"),
        (put("quantization", None, 3), "tensor detector is int8 without one scale and zero point"),
        (put("quantization", rule([0.1] * 65, [0] * 65), 3), "a damaged TFLite model|without one scale"),
        (put("quantization", rule([0.0], [0]), 0), "tensor image is int8 without one scale"),
        (put("quantization", rule([0.1], [300]), 0), "tensor image is int8 without one scale"),
        (lambda m: setattr(m.subgraphs[0], "inputs", [0, 3]), "its card says one"),
        (lambda m: setattr(m.subgraphs[0], "inputs", []), "its card says one"),
        (lambda m: setattr(m.subgraphs[0], "outputs", []), "its outputs: none"),
        (lambda m: m.subgraphs.append(m.subgraphs[0]), "2 graphs in one file; expected one"),
        (lambda m: setattr(m.operatorCodes[0], "version", 99), "LiteRT cannot load it: .*CONV_2D"),
        (lambda m: setattr(m.subgraphs[0].operators[0], "inputs", [0]), "LiteRT cannot load it"),
    ],
)
def test_a_file_that_is_not_what_its_card_says_is_named(tmp_path, change, text):
    model, _ = made.heads("wren", SIZE)
    change(model)
    with pytest.raises(BadInput, match=rf"m\.tflite: .*({text})") as caught:
        opened(tmp_path, model)
    assert "\n" not in str(caught.value)


def test_a_card_with_impossible_strides_is_named(tmp_path):
    with pytest.raises(BadInput, match="head detector needs"):
        opened(tmp_path, made.heads("wren", SIZE)[0], outputs={"detector": (65, 0), "descriptor": (64, 8)})


@pytest.mark.parametrize("shape", [(1, 1, 64, 95), (2, 1, 64, 96), (1, 3, 64, 96), (64, 96), (1, 1, 96, 64)])
def test_another_size_or_batch_says_what_the_file_takes(tmp_path, shape):
    session = opened(tmp_path, made.heads("wren", SIZE)[0])
    with pytest.raises(BadInput, match=r"m\.tflite: takes one image of 64x96, \(1, 1, 64, 96\); got \(") as caught:
        session.run(np.zeros(shape, np.float32))
    assert str(caught.value).endswith(str(shape))


def test_another_operator_shape_than_declared_is_named(tmp_path):
    model, _ = made.heads("wren", SIZE)
    model.subgraphs[0].operators[1].builtinOptions.strideW = 16
    with pytest.raises(BadInput, match=r"tensor descriptor is \(1, 8, 6, 64\), declared as \(1, 8, 12, 64\)"):
        opened(tmp_path, model)


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_another_kind_of_file_is_named(tmp_path, suffix):
    artifact = made.save(tmp_path / "m.tflite", made.heads("wren", SIZE)[0], "wren", SIZE)
    with pytest.raises(
        UsageError, match=r"backend tflite runs \.tflite; make such a file with `quantize\(MODEL\.onnx, writer=tflite"
    ):
        open_session(replace(artifact, path=tmp_path / f"m{suffix}"), "tflite")


WHOLE = tflite.write(made.heads("wren")[0])
CONSTANTS = [(WHOLE.index(b.data.tobytes()), len(b.data)) for b in made.heads("wren")[0].buffers if b.data is not None]
TABLE = [at for at in range(len(WHOLE)) if not any(start <= at < start + size for start, size in CONSTANTS)]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_to_the_table_reaches_the_interpreter(tmp_path_factory, data):
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(TABLE))
        damaged[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255, damaged[at] ^ 1]))
    path = tmp_path_factory.getbasetemp() / "damaged.tflite"
    path.write_bytes(model_file.embed(".tflite", bytes(damaged), made.card("wren")))
    try:
        artifact = model_file.load(path)
        open_session(artifact, "tflite").run(np.zeros((1, 1, *made.SIZE), np.float32))
    except BadInput:
        pass
