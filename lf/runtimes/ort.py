"""ONNX Runtime. Loud: the provider that was asked for is the one that runs, or nothing does."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from lf.core import Array, Artifact, BadInput, SessionInfo, Unavailable
from lf.runtimes.ort_weights import weights_only, widened


class OrtSession:
    """One inference session: explicit threads, sequential, no spinning (it burns the CPU of whatever runs beside)."""

    def __init__(self, artifact: Artifact, threads: int, provider: str) -> None:
        """Open `artifact` on `provider`.

        Raises:
            Unavailable: the provider is not in this build, or not the one that really runs.
            BadInput: not a model that ONNX Runtime can load.
        """
        import onnxruntime as ort

        available = [p for p in ort.get_available_providers() if p != "AzureExecutionProvider"]
        if provider not in available:
            raise Unavailable(
                f"{provider} is not in this onnxruntime {ort.__version__}, which has {', '.join(available)}; "
                f'type: pip uninstall onnxruntime && pip install "lf[ort-gpu]"'
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            data = artifact.path.read_bytes()
            if weights_only(data):  # they become float once, now, and not in every run
                options.add_session_config_entry("session.disable_quant_qdq", "1")
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # ORT warns where it falls back
                self._session = ort.InferenceSession(widened(data), options, providers=[provider])
        except UserWarning as error:
            raise Unavailable(f"{provider} was asked for and ONNX Runtime would use another: {error}") from error
        except Exception as error:  # its exceptions share no base class
            line = _line(error)
            if provider != "CPUExecutionProvider":
                raise Unavailable(f"{provider} cannot run {artifact.path}: {line}; see: lf doctor") from error
            raise BadInput(f"{artifact.path}: ONNX Runtime cannot load it: {line}") from error
        used = self._session.get_providers()[0]
        if used != provider:
            raise Unavailable(f"{provider} was asked for, {used} would run; see: lf doctor")
        self._path = artifact.path
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.info = SessionInfo("onnxruntime", ort.__version__, used, threads)

    def run(self, image: Array) -> dict[str, Array]:
        """See `lf.core.Session`."""
        image = np.ascontiguousarray(image, np.float32)
        try:
            maps: list[Any] = self._session.run(self._outputs, {self._input: image})
        except Exception as error:  # as above
            raise BadInput(f"{self._path}: ONNX Runtime cannot run it on {image.shape}: {_line(error)}") from error
        return dict(zip(self._outputs, maps, strict=True))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def open_session(artifact: Artifact, threads: int, provider: str) -> OrtSession:
    """Open an ONNX file; see `OrtSession`."""
    return OrtSession(artifact, threads, provider)
