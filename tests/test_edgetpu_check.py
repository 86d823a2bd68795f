"""Edge TPU check: a tiny file for every rule, which breaks only that rule; repaired and damaged files."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tflite_files import Graph, compiled, heads, save

from lf.cli import check as command
from lf.core import BadInput, GateFailed, UsageError, files
from lf.edgetpu import fix, groups, operators
from lf.edgetpu import rules as edgetpu_rules
from lf.edgetpu.check import examine
from lf.formats import model_file, tflite
from lf.runtimes import litert

flatbuffers = pytest.importorskip("flatbuffers")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

RULE = 0.5, 3  # scale and zero point of an activation
IMAGE = 1, 8, 12, 4
INT32 = np.int32


def said(model):
    """The report on a model."""
    return examine(tflite.write(model), "m.tflite")


def only(model):
    """The verdict on its one operator."""
    (found,) = said(model).operators
    return found


def operator(name, version=1, *, image=IMAGE, result=None, constants=(), front=(), options=None, **changes):
    """A file of one operator. constants: (shape, dtype, rule, values) behind its input, `front` before it."""
    graph, code = Graph(), getattr(schema.BuiltinOperator, name)
    rules = changes.get("rule", RULE), changes.get("result_rule", changes.get("rule", RULE))
    dtype, result_dtype = changes.get("dtype", np.int8), changes.get("result_dtype", changes.get("dtype", np.int8))
    before = [graph.tensor(f"front{i}", s, d, r, v) for i, (s, d, r, v) in enumerate(front)]
    x = graph.tensor("x", image, dtype, rules[0])
    more = [graph.tensor(f"constant{i}", s, d, r, v) for i, (s, d, r, v) in enumerate(constants)]
    y = graph.tensor("y", result or image, result_dtype, rules[1])
    kind = 0 if options is None else getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    graph.operator(code, version, [*before, x, *more], [y], kind, options, changes.get("custom"))
    free = [i for i in (*before, *more) if not graph.graph.tensors[i].buffer]
    graph.graph.inputs, graph.graph.outputs = [x, *free], [y]
    return graph.model


def kernel(shape, zero=0, scales=None, axis=0, dtype=np.int8, bias=INT32, values=True):
    """Constants of a convolution: weights, then bias."""
    channels = scales or shape[axis]
    rule = None if dtype == np.float32 else (np.full(channels, 0.01), np.full(channels, zero))
    numbers = np.arange(np.prod(shape)).reshape(shape) % 7 if values else None
    return [(shape, dtype, rule, numbers), ((shape[axis],), bias, None, np.zeros(shape[axis]))]


def conv(version=3, image=IMAGE, dilation=(1, 1), options=True, **weights):
    """CONV_2D with 8 channels."""
    chosen = schema.Conv2DOptionsT(strideH=1, strideW=1, dilationHFactor=dilation[0], dilationWFactor=dilation[1])
    constants = kernel((8, 3, 3, image[-1]), **weights)
    return operator("CONV_2D", version, image=image, result=(*image[:-1], 8), constants=constants, options=chosen)


def conv_along(axis, name="CONV_2D"):
    """A convolution with scales along a dimension; all dimensions of the weights are equal."""
    model = operator(name, 3, image=(1, 8, 8, 8), constants=kernel((8, 8, 8, 8)))
    model.subgraphs[0].tensors[1].quantization.quantizedDimension = axis
    return model


def depthwise(y=1, x=1):
    """DEPTHWISE_CONV_2D."""
    options = schema.DepthwiseConv2DOptionsT(strideH=1, strideW=1, dilationHFactor=y, dilationWFactor=x)
    constants = kernel((1, 3, 3, 4), axis=3)
    model = operator("DEPTHWISE_CONV_2D", 3, constants=constants, options=options)
    model.subgraphs[0].tensors[1].quantization.quantizedDimension = 3
    return model


def transposed_conv(version=3, scales=1):
    """TRANSPOSE_CONV, twice the size."""
    size = ((4,), INT32, None, [1, 16, 24, 8])
    weights, bias = kernel((8, 2, 2, 4), scales=scales)
    return operator("TRANSPOSE_CONV", version, result=(1, 16, 24, 8), front=[size, weights], constants=[bias])


def dense(shuffled=0, rows=1, scales=1):
    """FULLY_CONNECTED."""
    options = schema.FullyConnectedOptionsT(weightsFormat=shuffled)
    constants = kernel((8, 4), scales=scales)
    return operator("FULLY_CONNECTED", 4, image=(rows, 4), result=(rows, 8), constants=constants, options=options)


def pool(fused=0, name="MAX_POOL_2D", result_rule=RULE):
    """A pooling of 2x2."""
    options = schema.Pool2DOptionsT(strideH=2, strideW=2, filterHeight=2, filterWidth=2, fusedActivationFunction=fused)
    return operator(name, 2, result=(1, 4, 6, 4), options=options, result_rule=result_rule)


def concatenated(values=(), shared=RULE, fused=0):
    """CONCATENATION of an image and constants, one of each of `values`."""
    constants = [(IMAGE, np.int8, shared, np.full(IMAGE, value)) for value in values] or [(IMAGE, np.int8, RULE, None)]
    options = schema.ConcatenationOptionsT(axis=3, fusedActivationFunction=fused)
    channels = 4 + 4 * len(constants)
    return operator("CONCATENATION", 2, result=(1, 8, 12, channels), constants=constants, options=options)


def squashed(name, rule, dtype=np.int8):
    """LOGISTIC or TANH with this output."""
    return operator(name, 2, dtype=dtype, result_rule=rule)


def reduced(name="MEAN", axes=(1, 2), image=IMAGE, constant=True):
    """A reduction that keeps the dimensions."""
    over = [axis % len(image) for axis in axes]
    result = tuple(1 if i in over else size for i, size in enumerate(image))
    given = ((len(axes),), INT32, None, list(axes) if constant else None)
    return operator(name, 2, image=image, result=result, constants=[given], options=schema.ReducerOptionsT(True))


def padded(amounts=((0, 0), (1, 1), (1, 1), (0, 0))):
    """PAD."""
    result = tuple(size + sum(pair) for size, pair in zip(IMAGE, amounts, strict=True))
    return operator("PAD", 2, result=result, constants=[((4, 2), INT32, None, amounts)])


def packed(axis=1, count=2):
    """PACK of tensors of (12, 4), of (8, 12, 4) where it makes a batch."""
    image = (8, 12, 4) if axis == 0 else (12, 4)
    others = [(image, np.int8, RULE, None)] * (count - 1)
    options = schema.PackOptionsT(count, axis)
    result = (*image[:axis], count, *image[axis:])
    return operator("PACK", 2, image=image, result=result, constants=others, options=options)


def prelu(shape=(1, 1, 4)):
    """PRELU with slopes of a shape."""
    return operator("PRELU", 1, constants=[(shape, np.int8, (0.01, 0), np.ones(shape))])


def resized(name="RESIZE_NEAREST_NEIGHBOR", version=2, size=(16, 24), image=IMAGE, **options):
    """A resize with aligned corners or half-pixel centres by `options`."""
    kind = {"RESIZE_NEAREST_NEIGHBOR": schema.ResizeNearestNeighborOptionsT}.get(name, schema.ResizeBilinearOptionsT)
    constants = [((2,), INT32, None, list(size))]
    result = (image[0], *size, image[-1])
    return operator(name, version, image=image, result=result, constants=constants, options=kind(**options))


def reshaped(image=(1, 4, 4, 4), result=(1, 2, 8, 4)):
    """RESHAPE."""
    return operator("RESHAPE", 1, image=image, result=result, constants=[((4,), INT32, None, list(result))])


def squeezed(image=(1, 1, 8, 4), result=(8, 4)):
    """SQUEEZE."""
    return operator("SQUEEZE", 1, image=image, result=result)


def added(shape=IMAGE):
    """ADD of two tensors."""
    return operator("ADD", 2, constants=[(shape, np.int8, RULE, None)])


def added_constant():
    """ADD of a float constant."""
    return operator("ADD", 2, constants=[(IMAGE, np.float32, None, np.ones(IMAGE))])


def strided(strides=(1, 1, 1, 1), **masks):
    """STRIDED_SLICE of all there is."""
    constants = [((4,), INT32, None, values) for values in ([0, 0, 0, 0], list(IMAGE), list(strides))]
    return operator("STRIDED_SLICE", 2, constants=constants, options=schema.StridedSliceOptionsT(**masks))


def transposed(order=(0, 2, 1, 3), image=IMAGE):
    """TRANSPOSE."""
    result = tuple(image[i] for i in order)
    return operator("TRANSPOSE", 2, image=image, result=result, constants=[((len(order),), INT32, None, order)])


def split(axis=3):
    """SPLIT into one."""
    return operator("SPLIT", 2, front=[((1,), INT32, None, [axis])])


def dynamic():
    """A convolution of images of any height."""
    model = conv()
    model.subgraphs[0].tensors[0].shapeSignature = [1, -1, 12, 4]
    return model


def second_graph():
    """A file with a graph more than it needs."""
    model = conv()
    model.subgraphs = [model.subgraphs[0], schema.SubGraphT(tensors=[], operators=[], inputs=[], outputs=[], name=b"b")]
    return model


def chain(*names, parallel=()):
    """A file of operators that keep shape and scale, each after the one before; `parallel` ones read the input."""
    graph = Graph()
    x = last = graph.tensor("x", IMAGE, np.int8, RULE)
    outputs = []
    for i, name in enumerate(names):
        made = graph.tensor(f"t{i}", IMAGE, np.int8, RULE)
        graph.operator(getattr(schema.BuiltinOperator, name), 1, [x if i in parallel else last], [made])
        last = made
        outputs = [made] if i not in parallel else [*outputs, made]
    graph.graph.inputs, graph.graph.outputs = [x], outputs
    return graph.model


SOUND = {  # operator -> a file of it that maps, as far as anything is promised
    "ADD": added(),
    "AVERAGE_POOL_2D": pool(name="AVERAGE_POOL_2D"),
    "CONCATENATION": concatenated(),
    "CONV_2D": conv(),
    "DEPTHWISE_CONV_2D": depthwise(),
    "EXPAND_DIMS": operator("EXPAND_DIMS", image=(8, 12, 4), result=IMAGE, constants=[((1,), INT32, None, [0])]),
    "FULLY_CONNECTED": dense(),
    "L2_NORMALIZATION": operator("L2_NORMALIZATION", 2, result_rule=(1 / 128, 0)),
    "LOGISTIC": squashed("LOGISTIC", (1 / 256, -128)),
    "MAX_POOL_2D": pool(),
    "MAXIMUM": operator("MAXIMUM", 2, constants=[(IMAGE, np.int8, RULE, None)]),
    "MEAN": reduced(),
    "MINIMUM": operator("MINIMUM", 2, constants=[(IMAGE, np.int8, RULE, None)]),
    "MUL": operator("MUL", 2, constants=[(IMAGE, np.int8, (0.1, 0), None)]),
    "PACK": packed(),
    "PAD": padded(),
    "PRELU": prelu(),
    "QUANTIZE": operator("QUANTIZE", 2, result_rule=(0.25, 1)),
    "REDUCE_MAX": reduced("REDUCE_MAX"),
    "REDUCE_MIN": reduced("REDUCE_MIN"),
    "RELU": operator("RELU", 2),
    "RELU6": operator("RELU6", 2),
    "RELU_N1_TO_1": operator("RELU_N1_TO_1", 1),
    "RESHAPE": reshaped(),
    "SQUARED_DIFFERENCE": operator("SQUARED_DIFFERENCE", 2, constants=[(IMAGE, np.int8, RULE, None)]),
    "SQUEEZE": squeezed(),
    "SUB": operator("SUB", 2, constants=[(IMAGE, np.int8, RULE, None)]),
    "SUM": reduced("SUM"),
    "TANH": squashed("TANH", (1 / 128, 0)),
    "TRANSPOSE_CONV": transposed_conv(),
}

UNPROMISED = {  # supported, but whether a given one maps is not known
    "RESIZE_BILINEAR": (resized("RESIZE_BILINEAR"), "resize", "D"),
    "RESIZE_NEAREST_NEIGHBOR": (resized(), "resize", "D"),
    "RSQRT": (operator("RSQRT", 2), "operator", "K"),
    "SLICE": (operator("SLICE", 2, constants=[((4,), INT32, None, v) for v in ([0] * 4, IMAGE)]), "operator", "K"),
    "SOFTMAX": (operator("SOFTMAX", 2, image=(1, 16), result_rule=(1 / 256, -128)), "operator", "K"),
    "SPACE_TO_DEPTH": (operator("SPACE_TO_DEPTH", 2, result=(1, 4, 6, 16)), "operator", "K"),
    "SPLIT": (split(), "operator", "K"),
    "STRIDED_SLICE": (strided(), "operator", "K"),
    "TRANSPOSE": (transposed(), "operator", "K"),
    "LSTM": (operator("LSTM", 3), "operator", "K"),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (operator("UNIDIRECTIONAL_SEQUENCE_LSTM", 2), "operator", "K"),
}

BROKEN = [  # what is broken, state, rule, source, words of the reason
    (conv(dilation=(2, 1)), "cpu", "option", "D", "dilation 2 in y and 1 in x, expected the same"),
    (depthwise(y=1, x=3), "cpu", "option", "D", "dilation 1 in y and 3 in x"),
    (conv(zero=5), "cpu", "weights", "D", "have zero point 5"),
    (conv_along(3), "cpu", "weights", "D", "along dimension 3"),
    (conv_along(0, "DEPTHWISE_CONV_2D"), "cpu", "weights", "D", "along dimension 0"),
    (transposed_conv(scales=8), "uncertain", "weights", "D", "its weights have a scale per channel"),
    (dense(scales=8), "uncertain", "weights", "D", "its weights have a scale per channel"),
    (conv(values=False), "cpu", "constant", "D", "its weights are no constant"),
    (added_constant(), "cpu", "data-type", "D", "a constant is FLOAT32"),
    (conv(bias=np.float32), "cpu", "data-type", "D", "its bias is FLOAT32, expected INT32"),
    (conv(bias=np.int8), "cpu", "data-type", "D", "its bias is INT8, expected INT32"),
    (conv(dtype=np.float32), "cpu", "data-type", "D", "its weights are FLOAT32, expected INT8"),
    (
        operator("RELU", 2, dtype=np.float32, rule=None),
        "cpu",
        "data-type",
        "D",
        "an activation is FLOAT32, expected INT8 or UINT8",
    ),
    (operator("RELU", 2, dtype=np.int32, rule=None), "cpu", "data-type", "D", "an activation is INT32"),
    (operator("RELU", 2, rule=None), "cpu", "quantization", "D", "x has no scale"),
    (operator("RELU", 2, rule=([0.5] * 4, [0] * 4), image=(4, 4)), "cpu", "quantization", "D", "x has 4 scales"),
    (conv(image=(2, 8, 12, 4)), "cpu", "rank", "D", "x 2x8x12x4 has batch 2"),
    (operator("RELU", 2, image=(1, 2, 3, 4, 5)), "cpu", "rank", "D", "before its last 3"),
    (dynamic(), "cpu", "dynamic-shape", "D", "x has a size that is not fixed"),
    (pool(fused=1), "cpu", "option", "D", "an activation function is fused"),
    (pool(fused=1, name="AVERAGE_POOL_2D"), "cpu", "option", "D", "an activation function is fused"),
    (pool(result_rule=(0.25, 3)), "uncertain", "scales", "M", "x and y have not the same scale and zero point"),
    (concatenated(fused=1), "cpu", "option", "D", "an activation function is fused"),
    (concatenated(values=[7]), "cpu", "option", "D", "more than zeros beside one other input"),
    (concatenated(values=[3, 3]), "cpu", "option", "D", "more than zeros beside one other input"),
    (concatenated(values=[9], shared=(0.25, 9)), "uncertain", "scales", "M", "have not the same scale"),
    (pool(result_rule=(0.5, 4)), "uncertain", "scales", "M", "x and y have not the same scale and zero point"),
    (dense(shuffled=1), "cpu", "option", "D", "its weights are shuffled"),
    (dense(rows=2), "cpu", "option", "D", "its output 2x8 has more than one dimension"),
    (squashed("LOGISTIC", (1 / 255, -128)), "cpu", "option", "D", "expected 1/256 and -128"),
    (squashed("TANH", (1 / 128, 1)), "cpu", "option", "D", "expected 1/128 and 0"),
    (reduced(axes=(0, 1)), "cpu", "option", "D", "it reduces the batch"),
    (reduced(axes=(-4,)), "cpu", "option", "D", "it reduces the batch"),
    (
        reduced(axes=(3,), image=(1, 8, 12, 6)),
        "cpu",
        "option",
        "D",
        "the mean over 6 channels, expected a multiple of 4",
    ),
    (reduced(constant=False), "cpu", "constant", "D", "its axes are no constant"),
    (padded(((1, 0), (1, 1), (1, 1), (0, 0))), "cpu", "rank", "D", "y 2x10x14x4 has batch 2"),
    (packed(axis=0, count=1), "cpu", "option", "D", "it packs along the batch"),
    (prelu((8, 12, 4)), "cpu", "option", "D", "alpha 8x12x4 has more than one dimension"),
    (resized(halfPixelCenters=True, version=3), "cpu", "version", "I", "version 3, an int8 network needs 2 at most"),
    (resized(halfPixelCenters=True), "cpu", "resize", "I", "half_pixel_centers is true"),
    (resized("RESIZE_BILINEAR", halfPixelCenters=True), "cpu", "resize", "I", "half_pixel_centers is true"),
    (reshaped((1, 64, 64, 32), (1, 32, 64, 64)), "uncertain", "option", "D", "of 0.12 MiB: large ones may stay"),
    (squeezed((5, 1, 10), (5, 10)), "uncertain", "option", "K", "5x1x10 to 5x10 drops more than leading dimensions"),
    (added((1, 1, 1, 4)), "uncertain", "broadcast", "K", "its operands are 1x8x12x4 and 1x1x1x4"),
    (transposed((3, 1, 2, 0), (1, 8, 12, 1)), "cpu", "option", "I", "has more than 3 dimensions to move"),
    (transposed((0, 1, 2, 3, 4), (1, 1, 8, 12, 4)), "cpu", "option", "I", "more than 3 dimensions to move"),
    (operator("RELU", 2, image=(1, 512, 512, 17)), "uncertain", "size", "K", "an activation 1x512x512x17 is 4.25 MiB"),
    (
        operator("RELU", 2, image=(1, 512, 512, 33)),
        "uncertain",
        "size",
        "K",
        "unlikely: an activation 1x512x512x33 is 8.25 MiB",
    ),
    (operator("RELU", 3), "uncertain", "version", "K", "version 3, an int8 network needs 2 at most"),
    (second_graph(), "uncertain", "graphs", "K", "the file has 2 graphs"),
    *((operator(name, 1), "cpu", "operator", "D", "not supported; ") for name in operators.OTHERS),
    (operator("FLOOR_DIV", 1), "cpu", "operator", "D", "not supported"),
    (operator("CUSTOM", 1, custom=b"Mfcc"), "cpu", "custom", "D", "custom operator Mfcc"),
]


def name_of(value):
    """Return a name for the ids of parameters."""
    return value if isinstance(value, str) else None


@pytest.mark.parametrize("name", operators.OPERATORS)
def test_every_operator_of_the_table_maps_within_its_limits(name):
    if name in UNPROMISED:
        model, rule, source = UNPROMISED[name]
        found = only(model)
        assert (found.name, found.state, found.rule, found.source) == (name, "uncertain", rule, source)
    else:
        found = only(SOUND[name])
        assert (found.name, found.state, found.rule, found.reason) == (name, "maps", "", "")


@pytest.mark.parametrize(("model", "state", "rule", "source", "reason"), BROKEN, ids=name_of)
def test_each_rule_is_broken_by_a_file_of_its_own(model, state, rule, source, reason):
    found = only(model)
    assert (found.state, found.rule, found.source) == (state, rule, source)
    assert reason in found.reason


def test_every_rule_has_a_test():
    elsewhere = {"outside", "region", "file", "compiled"}
    assert {rule for _, _, rule, _, _ in BROKEN} | elsewhere == set(edgetpu_rules.RULES)


def test_the_documentation_names_every_rule_and_operator():
    text = (Path(__file__).parents[1] / "docs" / "how-to" / "coral.md").read_text()
    for name in (*edgetpu_rules.RULES, *operators.OPERATORS, *operators.OTHERS):
        assert f"`{name}`" in text
    for source, meaning in edgetpu_rules.SOURCES.items():
        assert f"| {source} | {meaning}" in text


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (conv(version=6), "CONV_2D version 6, the compiler knows up to 5; the option fix repairs it"),
        (transposed_conv(version=4), "TRANSPOSE_CONV version 4, the compiler knows up to 3"),
        (operator("QUANTIZE", 3), "QUANTIZE version 3, the compiler knows up to 2"),
        (operator("EXP", 2), "EXP version 2, the compiler knows up to 1"),
        (operator("GELU", 1), "GELU came after TensorFlow 2.6"),
        (operator("CUSTOM", 1, custom=b"Atan"), "custom operator Atan"),
    ],
)
def test_a_file_that_the_compiler_cannot_read_maps_nowhere(model, reason):
    report = said(model)
    assert report.rejected == (reason,)
    assert report.counts == {"maps": 0, "uncertain": 0, "cpu": 1}
    assert report.subgraphs == 0


def test_a_rejected_file_takes_its_sound_operators_along():
    model = chain("RELU", "RELU6")
    model.operatorCodes[1].version = 9
    first, second = said(model).operators
    assert (first.state, first.rule) == (second.state, second.rule) == ("cpu", "file")
    assert first.reason == "the compiler cannot read the file: RELU6 version 9, the compiler knows up to 3"


def test_general_knowledge_never_sends_an_operator_to_the_cpu():
    for source in edgetpu_rules.SOURCES:
        state = edgetpu_rules.refused("rank", source, "").state
        assert state == ("cpu" if source in "DIS" else "uncertain")


def states(model):
    """State and rule of every operator."""
    return [(found.state, found.rule) for found in said(model).operators]


def test_behind_an_operator_on_the_cpu_all_stay_there():
    report = said(chain("RELU", "RELU6", "LEAKY_RELU", "RELU", "RELU6"))
    assert [each.state for each in report.operators] == ["maps", "maps", "cpu", "cpu", "cpu"]
    assert report.operators[3].rule == "region"
    assert report.operators[3].reason == "behind LEAKY_RELU at 2: more than one subgraph is not supported"
    assert (report.prefix, report.subgraphs) == (2, 2)
    assert report.first.name == "LEAKY_RELU"


def test_what_does_not_wait_for_the_cpu_is_uncertain():
    # two branches: the documentation ends the region at the first operator on the CPU, TFLite's partitioning does not
    report = said(chain("RELU", "ELU", "RELU6", parallel=(2,)))
    assert [(each.state, each.rule) for each in report.operators] == [
        ("maps", ""),
        ("cpu", "operator"),
        ("uncertain", "region"),
    ]
    assert (report.prefix, report.subgraphs) == (1, 1)


def test_float_ends_stay_on_the_cpu_and_the_rest_maps():
    graph = Graph()
    x, q = graph.tensor("x", IMAGE, np.float32), graph.tensor("q", IMAGE, np.int8, RULE)
    r, y = graph.tensor("r", IMAGE, np.int8, RULE), graph.tensor("y", IMAGE, np.float32)
    graph.graph.inputs, graph.graph.outputs = [x], [y]
    graph.operator(114, 1, [x], [q])
    graph.operator(19, 2, [q], [r])
    graph.operator(6, 2, [r], [y])
    assert states(graph.model) == [("cpu", "data-type"), ("maps", ""), ("cpu", "operator")]


def test_memory_is_counted():
    model = conv()
    report = said(model)
    assert report.parameter_bytes == 8 * 3 * 3 * 4 + 8 * 4
    assert report.parameters == "fits"
    assert (report.activation_bytes, report.largest) == (8 * 12 * 8, ("y", (1, 8, 12, 8)))
    assert report.activation == "fine"


@pytest.mark.parametrize(("mebibytes", "verdict"), [(6, "fits"), (7, "tight"), (9, "streams")])
def test_parameters_beyond_the_chip_are_streamed(mebibytes, verdict):
    shape = (256, 4, 4, 256 * mebibytes)
    constants = [(shape, np.int8, (0.1, 0), np.zeros(shape))]
    report = said(operator("CONV_2D", 3, image=(1, 4, 4, 256), result=(1, 4, 4, 256), constants=constants))
    assert (report.parameter_bytes, report.parameters) == (mebibytes << 20, verdict)


def test_a_buffer_that_two_tensors_share_counts_once():
    model = chain("MUL", "MUL")
    model.buffers.append(schema.BufferT(data=np.zeros(4, np.uint8)))
    for each in model.subgraphs[0].operators:
        model.subgraphs[0].tensors.append(
            schema.TensorT(
                name=b"c", shape=[4], type=9, buffer=1, quantization=schema.QuantizationParametersT([], [], [0.5], [0])
            )
        )
        each.inputs = [*each.inputs, len(model.subgraphs[0].tensors) - 1]
    assert said(model).parameter_bytes == 4


def test_a_compiled_file_is_reported_as_such(tmp_path, capsys):
    path = tmp_path / "m_edgetpu.tflite"
    save(path, compiled("wren"), "wren")
    report = examine(path.read_bytes(), str(path))
    assert report.compiled
    assert [(each.name, each.state, each.rule) for each in report.operators] == [
        ("edgetpu-custom-op", "maps", "compiled")
    ]
    command.check(path, require="mapped")
    assert "compiled already" in capsys.readouterr().out


def test_what_the_compiler_left_on_the_cpu_is_said():
    model = chain("CUSTOM", "RELU")
    model.operatorCodes[0].customCode = litert.COMPILED.encode()
    report = said(model)
    assert [(each.state, each.rule) for each in report.operators] == [("maps", "compiled"), ("cpu", "compiled")]
    assert report.first.reason == "the compiler left it on the CPU"


# --- the command ---


def written(tmp_path, model, name="m.tflite"):
    """The file of a model, without a card."""
    return files.write_bytes(tmp_path / name, tflite.write(model))


def test_a_foreign_file_is_welcome_and_shown(tmp_path, capsys):
    path = written(tmp_path, chain("RELU", "LEAKY_RELU", "RELU"))
    command.check(path)
    out = capsys.readouterr().out
    assert "a prediction for edgetpu_compiler 16.0.384591198, nothing was compiled" in out
    assert "3 operators: 1 map, 0 uncertain, 2 cpu; 1 before the first on the CPU; Edge TPU subgraphs: 2" in out
    assert "operator [D]" in out
    assert "train with RELU or PRELU" in out
    assert "sources: D Coral's documentation" in out


def test_a_float_file_is_told_what_it_lacks(tmp_path, capsys):
    command.check(written(tmp_path, operator("RELU", 2, dtype=np.float32, rule=None)))
    assert "not of 8 bits; quantize it for TFLite" in capsys.readouterr().out
    command.check(written(tmp_path, conv()))
    assert "lf quantize" not in capsys.readouterr().out


def test_json_is_one_object(tmp_path, capsys):
    path = written(tmp_path, resized())
    command.check(path, json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"maps": 0, "uncertain": 1, "cpu": 0}
    assert found["prediction"] is True
    assert found["operators"][0]["rule"] == "resize"
    assert found["file"] == str(path)


def test_required_to_map_it_fails_and_names_the_first(tmp_path, capsys):
    path = written(tmp_path, chain("RELU", "LEAKY_RELU", "RELU"))
    text = r"2 of 3 operators stay on the CPU, the first is LEAKY_RELU at 1: not supported; .* \(rule operator\)"
    with pytest.raises(GateFailed, match=text) as error:
        command.check(path, require="mapped")
    assert error.value.exit_code == 3
    assert "LEAKY_RELU" in capsys.readouterr().out
    command.check(written(tmp_path, conv()), require="mapped")
    command.check(written(tmp_path, resized()), require="mapped")  # uncertain is not the CPU


def test_unknown_words_are_answered(tmp_path):
    path = written(tmp_path, conv())
    with pytest.raises(UsageError, match="unknown target 'edgetpuu'; did you mean 'edgetpu'"):
        command.check(path, target="edgetpuu")
    with pytest.raises(UsageError, match="unknown requirement 'maped'; did you mean 'mapped'"):
        command.check(path, require="maped")
    with pytest.raises(UsageError, match=r"type both: --fix -o FILE\.tflite"):
        command.check(path, fix=True)
    with pytest.raises(UsageError, match="type both"):
        command.check(path, output=tmp_path / "out.tflite")


@pytest.mark.parametrize("name", ["wren", "wren.onnx"])
def test_other_files_are_answered_with_how_to_make_a_tflite_file(name):
    with pytest.raises(UsageError, match=f"^{name}: expected a .tflite file; type: lf quantize {name} --for tflite"):
        command.check(Path(name))


def test_what_is_no_model_is_named(tmp_path):
    for name, data, text in (
        ("text.tflite", b"hello, I am a text file", "not a TFLite model"),
        ("empty.tflite", b"", "is empty"),
        ("none.tflite", tflite.write(Graph().model), "without an operator"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BadInput, match=text):
            command.check(path)
    with pytest.raises(BadInput, match="no such file"):
        command.check(tmp_path / "absent.tflite")


DAMAGED = tflite.write(chain("RELU", "LEAKY_RELU", "RELU6", parallel=(2,))), tflite.write(resized(size=(16, 24)))


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_ends_in_a_report_or_in_bad_input(data):
    whole = data.draw(st.sampled_from(DAMAGED))
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadInput):
        report = examine(bytes(content), "m.tflite")
        assert sum(report.counts.values()) == len(report.operators)
        json.dumps(report.as_dict(), allow_nan=False)


# --- mending ---


def outside(model):
    """The file of a model with its constants behind the table."""

    def pack():
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    constants = [
        (buffer, np.asarray(buffer.data, np.uint8).tobytes()) for buffer in model.buffers if buffer.data is not None
    ]
    for buffer, data in constants:
        buffer.data, buffer.offset, buffer.size = None, 1 << 20, len(data)
    at = len(pack())
    for buffer, data in constants:
        buffer.offset, at = at, at + len(data)
    return pack() + b"".join(data for _, data in constants)


def run(content, image):
    """The first output of a file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def upsampling(version=3, size=(16, 24), **options):
    """A convolution and a resize behind it."""
    model, _ = heads("wren", (16, 24))
    graph = Graph()
    graph.model, graph.graph = model, model.subgraphs[0]
    source = int(graph.graph.outputs[0])
    shape = graph.graph.tensors[source].shape
    rule = graph.graph.tensors[source].quantization
    target = [shape[1] * size[0] // 8, shape[2] * size[1] // 12]
    sizes = graph.tensor("size", (2,), INT32, None, target)
    out = graph.tensor("up", (1, *target, shape[3]), np.int8, (rule.scale[0], rule.zeroPoint[0]))
    kind = schema.BuiltinOptions.ResizeNearestNeighborOptions
    chosen = schema.ResizeNearestNeighborOptionsT(**options)
    graph.operator(97, version, [source, sizes], [out], kind, chosen)
    graph.graph.outputs = [out, *graph.graph.outputs[1:]]
    return model


def test_a_resize_is_mended_without_changing_a_bit(tmp_path):
    path, out, again = (tmp_path / name for name in ("m.tflite", "fixed.tflite", "again.tflite"))
    made = save(path, upsampling(halfPixelCenters=True), "wren", (16, 24))
    assert examine(path.read_bytes(), "").first.rule == "version"
    assert fix.fix(path, out) == ["RESIZE_NEAREST_NEIGHBOR at 2: half_pixel_centers false, version 2"]
    report = examine(out.read_bytes(), "")
    assert report.first is None
    assert report.operators[-1].version == 2
    image = np.random.default_rng(5).integers(-128, 128, (1, 16, 24, 1)).astype(np.int8)
    np.testing.assert_array_equal(run(path.read_bytes(), image), run(out.read_bytes(), image))
    step = model_file.load(out).card.made[-1]
    assert (step.command, step.parent) == ("check", made.sha256)
    assert step.parity == {"random_inputs": fix.INPUTS, "identical": True}
    assert model_file.load(out).card.outputs == made.card.outputs
    assert fix.fix(out, again) == []
    assert again.read_bytes() == out.read_bytes()


def grouped(parts=4, version=6, **weights):
    """A grouped convolution and a plain one after it with the same operator code, as converters write them."""
    shape = (8, 3, 3, 8 // parts)
    stride = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    numbers = kernel(shape, **weights)
    model = operator(
        "CONV_2D", version, image=(1, 8, 12, 8), constants=numbers, options=schema.Conv2DOptionsT(**stride)
    )
    if weights.get("values", True):
        data = np.random.default_rng(1).integers(-9, 10, shape).astype(np.int8)
        model.buffers[1].data = data.view(np.uint8).ravel()
    graph = Graph()
    graph.model, graph.graph = model, model.subgraphs[0]
    data = np.random.default_rng(2).integers(-9, 10, (4, 1, 1, 8))
    more = [graph.tensor(f"more{i}", *each) for i, each in enumerate(kernel((4, 1, 1, 8)))]
    model.buffers[-2].data = data.astype(np.int8).view(np.uint8).ravel()
    out = graph.tensor("z", (1, 8, 12, 4), np.int8, RULE)
    given = [int(graph.graph.outputs[0]), *more]
    graph.operator(3, version, given, [out], schema.BuiltinOptions.Conv2DOptions, schema.Conv2DOptionsT(**stride))
    graph.graph.outputs = [out]
    return model


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_grouped_convolution_becomes_dense_without_changing_a_bit(tmp_path, parts):
    path, out, again = (tmp_path / name for name in ("m.tflite", "fixed.tflite", "again.tflite"))
    path.write_bytes(tflite.write(grouped(parts)))
    report = examine(path.read_bytes(), "")
    text = "CONV_2D version 6, the compiler knows up to 5; the option fix repairs it"
    assert report.rejected == (text,)
    assert fix.fix(path, out) == ["CONV_2D at 0: dense instead of grouped", "CONV_2D at 0, 1: version 3"]
    repaired = examine(out.read_bytes(), "")
    assert repaired.counts == {"maps": 2, "uncertain": 0, "cpu": 0}
    assert [each.version for each in repaired.operators] == [3, 3]
    image = np.random.default_rng(5).integers(-128, 128, (1, 8, 12, 8)).astype(np.int8)
    before, after = run(path.read_bytes(), image).astype(int), run(out.read_bytes(), image).astype(int)
    assert len(np.unique(before)) > 8
    assert np.abs(before - after).max() <= 1  # a tie that one kernel rounds up and the other down
    assert (before != after).mean() < 0.01
    assert fix.fix(out, again) == []


def test_a_grouped_convolution_with_other_weights_is_not_written(tmp_path, monkeypatch):
    spread = groups._spread
    monkeypatch.setattr(groups, "_spread", lambda kernel, parts: np.roll(spread(kernel, parts), 1, axis=3))
    path, out = written(tmp_path, grouped()), tmp_path / "fixed.tflite"
    with pytest.raises(GateFailed, match="the repaired file gives other numbers; nothing was written"):
        fix.fix(path, out)
    assert not out.exists()


@pytest.mark.parametrize(
    "model",
    [grouped(zero=1), grouped(values=False), grouped(dtype=np.uint8)],
    ids=["zero point", "computed weights", "uint8"],
)
def test_other_grouped_convolutions_stay_as_they_are(model):
    content = tflite.write(model)
    repaired, done = fix.repair(content, "m.tflite")
    assert done in ([], ["CONV_2D at 1: version 3"])
    assert examine(repaired, "").rejected == ("CONV_2D version 6, the compiler knows up to 5",)


def test_constants_are_moved_inside(tmp_path):
    path, out = tmp_path / "m.tflite", tmp_path / "fixed.tflite"
    path.write_bytes(outside(heads("wren", (16, 24))[0]))
    report = examine(path.read_bytes(), "")
    assert {(each.state, each.rule, each.source) for each in report.operators} == {("cpu", "outside", "S")}
    assert "the option fix moves it inside" in report.first.reason
    (said,) = fix.fix(path, out)
    assert said.endswith("constants moved inside the table")
    assert examine(out.read_bytes(), "").counts["cpu"] == 0
    image = np.random.default_rng(5).integers(-128, 128, (1, 16, 24, 1)).astype(np.int8)
    np.testing.assert_array_equal(run(path.read_bytes(), image), run(out.read_bytes(), image))
    assert model_file.read_card(out) is None


@pytest.mark.parametrize(
    "model",
    [
        resized("RESIZE_BILINEAR", version=3, halfPixelCenters=True),
        resized(version=3, size=(12, 24), halfPixelCenters=True),  # 1.5 times
        resized(version=3, size=(4, 6), halfPixelCenters=True),  # half
        resized(version=3, alignCorners=True),
        chain("LEAKY_RELU"),
    ],
)
def test_what_cannot_be_mended_is_named(tmp_path, model):
    path, out = written(tmp_path, model), tmp_path / "fixed.tflite"
    with pytest.raises(GateFailed, match=r"at 0 stays on the CPU, .*; `fix` repairs nothing of it; nothing"):
        fix.fix(path, out)
    assert not out.exists()


def test_a_shared_code_is_changed_for_the_mended_only(tmp_path):
    model = upsampling(version=3, size=(16, 24), halfPixelCenters=True)
    graph = model.subgraphs[0]
    graph.operators.append(schema.OperatorT(**vars(graph.operators[-1])))
    graph.operators[-1].builtinOptions = schema.ResizeNearestNeighborOptionsT(alignCorners=True)
    graph.tensors.append(schema.TensorT(**vars(graph.tensors[graph.outputs[0]])))
    graph.operators[-1].outputs = [len(graph.tensors) - 1]
    repaired, done = fix.repair(tflite.write(model), "m.tflite")
    assert len(done) == 1
    assert [each.version for each in examine(repaired, "").operators][-2:] == [2, 3]


def test_a_mended_file_that_differs_is_not_written(tmp_path, monkeypatch):
    path, out = written(tmp_path, upsampling(halfPixelCenters=True, size=(12, 18))), tmp_path / "fixed.tflite"
    monkeypatch.setattr(fix, "_whole", lambda operator: True)
    with pytest.raises(GateFailed, match="the repaired file gives other numbers; nothing was written"):
        fix.fix(path, out)
    assert not out.exists()


def test_a_file_that_does_not_run_cannot_be_compared(tmp_path):
    model = upsampling(halfPixelCenters=True)
    model.subgraphs[0].operators[0].builtinOptions.strideH = 0
    with pytest.raises(BadInput, match="LiteRT cannot load it, so nothing can be compared"):
        fix.fix(written(tmp_path, model), tmp_path / "fixed.tflite")


def test_the_command_mends_then_shows(tmp_path, capsys):
    path, out = written(tmp_path, upsampling(halfPixelCenters=True)), tmp_path / "fixed.tflite"
    command.check(path, fix=True, output=out, require="mapped")
    shown = capsys.readouterr()
    assert shown.err == "repaired: RESIZE_NEAREST_NEIGHBOR at 2: half_pixel_centers false, version 2\n"
    assert shown.out.startswith(f"{out}: ")
    with pytest.raises(UsageError, match=r"type: `output=fixed\.tflite`"):
        command.check(path, fix=True, output=tmp_path / "fixed.onnx")
