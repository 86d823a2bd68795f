"""ONNX Runtime with the OpenVINO execution provider, a plug-in from a package of its own: float32 and quantized files.

The provider offers its device on Intel processors only.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from lf.core import Artifact, BadInput, Unavailable, files, one_line
from lf.core.packages import pip
from lf.formats.int4 import widened
from lf.formats.onnx_bytes import single_names
from lf.runtimes import ort

REGISTERED = "lf-openvino"  # name of the library in this process
_TURN = threading.Lock()


def open_session(artifact: Artifact, threads: int) -> ort.OrtSession:
    """Open an ONNX file on the CPU device of the OpenVINO execution provider.

    Raises:
        Unavailable: the provider has no device here, or does not take the whole network.
        BadInput: the provider cannot load the model.
    """
    import onnxruntime

    provider, devices = _devices()
    if not devices:
        raise Unavailable(f"{_absent(provider)}; type: `backend=openvino`")
    try:
        data = single_names(widened(files.read_bytes(artifact.path, "an ONNX model")))
        options = ort.options_for(data, threads, provider)
        options.add_provider_for_devices(
            devices, {"num_of_threads": str(threads), "num_streams": "1", "precision": "FP32"}
        )
        session = onnxruntime.InferenceSession(data, options)
    except Exception as error:  # as below
        raise BadInput(f"{artifact.path}: {provider} cannot load it: {one_line(error, 300)}") from error
    if (used := session.get_providers()[0]) != provider:
        raise Unavailable(f"{provider} was asked for, {used} would run; see: lf doctor")
    return ort.OrtSession(artifact.path, session, threads, provider)


def examine() -> tuple[bool, str]:
    """Check for `lf doctor` whether the provider has a CPU device here; also return its version."""
    from importlib.metadata import version

    provider, devices = _devices()
    here = f"onnxruntime-ep-openvino {version('onnxruntime-ep-openvino')}"
    return bool(devices), here if devices else f"{here}: {_absent(provider)}"


def _absent(provider: str) -> str:
    return f"{provider} offers no CPU device here; it does so on Intel processors only"


def _devices() -> tuple[str, list[Any]]:
    """Return the name of the provider, and its CPU devices.

    Raises:
        Unavailable: this onnxruntime is too old for plug-ins, or cannot load this one.
    """
    import onnxruntime

    with _TURN:
        name = _registered()
    own = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    return name, [device for device in own if device.ep_metadata.get("ov_device") == "CPU"]


@cache
def _registered() -> str:
    """Register the library of the provider, once per process, and return its name."""
    import onnxruntime
    import onnxruntime_ep_openvino as plugin

    name: str = plugin.get_ep_name()
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise Unavailable(f"onnxruntime {onnxruntime.__version__} takes no plug-ins; type: {pip('ort-openvino')}")
    try:
        onnxruntime.register_execution_provider_library(REGISTERED, plugin.get_library_path())
    except Exception as error:  # its exceptions share no base class
        raise Unavailable(f"{name} cannot be loaded: {one_line(error, 300)}") from error
    return name
