"""Repair .tflite files for the Edge TPU compiler without changing a value.

A resize to the nearest by whole factors k: pixel i of the result is pixel floor((i + 0.5) / k) of the input with
half_pixel_centers, floor(i / k) without, which is the same for every i; without, version 2 says it all. A grouped
convolution becomes a dense one. Constants behind the table move inside, where readers of 2021 look. The result is
compared with the original, bit by bit, on random inputs; where convolutions were grouped in LiteRT's reference kernels,
because its fast ones round ties in one form otherwise than in the other.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import Array, Artifact, BadInput, GateFailed, LfError, Unavailable, UsageError, files, one_line
from lf.core.packages import pip
from lf.edgetpu.check import Report, examine
from lf.edgetpu.graph import Operator, build
from lf.edgetpu.groups import DENSE, make_dense, mendable, raised
from lf.formats import model_file, tflite
from lf.formats.derive import Draft, derive
from lf.runtimes.litert import COMPILED, quiet

NEAREST, VERSION = "RESIZE_NEAREST_NEIGHBOR", 2
INPUTS = 4  # number of random inputs for comparing the files
MOST = 1 << 30  # bytes of an activation


def fix(path: Path, out: Path) -> list[str]:
    """Repair a file.

    Args:
        path: a .tflite file; its card, if it has one, gets another step.
        out: the file to write; a file that needs no repair is copied.

    Returns:
        The repairs, a line each; empty if the file needs none.

    Raises:
        BadInput: not a TFLite model, or it does not run here.
        GateFailed: operators stay on the CPU and none of them can be repaired, or the repaired file gives other
            numbers; nothing is written.
        UsageError: `out` is not a .tflite file.
    """
    if out.suffix != ".tflite":
        raise UsageError(f"{out}: `fix` writes .tflite files; type: `output={out.stem}.tflite`")
    files.refuse_own(out, path)
    data, card = files.read_bytes(path, "a TFLite model"), model_file.read_card(path)
    before = examine(data, str(path))
    repaired, done = repair(data, str(path))
    if not done:
        if before.first:
            raise GateFailed(f"{path}: {_left(before)}; `fix` repairs nothing of it; nothing was written")
        files.write_bytes(out, data)
        return []
    if card is None:
        compare(data, repaired, str(path), before)
        files.write_bytes(out, repaired)
    else:
        draft = Draft(
            data=repaired,
            card=card,
            options={"target": "edgetpu", "fix": True},
            versions={"ai-edge-litert": importlib.metadata.version("ai-edge-litert")},
            compare=lambda _: {"parity": compare(data, repaired, str(path), before)},
            notes={"repaired": done},
        )
        derive(Artifact(path, card), out, "check", lambda _: draft)
    return done


def _left(report: Report) -> str:
    first = report.first
    return f"{first.name} at {first.index} stays on the CPU, {first.reason}" if first else ""


def repair(data: bytes, where: str) -> tuple[bytes, list[str]]:
    """Return the repaired file without its archive, and the repairs; without repairs, the same bytes."""
    model = tflite.read(data, where)
    if any(code.customCode == COMPILED.encode() for code in model.operatorCodes):
        return data, []
    outside = sum(buffer.offset > 1 for buffer in model.buffers)
    done = [f"{outside} constants moved inside the table"] if outside else []
    operators = [each for graph in model.subgraphs for each in graph.operators]
    views = [*zip(operators, build(model).operators, strict=True)]
    resized = [(each, view) for each, view in views if _raised(view)]
    grouped = [(each, view) for each, view in views if mendable(view)]
    convolutions = [(each, view) for each, view in views if raised(view)]
    for each, view in grouped:
        make_dense(model, each, view)
    for each, _ in resized:
        if each.builtinOptions is not None:
            each.builtinOptions.halfPixelCenters = False
    _lower(model, operators, [each for each, _ in resized], NEAREST, VERSION)
    _lower(model, operators, [each for each, _ in convolutions], "CONV_2D", DENSE)
    for name, repaired, text in (
        (NEAREST, resized, f"half_pixel_centers false, version {VERSION}"),
        ("CONV_2D", grouped, "dense instead of grouped"),
        ("CONV_2D", convolutions, f"version {DENSE}"),
    ):
        if repaired:
            done.append(f"{name} at {', '.join(str(view.index) for _, view in repaired)}: {text}")
    return (tflite.write(model), done) if done else (data, [])


def _raised(view: Operator) -> bool:
    """Return whether it is a nearest-neighbour resize with a higher version than it needs."""
    raised = view.version > VERSION or view.option("halfPixelCenters", False)
    return view.name == NEAREST and raised and _whole(view)


def _whole(operator: Operator) -> bool:
    """Return whether it enlarges 8-bit images by integer factors."""
    image, resized = operator.input(0), operator.outputs[0] if operator.outputs else None
    if image is None or resized is None or operator.option("alignCorners", False):
        return False
    if not (image.quantized and len(image.shape) == len(resized.shape) == 4):
        return False
    return all(
        before and not after % before for before, after in zip(image.shape[1:3], resized.shape[1:3], strict=True)
    )


def _lower(model: Any, operators: list[Any], wrong: list[Any], name: str, version: int) -> None:
    """Give the operators `wrong` a separate code with that version, and remove unused codes."""
    if not wrong:
        return
    kind = getattr(tflite.schema().BuiltinOperator, name)
    code = tflite.schema().OperatorCodeT(deprecatedBuiltinCode=kind, builtinCode=kind, version=version)
    codes = [*model.operatorCodes, code]
    for operator in wrong:
        operator.opcodeIndex = len(codes) - 1
    used = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [codes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)


def compare(before: bytes, after: bytes, where: str, report: Report) -> dict[str, Any]:
    """Compare two files on random inputs on the CPU; return the result for the card.

    Args:
        before: the file.
        after: the repaired file.
        where: name of the file for errors.
        report: report on the file.

    Raises:
        GateFailed: their outputs are not bit-identical.
        BadInput: the first does not run here, or needs too much memory.
    """
    if report.activation_bytes > MOST:
        raise BadInput(f"{where}: an activation of {report.activation_bytes} bytes; too large to compare the files on")
    reference = any(mendable(each) for each in build(tflite.read(before, where)).operators)
    first, second = (_opened(tflite.without_archive(data), where, reference) for data in (before, after))
    rng = np.random.default_rng(0)
    for _ in range(INPUTS):
        inputs = [_random(rng, details) for details in first.get_input_details()]
        for a, b in zip(_run(first, inputs, where), _run(second, inputs, where), strict=True):
            if a.dtype != b.dtype or a.tobytes() != b.tobytes():
                raise GateFailed(f"{where}: the repaired file gives other numbers; nothing was written")
    return {"random_inputs": INPUTS, "identical": True, **({"kernels": "reference"} if reference else {})}


def _opened(content: bytes, where: str, reference: bool) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise Unavailable(f"{where}: `fix` compares files in LiteRT; type: {pip('edge')}") from error
    try:
        with quiet():
            kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
            interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kernels)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"{where}: LiteRT cannot load it, so nothing can be compared: {one_line(error)}") from error
    return interpreter


def _random(rng: np.random.Generator, details: dict[str, Any]) -> Array:
    dtype, shape = np.dtype(details["dtype"]), details["shape"]
    if dtype in (np.int8, np.uint8):
        limits = np.iinfo(dtype)
        return np.asarray(rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype))
    if dtype == np.float32:
        return np.asarray(rng.random(shape, np.float32))
    raise LfError(f"input {details['name']} holds {dtype}; `fix` knows int8, uint8 and float32")


def _run(interpreter: Any, inputs: list[Array], where: str) -> list[Array]:
    try:
        for details, value in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(details["index"], value)
        interpreter.invoke()
        return [interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details()]
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"{where}: LiteRT cannot run it, so nothing can be compared: {one_line(error)}") from error
