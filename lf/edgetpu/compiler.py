"""Compile an int8 .tflite file for the Edge TPU with Google's edgetpu_compiler.

Its outcome is compared with the prediction of `edgetpu_check`; both are kept in the card of the new file. All paths are
relative to the folder it runs in, so that a script of the same name can start it in a container.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lf.core import Artifact, BadInput, ConversionFailed, GateFailed, Unavailable, UsageError, files
from lf.edgetpu.check import Report, examine
from lf.edgetpu.graph import Graph, Tensor, build
from lf.edgetpu.log import Log, parse
from lf.edgetpu.rules import CPU, MAPS, UNCERTAIN
from lf.formats import tflite
from lf.formats.derive import Draft, derive
from lf.runtimes.litert import COMPILED

COMPILER = "edgetpu_compiler"
FLAGS = ("-s", "-o", ".")  # show the table of operators; write into this folder
SEARCH = "-d"  # search for a part, beginning at the inputs, that compiles
TRIES = (FLAGS, FLAGS, (SEARCH, *FLAGS))  # repeated, because internal errors may be temporary
SECONDS = 600.0
NAME = "model.tflite"
HOW = (
    "it runs on Debian-like x86-64 systems only: install the package edgetpu-compiler of Google's apt suite "
    "coral-edgetpu-stable, or build the container in docs/how-to/coral.md"
)


def export(
    artifact: Artifact, out: Path, *, seconds: float = SECONDS, images: Path | None = None, **settled: Any
) -> Artifact:
    """Compile a file.

    Args:
        artifact: an int8 .tflite file.
        out: the file to write.
        seconds: time limit of one run of the compiler.
        images: must be None, because a compiled file runs only on the device.
        settled: options of other targets; none may be given.

    Raises:
        UsageError: not a .tflite file, a compiled file, or an option that is fixed when the file is made.
        Unavailable: the compiler is not installed; the text gives the prediction, and says where to get it.
        GateFailed: the compiler refuses the file, nothing maps, or inputs or outputs change; nothing is written.
        ConversionFailed: it took too long.
    """
    if artifact.path.suffix != ".tflite":
        raise UsageError(
            f"{artifact.path}: export to edgetpu starts from an int8 .tflite file; "
            "type: `quantize(MODEL.onnx, writer=tflite, images=DIR)`"
        )
    if images is not None or settled:
        given = ", ".join(f"`{name}`" for name in (*settled, *(["images"] if images is not None else [])))
        raise UsageError(f"{given}: the .tflite file settles all of that; type: `export({artifact.path}, to=edgetpu)`")
    data, where = files.read_bytes(artifact.path, "a TFLite model"), str(artifact.path)
    predicted = examine(data, where)
    if predicted.compiled:
        raise UsageError(f"{where}: is compiled for the Edge TPU already; lf inspect {where} shows how")
    compiler = shutil.which(COMPILER)
    if compiler is None:
        counts = predicted.counts
        raise Unavailable(
            f"{COMPILER} is not on the PATH; {HOW}. {where} stays as it is, predicted: {counts[MAPS]} operators map, "
            f"{counts[UNCERTAIN]} uncertain, {counts[CPU]} on the CPU; see: lf check {where}"
        )
    return derive(
        artifact, out, "export", lambda folder: _compiled(artifact, data, folder, compiler, predicted, seconds)
    )


def _compiled(artifact: Artifact, data: bytes, folder: Path, compiler: str, predicted: Report, seconds: float) -> Draft:
    where = str(artifact.path)
    (folder / NAME).write_bytes(tflite.without_archive(data))
    log, tries = compile_in(folder, compiler, where, predicted, seconds)
    made = read_made(folder, where)

    def compare(_: Artifact) -> dict[str, Any]:
        same_ends(build(tflite.read(data, where)), build(tflite.read(made, f"{where}, compiled")), where)
        outcome, surprises = compared(predicted, log)
        return {"outcome": outcome, "warnings": surprises}

    return Draft(
        data=made,
        card=artifact.card,
        options={"to": "edgetpu"},
        versions={COMPILER: log.version},
        compare=compare,
        notes={"tries": tries, "compiled": log.as_dict(), "predicted": predicted.digest()},
    )


def compile_in(folder: Path, compiler: str, where: str, predicted: Report, seconds: float) -> tuple[Log, list[Any]]:
    """Run the compiler on NAME in `folder` until a run makes a file with mapped operators.

    Returns:
        The log of the last run, and the flags and the outcome of each run.
    """
    tries: list[dict[str, str]] = []
    for flags in TRIES:
        said = run([compiler, *flags, NAME], folder, seconds)
        file = folder / f"{Path(NAME).stem}_edgetpu.log"
        log = parse(said, file.read_text(errors="replace") if file.is_file() else "")
        tries.append({"flags": " ".join(flags), "outcome": log.problem or f"{log.mapped} of {log.total} mapped"})
        if not log.internal or log.succeeded:
            break
    if not log.succeeded:
        hint = f"; predicted: {predicted.rejected[0]}" if predicted.rejected else ""
        raise GateFailed(f"{where}: {COMPILER} {log.version} refuses it: {log.problem}{hint}; nothing was written")
    if not log.mapped:
        why = "; ".join(f"{count} {name}: {status}" for name, count, status in log.rows[:3])
        raise GateFailed(
            f"{where}: {COMPILER} {log.version} made a file, but none of its {log.total} operators runs on the Edge "
            f"TPU ({why or 'it does not say why'}); nothing was written; see: lf check {where}"
        )
    return log, tries


def run(command: Sequence[str], folder: Path, seconds: float) -> str:
    """Run a command and return its output; it and its children are killed after `seconds`.

    Raises:
        ConversionFailed: it took longer.
        Unavailable: it cannot be started.
    """
    try:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be started ({error.strerror or error}); {HOW}") from error
    with process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except BaseException as error:  # an interruption, too
            with suppress(ProcessLookupError):  # it compiles in a child process
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                text = f"{COMPILER} had not finished after {seconds:g} s; nothing was written"
                raise ConversionFailed(text) from error
            raise
    return said.decode(errors="replace")


def read_made(folder: Path, where: str) -> bytes:
    """Read the compiled file after checking that it has the custom operator of the compiler."""
    made = folder / f"{Path(NAME).stem}_edgetpu.tflite"
    data = made.read_bytes() if made.is_file() else b""
    try:
        holds = any(each.custom == COMPILED for each in build(tflite.read(data, str(made.name))).operators)
    except BadInput:
        holds = False
    if not holds:
        raise GateFailed(
            f"{where}: {COMPILER} reports operators on the Edge TPU, but its file has no {COMPILED}; "
            "nothing was written"
        )
    return data


def same_ends(before: Graph, after: Graph, where: str) -> None:
    """Raise GateFailed unless inputs and outputs keep name, shape, type, scale and zero point, in any order."""
    for what, first, second in (("input", before.inputs, after.inputs), ("output", before.outputs, after.outputs)):
        expected, found = ({tensor.name: _end(tensor) for tensor in each} for each in (first, second))
        for name in {**expected, **found}:
            if expected.get(name) != found.get(name):
                raise GateFailed(
                    f"{where}: compiled, its {what} {name} is {found.get(name, 'not there')}, expected "
                    f"{expected.get(name, 'none of that name')}; nothing was written"
                )


def _end(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.kind, tensor.scale, tensor.zero


def compared(predicted: Report, log: Log) -> tuple[dict[str, Any], list[str]]:
    """Compare prediction and outcome of each kind of operator; also describe the differences.

    They agree if all operators predicted to map do so, and of the others at most the uncertain ones.
    """
    guess, found = predicted.by_kind(), log.by_kind()
    outcome: dict[str, Any] = {}
    surprises = []
    for name in sorted({*guess, *found}):
        states = guess.get(name, dict.fromkeys((MAPS, UNCERTAIN, CPU), 0))
        counts = found.get(name, {"mapped": 0, "cpu": 0})
        agrees = states[MAPS] <= counts["mapped"] <= states[MAPS] + states[UNCERTAIN]
        agrees &= sum(states.values()) == sum(counts.values())
        outcome[name] = {"predicted": states, **counts, "agrees": agrees}
        if not agrees:
            surprises.append(
                f"{name}: {counts['mapped']} mapped and {counts['cpu']} on the CPU; predicted were {states[MAPS]} "
                f"mapped, {states[UNCERTAIN]} uncertain, {states[CPU]} on the CPU"
            )
    return outcome, surprises
