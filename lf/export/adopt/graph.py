"""Read an ONNX file of another tool, clean its graph, and bring its input to (1, C, H, W) float32."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import Array, BadInput, Unavailable, UsageError, console, one_line
from lf.core.packages import pip
from lf.export.to_onnx import INPUT, OPSET, OPSETS
from lf.formats import onnx_model
from lf.formats.onnx_graph import Graph
from lf.runtimes.ort import making

if TYPE_CHECKING:
    from onnx import ModelProto

PREFIX = "adopt."  # prefix of the names of added nodes and tensors
OLDEST = 13  # first operator set with a scale per channel of weights
SIMPLIFY = pip("adopt")
SAME = 1e-4  # largest difference that cleaning may make, as a share of the largest value
FLOATS = {1: "float32", 10: "float16", 2: "uint8"}  # types of inputs, as ONNX numbers them
SHAPES = ("Shape", "Size", "ConstantOfShape")  # operators that compute with shapes


def read(path: Path, notes: dict[str, Any]) -> ModelProto:
    """Read the model of a foreign file, prepared, in lf's operator set if it can be converted.

    Args:
        path: an ONNX file.
        notes: changes are added to it.

    Raises:
        BadInput: not an ONNX file, or its operator set is too new or too old.
    """
    model = onnx_model.read(path)
    version = opset(model)
    if version < OLDEST:
        raise BadInput(
            f"{path}: operator set {version}; expected {OLDEST} or newer; export it again with opset {OPSET}"
        )
    try:
        session(model)
    except Exception as error:  # its exceptions share no base class
        import onnxruntime

        if version > OPSETS[-1]:
            raise BadInput(
                f"{path}: operator set {version} is too new for ONNX Runtime {onnxruntime.__version__}; "
                f"export it again with opset {OPSET}"
            ) from error
        raise BadInput(f"{path}: ONNX Runtime cannot load it: {one_line(error, 200)}") from error
    notes["opset"] = version
    return model


def opset(model: ModelProto) -> int:
    """Return the version of ONNX's own operators that the model uses."""
    return next((each.version for each in model.opset_import if each.domain in onnx_model.STANDARD), 0)


def session(model: ModelProto, extra: Sequence[str] = ()) -> Any:
    """Open an ONNX Runtime session of a model, which also outputs the tensors `extra`."""
    import onnx
    import onnxruntime as ort

    if extra:
        wider = onnx.ModelProto()
        wider.CopyFrom(model)
        given = {value.name for value in wider.graph.output}
        wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra if name not in given)
        model = wider
    return ort.InferenceSession(model.SerializeToString(), making(), providers=["CPUExecutionProvider"])


def run(opened: Any, image: Array, where: Path) -> dict[str, Array]:
    """Return all outputs of a session for one image (1, C, H, W).

    Raises:
        BadInput: the graph does not run on an image of this size.
    """
    names = [output.name for output in opened.get_outputs()]
    try:
        values = opened.run(names, {opened.get_inputs()[0].name: image})
    except Exception as error:  # its exceptions share no base class
        height, width = image.shape[2:]
        raise BadInput(
            f"{where}: cannot run on an image of {height}x{width}: {one_line(error, 160)}; if the file was made for "
            "one size, name it: `size=HxW`"
        ) from error
    return dict(zip(names, values, strict=True))


def modern(model: ModelProto, probe: Mapping[str, Array], notes: dict[str, Any]) -> ModelProto:
    """Convert the model to the operator set of lf's own exports, if ONNX's converter keeps the outputs.

    A model in an older set can also run and be quantized, but no decoder can be appended.
    """
    from onnx import version_converter

    if opset(model) >= OPSET:
        return model
    try:
        with console.quiet():
            newer = onnx_model.prepare(version_converter.convert_version(model, OPSET))
        if same(model, newer, probe) <= SAME:
            notes["converted to opset"] = OPSET
            return newer
    except Exception as error:  # the converter may raise any error; the model is kept unchanged
        notes["not converted"] = one_line(error, 100)
    return model


def clean(model: ModelProto, path: Path, probe: Mapping[str, Array], notes: dict[str, Any]) -> ModelProto:
    """Fold shape arithmetic and constant chains with onnxsim, if there are any.

    Raises:
        Unavailable: weights of a convolution are computed in the graph, and onnxsim is not installed.
        BadInput: the cleaned graph gives other outputs.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    chained = [
        node.name
        for node in onnx_model.nodes(model)
        if onnx_model.CONVOLUTION in node.op_type and not {*node.input[1:]} <= constants
    ]
    shapes = sum(node.op_type in SHAPES for node in onnx_model.nodes(model))
    if not chained and not shapes:
        return model
    if importlib.util.find_spec("onnxsim") is None:
        if chained:
            raise Unavailable(
                f"{path}: the weights of {len(chained)} convolutions ({', '.join(chained[:2])}) are computed in the "
                f"graph; the package onnxsim folds them: {SIMPLIFY}"
            )
        notes["warnings"].append(
            f"{shapes} operator{'s compute' if shapes > 1 else ' computes'} with shapes, which engines of fixed shapes "
            f"may refuse; fold that: {SIMPLIFY}"
        )
        return model
    import onnxsim

    with console.quiet():
        cleaned, _ = onnxsim.simplify(model)
    cleaned = onnx_model.prepare(cleaned)
    difference = same(model, cleaned, probe)
    if not difference <= SAME:
        raise BadInput(
            f"{path}: onnxsim changes its outputs by {difference:.2g} of the largest value; expected {SAME:g}"
        )
    notes["cleaned"] = {"by": f"onnxsim {onnxsim.__version__}", "difference": float(f"{difference:.2g}")}
    return cleaned


def same(a: ModelProto, b: ModelProto, probe: Mapping[str, Array]) -> float:
    """Return the largest difference of the outputs of two models, as a share of the largest value."""
    first, second = (session(model).run(None, dict(probe)) for model in (a, b))
    worst = 0.0
    for one, other in zip(first, second, strict=True):
        if one.shape != other.shape:
            return float("inf")
        gap = np.abs(one.astype(np.float64) - other).max(initial=0)
        worst = max(worst, float(gap / max(np.abs(one).max(initial=0), 1e-30)))
    return worst


def image_input(model: ModelProto, path: Path) -> tuple[str, list[int | None], str]:
    """Return name, shape (None for free sides) and type of the only input of a model, an image.

    Raises:
        BadInput: it has several inputs, no image input, or a larger batch.
    """
    inputs = list(model.graph.input)
    if len(inputs) != 1:
        raise BadInput(f"{path}: takes {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); expected one image")
    kind = inputs[0].type.tensor_type
    shape: list[int | None] = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    shown = "x".join("?" if side is None else str(side) for side in shape)
    if len(shape) != 4 or kind.elem_type not in FLOATS:
        raise BadInput(f"{path}: takes {inputs[0].name} of shape {shown}; expected one image, (1, C, H, W)")
    if shape[0] not in (None, 1):
        raise BadInput(f"{path}: takes {shape[0]} images at a time; expected one; export it again with batch 1")
    return inputs[0].name, shape, FLOATS[kind.elem_type]


def layout(shape: Sequence[int | None], channels: int, path: Path) -> str:
    """Return `NCHW` or `NHWC`, from the axis of the channels.

    Raises:
        BadInput: neither axis can have that many channels.
    """
    places = {"NCHW": shape[1], "NHWC": shape[3]}
    fits = [name for name, count in places.items() if count == channels]
    if not fits and not {*places.values()} & {1, 3}:
        fits = [name for name, count in places.items() if count is None]
    if not fits:
        shown = "x".join("?" if side is None else str(side) for side in shape)
        wants = {1: "grey", 3: "RGB"}[channels]
        raise BadInput(f"{path}: takes images of {shown}; expected {channels} channel{'s' * (channels > 1)} ({wants})")
    return fits[0]


def planar(
    model: ModelProto, path: Path, channels: int, size: tuple[int, int] | None, notes: dict[str, Any]
) -> tuple[int, int] | None:
    """Change the input of the model to `image`, (1, C, H, W) float32, in place. The range of values does not change.

    Returns:
        The fixed input size (H, W), or None if it is free.

    Raises:
        BadInput: the model cannot take such an image.
        UsageError: `size` is not its fixed size.
    """
    from onnx import TensorProto, helper

    name, shape, kind = image_input(model, path)
    order = layout(shape, channels, path)
    height, width = (shape[2], shape[3]) if order == "NCHW" else (shape[1], shape[2])
    own = (height, width) if height and width else None
    if size and own and size != own:
        raise UsageError(f"{path}: takes {own[0]}x{own[1]} only; leave `size` out")
    if (height or width) and not own and not size:
        raise BadInput(
            f"{path}: only one side of its input is free; fix the other: `size={height or 240}x{width or 320}`"
        )
    size = own or size
    onnx_model.retitle(model, {name: f"{PREFIX}input"})
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, channels, *(size or ("height", "width"))])
    )
    g, tensor = Graph(f"{PREFIX}in."), INPUT
    if kind == "uint8":
        tensor = g("Round", g("Mul", tensor, 255.0))
    if kind != "float32":
        tensor = g("Cast", tensor, to={"uint8": TensorProto.UINT8, "float16": TensorProto.FLOAT16}[kind])
    if order == "NHWC":
        tensor = g("Transpose", tensor, perm=[0, 2, 3, 1])
    prepend(model, g, tensor, f"{PREFIX}input")
    notes["input"] = {"name": name, "layout": order, "type": kind, "size": list(size) if size else "free"}
    del model.graph.value_info[:]
    return size


def prepend(model: ModelProto, g: Graph, made: str, wanted: str) -> None:
    """Put the nodes of `g` before the graph; their result `made` replaces the input `wanted`."""
    onnx_model.retitle(model, {wanted: made})
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*g.nodes, *rest])
    model.graph.initializer.extend(g.constants)


def append(model: ModelProto, g: Graph) -> None:
    """Put the nodes of `g` at the end of the graph."""
    model.graph.node.extend(g.nodes)
    model.graph.initializer.extend(g.constants)


def prune(model: ModelProto) -> None:
    """Remove nodes and constants that no output needs, in place."""
    graph = model.graph
    needed, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if needed & {*node.output}:
            kept.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    needed.update(name for each in onnx_model.graphs(inner) for n in each.node for name in n.input)
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    kept.reverse()
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
