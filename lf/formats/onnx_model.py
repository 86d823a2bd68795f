"""Normalise ONNX models: every node has its own name, weights are constants of the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from lf.core import BadInput, files, one_line
from lf.formats import onnx_sound

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

STANDARD = ("", "ai.onnx")  # names of the domain of ONNX's own operators
IR = 4  # the first version with initializers as constants, unless inputs list them
INTEGER = ("uantizeLinear", "QLinear", "Integer")  # in the types of operators that only quantized files have
CONVOLUTION = "Conv"  # in the types of all convolutions: FusedConv, ConvTranspose, QLinearConv ...

# Suffixes that quantizers append to the name of a tensor or layer for a new tensor. ONNX Runtime's quantizer mistakes
# an existing initializer with such a name for its own.
GENERATED = (
    *("_quantized", "_scale", "_zero_point", "_mul", "_reshape_shape", "_reshape_output"),
    *("_QuantizeLinear_Input", "_QuantizeLinear_Output", "_DequantizeLinear_Output"),
    *(".on_levels", ".exact", ".read", ".rounded", ".corrected", ".corrected_bias"),
)


def read(path: Path) -> ModelProto:
    """Read the model of an ONNX file without external data, prepared by `prepare`.

    Raises:
        BadInput: not an ONNX file.
    """
    import onnx

    data = files.read_bytes(path, "an ONNX model")
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf's errors differ between its builds
        raise BadInput(f"{path}: not an ONNX model ({one_line(error, 200)})") from error
    onnx_sound.refuse(path)
    return prepare(model)


def prepare(model: ModelProto) -> ModelProto:
    """Convert a network to the form that all passes rely on; parts in that form do not change.

    Functions are inlined, constants are initializers and neither inputs nor outputs, every node has its own name, and
    no tensor has the name that a quantizer would give to another.
    """
    from onnx import inliner

    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = model.graph
    for node in nodes(model):
        while node.input and not node.input[-1]:  # an omitted optional input
            node.input.pop()
    outputs = {output.name for output in graph.output}
    for node in [node for node in graph.node if node.op_type == "Constant" and node.output[0] not in outputs]:
        if node.attribute[0].name == "value":
            graph.initializer.append(node.attribute[0].t)
            graph.initializer[-1].name = node.output[0]
            graph.node.remove(node)
    constants = {tensor.name for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name in constants]:
        graph.input.remove(value)
    _written(model)
    model.ir_version = max(model.ir_version, IR)
    named(model)
    words = {node.name for node in nodes(model)} | tensors(model)
    rename(model, lambda name: _generated(name, words))
    return model


def _written(model: ModelProto) -> None:
    """Add a node for each output that is a constant, in place: passes remove initializers that no node reads."""
    from onnx import helper

    graph, taken = model.graph, tensors(model)
    outputs = {output.name for output in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in outputs]:
        output, tensor.name = tensor.name, free(f"{tensor.name}.constant", taken)
        taken.add(tensor.name)
        graph.node.insert(0, helper.make_node("Identity", [tensor.name], [output]))


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and the graphs inside its nodes: branches, bodies of loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs(inner)


def nodes(model: ModelProto) -> list[NodeProto]:
    """Return all nodes, including those of inner graphs."""
    return [node for graph in graphs(model.graph) for node in graph.node]


def named(model: ModelProto) -> ModelProto:
    """Name every node without a unique name, in place.

    A convolution is named after its weights, so that messages name layers of the network; others after their output.
    """
    found, taken = nodes(model), set[str]()
    for node in found:
        if node.name in taken:
            node.ClearField("name")
        taken.add(node.name)
    for node in found:
        if not node.name:
            weights = node.input[1] if CONVOLUTION in node.op_type and len(node.input) > 1 else ""
            word = weights.removesuffix(".weight") or next(filter(None, node.output), node.op_type)
            node.name = free(word, taken)
            taken.add(node.name)
    return model


def free(word: str, taken: set[str]) -> str:
    """Return `word`, or if it is taken `word_2` and so on."""
    return next(name for name in chain([word], (f"{word}_{number}" for number in count(2))) if name not in taken)


def rename(model: ModelProto, clashes: Callable[[str], bool]) -> None:
    """Rename tensors with clashing names, in place, except inputs and outputs of the model."""
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    taken, fresh = tensors(model), dict[str, str]()
    for name in sorted(taken - kept):
        if clashes(name):
            fresh[name] = free(f"network.{name}", taken)
            taken.add(fresh[name])
    retitle(model, fresh)


def retitle(model: ModelProto, fresh: Mapping[str, str]) -> None:
    """Rename tensors by `fresh`, old name -> new name, in place."""
    for graph in graphs(model.graph) if fresh else ():
        for each in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            each.name = fresh.get(each.name, each.name)
        for node in graph.node:
            node.input[:] = [fresh.get(name, name) for name in node.input]
            node.output[:] = [fresh.get(name, name) for name in node.output]


def tensors(model: ModelProto) -> set[str]:
    """Return the names of all tensors, including those of inner graphs."""
    found = set[str]()
    for graph in graphs(model.graph):
        found.update(each.name for each in (*graph.input, *graph.initializer))
        found.update(name for node in graph.node for name in node.output if name)
    return found


def convolutions(model: ModelProto, path: Path) -> list[str]:
    """Return the names of the convolutions of a prepared model, in its order.

    Raises:
        BadInput: a convolution is not a Conv with float32 constants, so passes would miss it.
    """
    from onnx import TensorProto

    constants = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    seen = [node for node in model.graph.node if node.op_type == "Conv" and node.domain in STANDARD]
    names = [node.name for node in seen if {*node.input[1:]} <= constants]
    found = [node for node in nodes(model) if CONVOLUTION in node.op_type]
    if others := [f"{node.name} ({node.op_type})" for node in found if node.name not in names]:
        raise BadInput(
            f"{path}: {len(others)} of its {len(found)} convolutions, {', '.join(others[:3])}, would not be quantized: "
            "expected Conv with constant float32 weights, in no branch or loop; make the file again: "
            "`export(CHECKPOINT, to=onnx)`"
        )
    return names


def refuse_rewritten(path: Path, step: str, quantized: bool = False) -> None:
    """Refuse a file that another tool has optimised or quantized.

    Args:
        path: an ONNX file with a float card.
        step: the next step, a verb, for the error.
        quantized: True allows integers.

    Raises:
        BadInput: it has operators of other domains than ONNX's own, or integers.
    """
    for node in nodes(read(path)):
        integer = any(word in node.op_type for word in INTEGER)
        if quantized if integer else node.domain in STANDARD:
            continue
        if integer:
            why = f"is quantized already: it holds {node.op_type}, though its card says fp32"
        else:
            tool = "ONNX Runtime" if node.domain.startswith("com.microsoft") else "another tool"
            why = f"was optimised by {tool}: it holds {node.op_type} of the domain {node.domain}"
        raise BadInput(f"{path}: {why}; {step} what it was made from, or make it again: `export(CHECKPOINT, to=onnx)`")


def _generated(name: str, words: set[str]) -> bool:
    """Return whether a quantizer could have made this name from one of the words."""
    while end := next((end for end in GENERATED if name.endswith(end)), ""):
        name = name.removesuffix(end)
        if name in words:
            return True
    return False
