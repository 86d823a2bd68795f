"""ONNX Runtime. Raise an error instead of falling back to another provider."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import Array, Artifact, BadInput, SessionInfo, Unavailable, console, one_line
from lf.core.packages import pip
from lf.formats.int4 import weights_only, widened
from lf.formats.onnx_bytes import GRAPH, single_names
from lf.formats.protobuf import message
from lf.quota import cores

CPU = "CPUExecutionProvider"
MEMORY = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}  # memory of a provider's tensors
ALSO = {"TensorrtExecutionProvider": ", and TensorRT itself: pip install tensorrt-cu12"}


class OrtSession:
    """One inference session: explicit threads, sequential, no spinning, which would take CPU time from others."""

    def __init__(self, path: Path, session: Any, threads: int, provider: str) -> None:
        """Use `session`, an onnxruntime.InferenceSession that runs the file `path` on `provider`."""
        import onnxruntime as ort

        self._path = path
        self._session = session
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.info = SessionInfo("onnxruntime", ort.__version__, provider, threads)

    def run(self, image: Array) -> dict[str, Array]:
        """See `lf.core.Session`."""
        image = np.ascontiguousarray(image, np.float32)
        try:
            maps = self._bound(image) if self.info.provider in MEMORY else self._plain(image)
        except Exception as error:  # its exceptions share no base class
            raise BadInput(f"{self._path}: ONNX Runtime cannot run it on {image.shape}: {one_line(error)}") from error
        return dict(zip(self._outputs, maps, strict=True))

    def _plain(self, image: Array) -> list[Any]:
        maps: list[Any] = self._session.run(self._outputs, {self._input: image})
        return maps

    def _bound(self, image: Array) -> list[Any]:
        """Run with input and outputs in the device's memory: each is copied once, and the run is complete on return."""
        binding, memory = self._session.io_binding(), MEMORY[self.info.provider]
        binding.bind_cpu_input(self._input, image)
        for name in self._outputs:
            binding.bind_output(name, memory)
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        maps: list[Any] = binding.copy_outputs_to_cpu()
        return maps


def examine(provider: str) -> tuple[bool, str]:
    """Check for `lf doctor` whether a graph of one node runs on `provider`; being listed does not guarantee it."""
    import onnxruntime as ort

    try:
        session = _open(_one_node, 1, provider, "a graph of one node")
        session.run(None, {"x": np.zeros(1, np.float32)})
    except (Unavailable, BadInput) as error:
        return False, str(error)
    return True, f"onnxruntime {ort.__version__}"


def census(artifact: Artifact, threads: int, image: Array, provider: str) -> dict[str, Any]:
    """Count the operators that ONNX Runtime runs, from its profile of one inference.

    Args:
        artifact: an ONNX file.
        threads: as in `open_session`.
        image: (1, C, H, W) float32 in [0, 1].
        provider: as in `open_session`.

    Returns:
        {"operators": {type: nodes, after all optimisations}, "provider_share": {provider: share of the nodes' time}}.
    """

    data = artifact.path.read_bytes()
    options = options_for(data, threads, provider)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="lf-profile-") as folder:
        options.profile_file_prefix = str(Path(folder, "ort"))
        session = _loaded(data, options, provider)
        for _ in range(2):
            session.run(None, {session.get_inputs()[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    nodes = nodes[len(nodes) // 2 :]  # the first inference also allocates memory
    operators, spent = Counter(node["args"]["op_name"] for node in nodes), Counter[str]()
    for node in nodes:
        spent[node["args"]["provider"]] += node["dur"]  # microseconds
    whole = max(spent.total(), 1)
    return {
        "operators": dict(operators.most_common()),
        "provider_share": {name: round(part / whole, 4) for name, part in spent.most_common()},
    }


def _open(read: Callable[[], bytes], threads: int, provider: str, where: str) -> Any:
    """Open an inference session of the ONNX file from `read`; errors of `open_session` name `where`."""
    import onnxruntime as ort

    available = [p for p in ort.get_available_providers() if p != "AzureExecutionProvider"]
    if provider not in available:
        raise Unavailable(
            f"{provider} is not in this onnxruntime {ort.__version__}, which has {', '.join(available)}; "
            f"type: pip uninstall onnxruntime && {pip('ort-gpu')}{ALSO.get(provider, '')}"
        )
    try:
        data = read()
        options = options_for(data, threads, provider)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # ORT warns if it falls back
            session = _loaded(data, options, provider)
    except UserWarning as error:
        raise Unavailable(f"{provider} was requested, but ONNX Runtime would use another: {error}") from error
    except Exception as error:  # its exceptions share no base class
        if provider != CPU:
            raise Unavailable(f"{provider} cannot run {where}: {one_line(error)}; see: lf doctor") from error
        raise BadInput(f"{where}: ONNX Runtime cannot load it: {one_line(error)}") from error
    used = session.get_providers()[0]
    if used != provider:
        raise Unavailable(f"{provider} was requested, but {used} would run; see: lf doctor")
    return session


def _loaded(data: bytes, options: Any, provider: str) -> Any:
    """Open a session of ONNX bytes, without ONNX Runtime's own fallback to the CPU, which it reports on stdout.

    If two layers share weights or zero points, ONNX Runtime cannot make products exact (see `_exact_and_idle`). Such a
    file is computed in float, which is exact, too.
    """
    import onnxruntime as ort

    data = single_names(widened(data))
    try:
        return ort.InferenceSession(data, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # its exceptions share no base class
        if "replace the existing tensor" not in str(error):
            raise
        console.note("lf: layers share 8-bit weights, which ONNX Runtime computes in float on a processor without VNNI")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return ort.InferenceSession(data, options, providers=[provider], enable_fallback=0)


def _one_node() -> bytes:
    """Return an ONNX file, y = Relu(x) of one float, serialised by hand with the field numbers of onnx.proto."""
    shape = message(2, message(1, b"\x08\x01"))  # one side, of 1
    kind = message(2, message(1, b"\x08\x01" + shape))  # a tensor of float
    node = message(1, b"x") + message(2, b"y") + message(4, b"Relu")
    ports = message(11, message(1, b"x") + kind) + message(12, message(1, b"y") + kind)
    graph = message(1, node) + message(2, b"one") + ports
    return b"\x08\x08" + message(GRAPH, graph) + message(8, b"\x10\x0d")  # IR version 8, opset 13


def options_for(data: bytes, threads: int, provider: str) -> Any:
    """Return options of a session to measure: `threads` threads, no fallback from another provider to the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # errors are raised anyway
    _exact_and_idle(options)
    if provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if weights_only(data):  # convert to float once, when opened, and not in every run
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def making(level: str = "ORT_ENABLE_ALL") -> Any:
    """Return options of a session for making a file, not measuring: all cores, silent, no spinning threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = cores()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    _exact_and_idle(options)
    return options


def _exact_and_idle(options: Any) -> None:
    """Make 8-bit products exact, and let idle threads sleep instead of spin.

    On x86 processors without VNNI, ONNX Runtime multiplies uint8 by int8 with `vpmaddubsw`, whose 16-bit sums saturate:
    maps of `swift` are wrong by a tenth to a third of their size. This entry makes it multiply uint8 by uint8
    there, which is exact and slower. It changes nothing on processors with VNNI.
    """
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1")


def open_session(artifact: Artifact, threads: int, provider: str) -> OrtSession:
    """Open an ONNX file on a provider of ONNX Runtime.

    Raises:
        Unavailable: the provider is not in this build, or not the one that really runs.
        BadInput: not a model that ONNX Runtime can load.
    """
    session = _open(artifact.path.read_bytes, threads, provider, str(artifact.path))
    return OrtSession(artifact.path, session, threads, provider)
