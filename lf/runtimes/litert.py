"""TFLite files in LiteRT: on the CPU by XNNPACK here, on an accelerator through a delegate in `lf.runtimes.edgetpu`."""

from __future__ import annotations

import importlib.metadata
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from lf.core import Array, Artifact, BadInput, SessionInfo, Unavailable, files, one_line
from lf.core.console import quiet as quiet
from lf.formats import tflite
from lf.formats.finite import refuse_tflite
from lf.runtimes.tflite_signature import signature

COMPILED = "edgetpu-custom-op"  # custom code of the operator into which the compiler merges all mapped operators


class LitertSession:
    """One opened interpreter; it and its delegate are freed with the session, in this order."""

    def __init__(
        self,
        artifact: Artifact,
        model: Any,
        threads: int,
        provider: str,
        delegate: Any = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a file that `load` has read, on the CPU or through a delegate.

        Raises:
            BadInput: the interpreter refuses it, or see `signature`.
        """
        from ai_edge_litert.interpreter import Interpreter

        self._where, self._heads = str(artifact.path), tuple(artifact.card.outputs)
        self._signature, self._turn = signature(artifact, model), threading.Lock()
        delegates = [] if delegate is None else [delegate]
        # serialised again, because `read` has checked exactly this, and the interpreter checks nothing
        content = tflite.write(model)
        try:
            with quiet():
                self._interpreter = Interpreter(
                    model_content=content, num_threads=threads, experimental_delegates=delegates
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise BadInput(f"{self._where}: LiteRT cannot load it: {one_line(error)}") from error
        self._agree()
        steps = Counter(str(step["op_name"]) for step in self._interpreter._get_ops_details())
        used = provider if steps["DELEGATE"] else "CPU"  # CPU: the delegate took no operator
        said = {"operators": dict(steps), "host_heads": [head.name for head in self._signature.host], **(notes or {})}
        self.info = SessionInfo("litert", importlib.metadata.version("ai-edge-litert"), used, threads, said)

    def run(self, image: Array) -> dict[str, Array]:
        """See `lf.core.Session`; B = 1, and the fixed size of the file.

        Raises:
            BadInput: another size or batch.
        """
        port, outputs = self._signature.image, self._signature.outputs
        _, height, width, channels = port.shape
        if image.shape != (1, channels, height, width):
            raise BadInput(
                f"{self._where}: takes one image of {height}x{width}, (1, {channels}, {height}, {width}); "
                f"got {image.shape}"
            )
        levels = port.encode(np.asarray(image, np.float32))
        try:
            with self._turn:  # an interpreter has one input and one set of outputs for all threads
                self._interpreter.set_tensor(port.index, levels)
                self._interpreter.invoke()
                found = [self._interpreter.get_tensor(port.index) for port in outputs]
        except (ValueError, RuntimeError) as error:
            raise BadInput(f"{self._where}: LiteRT cannot run it: {one_line(error)}") from error
        maps = {port.name: port.decode(value) for port, value in zip(outputs, found, strict=True)}
        maps.update({head.name: head(maps[head.source]) for head in self._signature.host})
        return {name: maps[name] for name in self._heads}

    def _agree(self) -> None:
        """Raise BadInput if an operator makes another shape than the file declares."""
        details = self._interpreter.get_output_details()
        made = {entry["index"]: tuple(int(side) for side in entry["shape"]) for entry in details}
        for port in self._signature.outputs:
            if made[port.index] != port.shape:
                raise BadInput(f"{self._where}: tensor {port.name} is {made[port.index]}, declared as {port.shape}")


def load(artifact: Artifact) -> tuple[Any, bool]:
    """Load the model of a file; also return whether it is compiled for the Edge TPU.

    Raises:
        BadInput: damaged, with more than one graph, or with a constant that is not finite.
    """
    where = str(artifact.path)
    model = tflite.read(files.read_bytes(artifact.path, "a TFLite model"), where)
    if len(model.subgraphs) != 1:
        raise BadInput(f"{where}: {len(model.subgraphs)} graphs in one file; expected one")
    refuse_tflite(artifact.path, model)
    return model, any(code.customCode == COMPILED.encode() for code in model.operatorCodes)


def open_session(artifact: Artifact, threads: int) -> LitertSession:
    """Open a TFLite file on the CPU.

    Raises:
        Unavailable: it is compiled for the Edge TPU, which this backend does not use.
        BadInput: see `LitertSession`.
    """
    model, compiled = load(artifact)
    if compiled:
        raise Unavailable(
            f"{artifact.path}: is compiled for the Edge TPU and runs there only (`backend=edgetpu`); "
            "on the CPU use the file it was compiled from, without _edgetpu in its name"
        )
    return LitertSession(artifact, model, threads, "XNNPACK")
