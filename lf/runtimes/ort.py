"""ONNX Runtime. Loud: the provider that was asked for is the one that runs, or nothing does."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections import Counter
from pathlib import Path
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
        try:
            data = artifact.path.read_bytes()
            options = _options(data, threads, provider)
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


def census(artifact: Artifact, threads: int, image: Array, provider: str) -> dict[str, Any]:
    """What ONNX Runtime really runs of a file that it can open, by its own profile of one inference.

    Args:
        artifact: an ONNX file.
        threads: as in `OrtSession`.
        image: (1, C, H, W) float32 in [0, 1].
        provider: as in `OrtSession`.

    Returns:
        {"operators": {type: nodes, after all optimisations}, "provider_share": {provider: share of the nodes' time}}.
    """
    import onnxruntime as ort

    data = artifact.path.read_bytes()
    options = _options(data, threads, provider)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="lf-profile-") as folder:
        options.profile_file_prefix = str(Path(folder, "ort"))
        session = ort.InferenceSession(widened(data), options, providers=[provider])
        for _ in range(2):
            session.run(None, {session.get_inputs()[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    nodes = nodes[len(nodes) // 2 :]  # the first inference also asks for memory
    operators, spent = Counter(node["args"]["op_name"] for node in nodes), Counter[str]()
    for node in nodes:
        spent[node["args"]["provider"]] += node["dur"]  # microseconds
    whole = max(spent.total(), 1)
    return {
        "operators": dict(operators.most_common()),
        "provider_share": {name: round(part / whole, 4) for name, part in spent.most_common()},
    }


def _options(data: bytes, threads: int, provider: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if weights_only(data):  # they become float once, now, and not in every run
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def open_session(artifact: Artifact, threads: int, provider: str) -> OrtSession:
    """Open an ONNX file; see `OrtSession`."""
    return OrtSession(artifact, threads, provider)
