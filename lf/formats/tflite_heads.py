"""Match the outputs of a converted file with heads, by shape and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lf.core import Array, GateFailed, Unavailable
from lf.core.packages import pip
from lf.formats import tflite

INPUT = "image"
RELATIVE = 1e-4  # largest difference of two maps of the same head, as a share of the largest value
HALF = 2e-2  # the same for weights in float16


def named(data: bytes, image: Array, maps: Mapping[str, Array], relative: float = RELATIVE) -> bytes:
    """Rename the input of a float model to `image`, and name and order its outputs as the heads.

    Args:
        data: a .tflite file of one input and at least these outputs.
        image: (1, C, H, W) float32.
        maps: head -> (1, c, h, w) float32, the network's output for `image`.
        relative: tolerance, see RELATIVE.

    Raises:
        GateFailed: a head is not among the outputs; the text gives it and the error of the nearest output.
        Unavailable: LiteRT is not installed.
    """
    model = tflite.read(data, "the converted model")
    graph = model.subgraphs[0]
    found = run(data, image)
    chosen: dict[str, int] = {}
    for head, expected in maps.items():
        errors = {index: _error(value, expected) for index, value in found.items() if index not in chosen.values()}
        nearest = min(errors, key=lambda index: errors[index], default=None)
        if nearest is None or not errors[nearest] <= relative:
            raise GateFailed(_nowhere(head, expected, min(errors.values(), default=np.inf), relative))
        chosen[head] = nearest
    names = {INPUT: int(graph.inputs[0]), **chosen}
    for tensor in graph.tensors:
        if tensor.name.decode(errors="replace") in names:
            tensor.name += b"_"
    for name, index in names.items():
        graph.tensors[index].name = name.encode()
    graph.outputs = np.array([*chosen.values()], np.int32)
    graph.name, model.description = b"main", b""
    model.signatureDefs = None  # they hold the converter's names of outputs
    model.metadata = [entry for entry in model.metadata or () if entry.name == b"min_runtime_version"]
    return tflite.write(model)


def run(data: bytes, image: Array) -> dict[int, Array]:
    """Run a float model on an image (1, C, H, W): index of every output tensor -> (1, c, h, w)."""
    interpreter = open_interpreter(data)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.moveaxis(image, 1, 3))
    interpreter.invoke()
    indices = [entry["index"] for entry in interpreter.get_output_details()]
    return {index: _planes(interpreter.get_tensor(index)) for index in indices}


def open_interpreter(data: bytes, every_tensor: bool = False) -> Any:
    """Open an interpreter with one thread; with `every_tensor` it keeps the values of all tensors.

    Raises:
        Unavailable: LiteRT is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise Unavailable(f"running .tflite files needs {error.name}; type: {pip('edge')}") from error
    # without XNNPACK, which would remove tensors by fusion, and prints a line on stderr
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_content=data,
        num_threads=1,
        experimental_op_resolver_type=plain,
        experimental_preserve_all_tensors=every_tensor,
    )
    interpreter.allocate_tensors()
    return interpreter


def _planes(value: Array) -> Array:
    """Convert (1, h, w, c) to (1, c, h, w); other shapes do not change."""
    return np.moveaxis(value, 3, 1) if value.ndim == 4 else value


def _error(value: Array, expected: Array) -> float:
    """Return the largest difference as a share of the largest value; inf for another shape or non-finite values."""
    if value.shape != expected.shape:
        return np.inf
    error = float(np.abs(value - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    return error if np.isfinite(error) else np.inf


def _nowhere(head: str, expected: Array, error: float, relative: float) -> str:
    shape = "x".join(map(str, expected.shape[1:]))
    nearest = f"the nearest differs by {error:.2g} of its largest value" if np.isfinite(error) else "none has its shape"
    return (
        f"the converted file has no output that gives the head {head} ({shape}): {nearest}, expected at most "
        f"{relative:g}; nothing was written, try other versions of onnx2tf and tensorflow: lf doctor"
    )
