"""BACKENDS: one row per way to run a model file, with the engine that computes."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lf.core import Artifact, Session, Unavailable, UsageError, one_line, pick
from lf.core.packages import pip
from lf.formats import cards, onnx_sound
from lf.formats.finite import refuse_onnx


@dataclass(frozen=True)
class Backend:
    """A backend: runs model files with one engine.

    Attributes:
        module: module in `lf.runtimes` with `open_session(artifact, threads, **options) -> Session`, which raises
            Unavailable instead of falling back. It may have `examine(**options) -> (whether it can run here, detail)`
            for `lf doctor`, if an importable package is not enough.
        package: package that must be importable.
        extra: extra of lf that installs the package, see `lf.core.packages.pip`.
        suffixes: suffixes of the model files that it runs; see `backends_for`.
        about: one line for `lf doctor`.
        options: keyword arguments of its `open_session`.
        maker: the command that makes such files.
        one_session: True if its device takes one session at a time; `run` then serves one thread after the other.
        codec: storage of the card in its files, for a new suffix; see `lf.formats.cards.appended`.
        resource: custom resource of Ray that a machine of a pool must have; "" for none.
        asked: reason why `auto` never chooses it; "" if `auto` may.
        distributions: distributions that install the package, if their names differ from it.
        instructions: flags of `lf.core.machine.NAMES` -> operators that use them; "" for all.
    """

    module: str
    package: str
    extra: str
    suffixes: tuple[str, ...]
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)
    maker: str = "`export(CHECKPOINT, to=onnx)`"
    one_session: bool = False
    codec: cards.Codec | None = None
    resource: str = ""
    asked: str = ""
    distributions: tuple[str, ...] = ()
    instructions: Mapping[str, str] = field(default_factory=dict)

    def register(self) -> None:
        """Register the codec of its suffixes for reading and writing."""
        cards.register(self.suffixes, self.codec)

    @property
    def installed(self) -> bool:
        """True if its package can be imported; devices are not checked."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """Version of the installed distribution, found without importing; "" if unknown."""
        for name in (*self.distributions, self.package):
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return ""

    def load(self) -> None:
        """Import its package.

        Raises:
            Unavailable: it is installed but cannot be imported.
        """
        try:
            importlib.import_module(self.package)
        except Exception as error:  # missing or unsuitable libraries, or a broken installation
            raise Unavailable(
                f"the package {self.package} cannot be imported ({one_line(error, 300)}); install it again: "
                + pip(self.extra, again=True)
            ) from error


ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu")
OPENCV = tuple(f"opencv{more}-python{head}" for more in ("-contrib", "") for head in ("-headless", ""))
VNNI = {"avx512_vnni": "", "avx_vnni": ""}
AMX = {**VNNI, "amx_int8": ""}
MLAS = {**VNNI, "amx_int8": "matrix products only"}  # its symmetric convolutions have kernels for VNNI
BF16 = {**AMX, "avx512_bf16": "", "amx_bf16": ""}

CHECKPOINTS = (".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin")

BACKENDS: dict[str, Backend] = {
    "torch": Backend("lf.runtimes.pytorch", "torch", "torch", CHECKPOINTS, "PyTorch eager, float32, on the CPU"),
    "ort-cpu": Backend(
        "lf.runtimes.ort",
        "onnxruntime",
        "ort",
        (".onnx",),
        "ONNX Runtime, CPUExecutionProvider",
        {"provider": "CPUExecutionProvider"},
        distributions=ONNXRUNTIME,
        instructions=MLAS,
    ),
    "ort-cuda": Backend(
        "lf.runtimes.ort",
        "onnxruntime",
        "ort-gpu",
        (".onnx",),
        "ONNX Runtime, CUDAExecutionProvider, never falling back to the CPU",
        {"provider": "CUDAExecutionProvider"},
        resource="cuda",
        distributions=ONNXRUNTIME,
    ),
    "ort-tensorrt": Backend(
        "lf.runtimes.ort",
        "onnxruntime",
        "ort-gpu",
        (".onnx",),
        "ONNX Runtime, TensorrtExecutionProvider, never falling back to CUDA or the CPU",
        {"provider": "TensorrtExecutionProvider"},
        resource="cuda",
        asked="builds an engine for minutes",
        distributions=ONNXRUNTIME,
    ),
    "tflite": Backend(
        "lf.runtimes.litert",
        "ai_edge_litert",
        "edge",
        (".tflite",),
        "LiteRT on the CPU, XNNPACK",
        maker="`quantize(MODEL.onnx, writer=tflite, images=DIR)`",
        distributions=("ai-edge-litert",),
        instructions=VNNI,
    ),
    "edgetpu": Backend(
        "lf.runtimes.edgetpu",
        "ai_edge_litert",
        "edge",
        ("_edgetpu.tflite",),
        "LiteRT on a Coral Edge TPU, never on the CPU instead",
        maker="`export(MODEL.tflite, to=edgetpu)`",
        one_session=True,
        resource="edgetpu",
        distributions=("ai-edge-litert",),
    ),
    "openvino": Backend(
        "lf.runtimes.openvino",
        "openvino",
        "openvino",
        (".onnx",),
        "OpenVINO on the CPU; float32, and quantized files in integers",
        {"precision": "f32"},
        instructions=AMX,
    ),
    "openvino-bf16": Backend(
        "lf.runtimes.openvino",
        "openvino",
        "openvino",
        (".onnx",),
        "OpenVINO on the CPU, bfloat16 except for quantized layers",
        {"precision": "bf16"},
        asked="computes in bfloat16, with other output than float",
        instructions=BF16,
    ),
    "ort-openvino": Backend(
        "lf.runtimes.ort_openvino",
        "onnxruntime_ep_openvino",
        "ort-openvino",
        (".onnx",),
        "ONNX Runtime, OpenVINOExecutionProvider, on Intel processors, never falling back to the CPU provider",
        distributions=("onnxruntime-ep-openvino",),
        instructions=AMX,
    ),
    "opencv-dnn": Backend(
        "lf.runtimes.opencv_dnn",
        "cv2",
        "",
        (".onnx",),
        "OpenCV's DNN module on the CPU; quantized files at the speed of float ones",
        distributions=OPENCV,
    ),
    "torch-compile": Backend(
        "lf.runtimes.torch_compile",
        "torch",
        "torch",
        CHECKPOINTS,
        "PyTorch through torch.compile, float32, on the CPU; opening a file compiles it",
        asked="compiles for a quarter of a minute or more",
    ),
    "opencv": Backend(
        "lf.runtimes.opencv",
        "cv2",
        "",
        (".card",),
        "baselines of OpenCV: SIFT, RootSIFT, ORB, AKAZE",
        distributions=OPENCV,
    ),
}

for _row in BACKENDS.values():
    _row.register()


def backends_for(path: Path) -> list[str]:
    """Return the backends for a file by its name: `a_edgetpu.tflite` is for `edgetpu` and not for `tflite`."""
    ends = {name: [len(end) for end in row.suffixes if path.name.endswith(end)] for name, row in BACKENDS.items()}
    longest = max((length for found in ends.values() for length in found), default=0)
    return [name for name, found in ends.items() if longest in found]


def open_session(artifact: Artifact, backend: str, threads: int = 1) -> Session:
    """Open a model file in an engine.

    Raises:
        UsageError: unknown backend, or it does not run this kind of file.
        Unavailable: the engine, its provider or its device is missing.
        BadInput: the engine refuses the file, or a constant in it is not finite.
    """
    row = pick(BACKENDS, backend, "backend")
    if not artifact.path.name.endswith(row.suffixes):
        takes = ", ".join(row.suffixes)
        raise UsageError(f"{artifact.path}: backend {backend} runs {takes}; make such a file with {row.maker}")
    if not row.installed:
        raise Unavailable(f"backend {backend} needs the package {row.package}; type: {pip(row.extra)}")
    row.load()
    if artifact.path.suffix == ".onnx":
        onnx_sound.refuse(artifact.path)
        refuse_onnx(artifact.path)
    session: Session = importlib.import_module(row.module).open_session(artifact, threads, **row.options)
    return session
