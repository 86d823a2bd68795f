"""Convert ONNX to TFLite by onnx2tf and TensorFlow, in a separate process.

The outputs of a converted file must be compared before use, see `lf.formats.tflite_heads`: converters reorder and
rename outputs, and may report success for a wrong result.

`python -m lf.formats.onnx_to_tflite FOLDER` is that process: it reads job.json and writes out.tflite there.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import ConversionFailed, Unavailable
from lf.core.packages import pip

if TYPE_CHECKING:
    from onnx import ModelProto

FLOAT = ("onnx2tf", "tensorflow", "tf_keras", "onnx_graphsurgeon", "sng4onnx", "psutil")  # what onnx2tf 1 imports
DIRECT = (2, 6)  # from this version on, onnx2tf writes TFLite itself, without TensorFlow
INTEGER = ("tensorflow",)
OPSET = 17  # above, onnx2tf 1.28 writes every nearest resize with half-pixel centres, a version that few devices know
NEWER = (
    "noop_with_empty_axes"  # of reductions; the conversion to OPSET keeps it, and OPSET has it not. 0 is its default
)
SECONDS = 900
SAMPLE = "calibration_image_sample_data_20x128x128x3_float32.npy"  # onnx2tf downloads it where it is not
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")}
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}


def convert(model: ModelProto, half: bool = False) -> bytes:
    """Convert an ONNX model of fixed size to a float .tflite, NHWC; with `half`, only weights are float16.

    Raises:
        Unavailable: onnx2tf or one of its imports is missing, or its version is unknown here.
        ConversionFailed: the converter failed; the text has the last line of its output.
    """
    direct = _direct()
    _demand(FLOAT[:1] if direct else FLOAT)
    return _run({"job": "direct" if direct else "float", "half": half}, model.SerializeToString())


def quantize(calibrated: bytes, per_channel: bool = True) -> bytes:
    """Quantize a float .tflite with ranges of activations to int8, including input and output.

    Args:
        calibrated: a float model; every activation has `quantization.min` and `max`.
        per_channel: True gives every output channel of a weight its own scale.

    Raises:
        Unavailable: TensorFlow is not installed.
        ConversionFailed: its quantizer failed.
    """
    _demand(INTEGER)
    return _run({"job": "integer", "per_channel": per_channel}, calibrated)


def static(model: ModelProto, size: tuple[int, int]) -> ModelProto:
    """Return a copy with the fixed input size `size` (H, W), in operator set OPSET if it can be converted."""
    from onnx import ModelProto, shape_inference, version_converter

    copy = ModelProto()
    copy.CopyFrom(model)
    for dim, side in zip(copy.graph.input[0].type.tensor_type.shape.dim, (1, None, *size), strict=True):
        if side is not None:
            dim.dim_value = side  # clears the name of a free one
    del copy.graph.value_info[:]
    for output in copy.graph.output:
        output.type.tensor_type.ClearField("shape")
    for node in copy.graph.node:
        plain = [a for a in node.attribute if a.name == NEWER and not a.i]
        for attribute in plain if node.op_type.startswith("Reduce") else ():
            node.attribute.remove(attribute)
    if opset(copy) > OPSET:
        # where it has no rule for an operator; whether a newer set is read right, parity tells
        with suppress(RuntimeError, version_converter.ConvertError):
            copy = version_converter.convert_version(copy, OPSET)
    return shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True)


def opset(model: ModelProto) -> int:
    """Version of the ONNX operator set."""
    version: int = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return version


def versions() -> dict[str, str]:
    """Return the versions of the packages of the conversion."""
    names = [name for name in ("onnx2tf", "tensorflow", "tf_keras") if importlib.util.find_spec(name)]
    return {name: importlib.metadata.version(name) for name in names}


def _direct() -> bool:
    """Return whether the installed onnx2tf is one of DIRECT."""
    try:
        text = importlib.metadata.version("onnx2tf")
    except importlib.metadata.PackageNotFoundError:
        return False
    version = tuple(map(int, re.findall(r"\d+", text)[:2]))
    if version < (1, 28) or (2,) <= version < DIRECT:
        raise Unavailable(f"onnx2tf {text} is not known to lf; type: {pip('tflite')}, or onnx2tf>=2.6")
    return version >= DIRECT


def _demand(modules: Sequence[str]) -> None:
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    if missing:
        raise Unavailable(f"making .tflite files needs {', '.join(missing)}; type: {pip('tflite')}")


def _run(job: Mapping[str, Any], data: bytes) -> bytes:
    """Run a job in another process; `data` is its input model."""
    with tempfile.TemporaryDirectory(prefix="lf-convert-") as folder:
        Path(folder, "job.json").write_text(json.dumps(job))
        Path(folder, "model.tflite" if job["job"] == "integer" else "model.onnx").write_bytes(data)
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, **THREADS, **QUIET, "PYTHONPATH": path}
        command = [sys.executable, "-m", "lf.formats.onnx_to_tflite", folder]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ConversionFailed(f"the conversion to TFLite took more than {SECONDS} s and was ended") from error
        made = Path(folder, "out.tflite")
        if done.returncode or not made.is_file():
            words = _last_words(done.stderr) or _last_words(done.stdout) or f"exit code {done.returncode}"
            raise ConversionFailed(f"the conversion to TFLite failed: {words}; nothing was written")
        return made.read_bytes()


def _last_words(output: bytes) -> str:
    """Return the last line that is not empty, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", output.decode(errors="replace"))
    lines = [line.strip() for line in text.splitlines() if re.search(r"[A-Za-z]{3}", line)]
    return lines[-1][:300] if lines else ""


def main(folder: Path) -> None:
    """Run the job, in the other process."""
    job = json.loads((folder / "job.json").read_text())
    makers = {"float": _float, "direct": _flatbuffer_direct, "integer": _integer}
    (folder / "out.tflite").write_bytes(makers[job["job"]](folder, job))


def _float(folder: Path, job: Mapping[str, Any]) -> bytes:
    """Convert with onnx2tf 1: it builds a Keras model, tests its layouts on the sample, and TensorFlow writes it."""
    np.save(folder / SAMPLE, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    onnx2tf, tf = importlib.import_module("onnx2tf"), importlib.import_module("tensorflow")
    keras = onnx2tf.convert(
        input_onnx_file_path=str(folder / "model.onnx"),
        output_folder_path=str(folder / "made"),
        not_use_onnxsim=True,
        disable_model_save=True,
        non_verbose=True,
    )
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name) for tensor in keras.inputs]
    function = tf.function(lambda *inputs: keras(inputs), input_signature=specs).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], keras)
    if job["half"]:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


def _flatbuffer_direct(folder: Path, job: Mapping[str, Any]) -> bytes:
    """Convert with onnx2tf 2.6 or later; its files have the names of version 1."""
    importlib.import_module("onnx2tf").convert(
        input_onnx_file_path=str(folder / "model.onnx"),
        output_folder_path=str(folder / "made"),
        not_use_onnxsim=True,
        non_verbose=True,
        tflite_backend="flatbuffer_direct",
    )
    return (folder / "made" / f"model_float{16 if job['half'] else 32}.tflite").read_bytes()


def _integer(folder: Path, job: Mapping[str, Any]) -> bytes:
    tf = importlib.import_module("tensorflow")
    convert = importlib.import_module("tensorflow.lite.python.convert")
    made = convert.mlir_quantize(
        (folder / "model.tflite").read_bytes(),
        disable_per_channel=not job["per_channel"],
        input_data_type=tf.int8,
        output_data_type=tf.int8,
    )
    return bytes(made)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
