"""TFLite files with known answers, made from the schema: a convolution for each head, one float operator, what a
compiler leaves. Not a test."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from lf.core import Card
from lf.formats import model_file, tflite
from lf.models import MODELS

KINDS = {np.dtype(np.int8): 9, np.dtype(np.uint8): 3, np.dtype(np.float32): 0, np.dtype(np.int32): 2}
INPUT = 1 / 255, -128  # scale and zero point: what [0, 1] becomes
COMPILED = b"edgetpu-custom-op"
SIZE = (16, 24)


class Graph:
    """A model that grows by tensors and operators."""

    def __init__(self):
        self.model = schema.ModelT(version=3, operatorCodes=[], buffers=[schema.BufferT()], description=b"test")
        self.graph = schema.SubGraphT(tensors=[], operators=[], inputs=[], outputs=[], name=b"main")
        self.model.subgraphs = [self.graph]

    def tensor(self, name, shape, dtype, rule=None, data=None):
        """Index of a new tensor; `rule` is (scale, zero point), each a number or a list, one of each channel."""
        found = schema.TensorT(name=name, shape=list(shape), type=KINDS[np.dtype(dtype)], buffer=0)
        if rule is not None:
            scale, zero = (np.atleast_1d(part).tolist() for part in rule)
            found.quantization = schema.QuantizationParametersT(scale=scale, zeroPoint=zero, quantizedDimension=0)
        if data is not None:
            found.buffer = len(self.model.buffers)
            self.model.buffers.append(schema.BufferT(data=np.ascontiguousarray(data, dtype).view(np.uint8).ravel()))
        self.graph.tensors.append(found)
        return len(self.graph.tensors) - 1

    def operator(self, code, version, inputs, outputs, kind=0, options=None, custom=None):
        """Append an operator and its code."""
        code = schema.OperatorCodeT(
            deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=version, customCode=custom
        )
        self.model.operatorCodes.append(code)
        self.graph.operators.append(
            schema.OperatorT(
                opcodeIndex=len(self.model.operatorCodes) - 1,
                inputs=inputs,
                outputs=outputs,
                builtinOptionsType=kind,
                builtinOptions=options,
            )
        )

    def convolution(self, image, name, kernel, bias, stride, rules, floats=False):
        """CONV_2D without padding. kernel: (Cout, kh, kw, Cin) int8, or float. rules: of input, weights, output."""
        options = schema.Conv2DOptionsT(padding=1, strideW=stride, strideH=stride, dilationWFactor=1, dilationHFactor=1)
        at = self.graph.tensors[image].shape
        shape = 1, at[1] // stride, at[2] // stride, len(kernel)
        dtype = np.float32 if floats else np.int8
        weight_rule = None if floats else (rules[1], [0] * len(kernel))
        bias_rule = None if floats else (np.multiply(rules[1], rules[0][0]), [0] * len(kernel))
        weight = self.tensor(f"{name}.weight", kernel.shape, dtype, weight_rule, kernel)
        offset = self.tensor(f"{name}.bias", (len(kernel),), np.float32 if floats else np.int32, bias_rule, bias)
        out = self.tensor(name, shape, dtype, None if floats else rules[2])
        self.operator(3, 3 if not floats else 1, [image, weight, offset], [out], 1, options)
        return out


def heads(row, size=SIZE, floats=False, order=1):
    """A model with every head of that row of MODELS: a strided convolution with random weights each.

    Returns:
        ModelT, and what the heads are for an input (1, C, H, W): {head: (1, c, h, w)}, from the integers themselves.
    """
    model, rng, graph, reference = MODELS[row], np.random.default_rng(0), Graph(), {}
    dtype = np.float32 if floats else np.int8
    image = graph.tensor("image", (1, *size, model.channels), dtype, None if floats else INPUT)
    outputs = []
    for number, (head, (channels, stride)) in enumerate(model.heads.items()):
        kernel = rng.integers(-127, 128, (channels, stride, stride, model.channels)).astype(np.int8)
        bias = rng.integers(-2000, 2000, channels)
        scales = rng.uniform(0.5, 1.5, channels).astype(np.float32) / 127 / stride
        rule = 0.02 * (number + 1), 3 - number
        weights, offset = kernel, bias
        if floats:
            weights = (kernel * scales[:, None, None, None]).astype(np.float32)
            offset = (bias * scales / 255).astype(np.float32)
        outputs.append(graph.convolution(image, head, weights, offset, stride, (INPUT, scales, rule), floats))
        reference[head] = (kernel, bias, scales, rule, stride)
    graph.graph.inputs, graph.graph.outputs = [image], outputs[::order]

    def answer(pixels):
        """Exact convolutions of the quantized input, in float64; int8 heads rounded to their own grid."""
        levels = pixels.astype(np.float64) if floats else np.clip(np.rint(pixels * 255), 0, 255) / 255
        found = {}
        for head, (kernel, bias, scales, rule, stride) in reference.items():
            h, w = (side // stride for side in size)
            cells = levels[0].reshape(model.channels, h, stride, w, stride).transpose(1, 3, 2, 4, 0).reshape(h, w, -1)
            value = cells @ (kernel.reshape(len(kernel), -1).T * scales.astype(np.float64)) + bias * scales / 255
            if not floats:
                value = (np.clip(np.rint(value / rule[0]) + rule[1], -128, 127) - rule[1]) * rule[0]
            found[head] = value.transpose(2, 0, 1)[None].astype(np.float32)
        return found

    return graph.model, answer


def compiled(row, size=SIZE):
    """Return the model as after compilation: one custom operator from the input to the heads, the rest unchanged."""
    model, _ = heads(row, size)
    graph = model.subgraphs[0]
    kept = [*graph.inputs, *graph.outputs]
    model.operatorCodes = [
        schema.OperatorCodeT(deprecatedBuiltinCode=32, builtinCode=32, version=1, customCode=COMPILED)
    ]
    graph.tensors = [graph.tensors[index] for index in kept]
    graph.inputs, graph.outputs = [0], [*range(1, len(kept))]
    program = np.frombuffer(b"program", np.uint8)
    graph.operators = [schema.OperatorT(opcodeIndex=0, inputs=[0], outputs=graph.outputs, customOptions=program)]
    model.buffers = [schema.BufferT()]
    return model


def card(row, size=SIZE, **changes):
    """The card of such a file."""
    model = MODELS[row]
    weights = {"origin": "random numbers", "sha256": "00", "licence": "none"}
    given = {"scheme": "w8a8", "outputs": dict(model.heads), **changes}
    return Card(row, weights, (model.channels, *size), **given)


def save(path, model, row, size=SIZE, **changes):
    """Write the model with its card; the artifact."""
    return model_file.save(path, tflite.write(model), card(row, size, **changes))
