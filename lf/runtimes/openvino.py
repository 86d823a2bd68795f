"""Run ONNX files in OpenVINO on the CPU: float32, bfloat16 if requested, and quantized files in integers."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from lf.core import Array, Artifact, BadInput, SessionInfo, Unavailable, UsageError, one_line
from lf.formats.int4 import widened


class OpenVinoSession:
    """One compiled model: explicit threads, one stream, and the requested precision."""

    def __init__(self, artifact: Artifact, threads: int, precision: str) -> None:
        """Compile `artifact` for the CPU.

        Args:
            artifact: an ONNX file, float or QDQ.
            threads: number of threads of one inference.
            precision: precision of float layers: "f32", or "bf16", which needs a processor with bf16 instructions.

        Raises:
            Unavailable: the processor does not compute in `precision`.
            BadInput: not a model that OpenVINO can compile, or one without the outputs of its card.
            UsageError: 16-bit activations, which it silently computes wrongly (2026.4).
        """
        import openvino

        there, detail = examine(precision)
        if not there:
            raise Unavailable(detail)
        core = openvino.Core()
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": precision,
        }
        network = _read(core, artifact)
        try:
            self._model = core.compile_model(network, "CPU", config)
        except Exception as error:  # its exceptions share no base class
            raise BadInput(f"{artifact.path}: OpenVINO cannot load it: {one_line(error, 300)}") from error
        used = self._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != {"f32": "float", "bf16": "bfloat16"}.get(precision) and used != precision:
            raise Unavailable(f"{precision} was requested, but OpenVINO would compute in {used}; see: lf doctor")
        self._path = artifact.path
        self._outputs = {name: i for i, out in enumerate(self._model.outputs) for name in out.names}
        self._names = list(artifact.card.outputs)
        if lost := [name for name in self._names if name not in self._outputs]:
            given = ", ".join(sorted(self._outputs))
            raise BadInput(f"{artifact.path}: its card promises {lost[0]}, it gives {given}; make it again")
        self._mine = threading.local()  # one request per thread
        self.info = SessionInfo("openvino", openvino.__version__, f"CPU {precision}", threads)

    def run(self, image: Array) -> dict[str, Array]:
        """See `lf.core.Session`."""
        request = getattr(self._mine, "request", None)
        if request is None:
            request = self._mine.request = self._model.create_infer_request()
        try:
            request.infer([np.ascontiguousarray(image, np.float32)])
        except Exception as error:  # as above
            raise BadInput(f"{self._path}: OpenVINO cannot run it on {image.shape}: {one_line(error, 300)}") from error
        return {name: request.get_output_tensor(self._outputs[name]).data.copy() for name in self._names}


def _read(core: Any, artifact: Artifact) -> Any:
    """Read the network of an ONNX file in a form that OpenVINO computes correctly."""
    import openvino

    try:
        network = core.read_model(widened(artifact.path.read_bytes()), b"")
    except Exception as error:  # as above
        raise BadInput(f"{artifact.path}: OpenVINO cannot load it: {one_line(error, 300)}") from error
    types = {output.get_element_type() for node in network.get_ops() for output in node.outputs()}
    if types & {openvino.Type.u16, openvino.Type.i16}:
        raise UsageError(f"{artifact.path}: OpenVINO computes 16-bit activations wrongly; type: `backend=ort-cpu`")
    return network


def examine(precision: str) -> tuple[bool, str]:
    """Check for `lf doctor` whether OpenVINO can compute in `precision` on this processor."""
    import openvino

    if precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False, "this processor has no bf16 instructions for OpenVINO; type: `backend=openvino`"
    return True, f"openvino {openvino.__version__.split('-')[0]}"


def open_session(artifact: Artifact, threads: int, **options: Any) -> OpenVinoSession:
    """Compile an ONNX file; see `OpenVinoSession`."""
    return OpenVinoSession(artifact, threads, **options)
