"""Run checkpoints in PyTorch."""

from __future__ import annotations

import numpy as np

from lf.core import Array, Artifact, SessionInfo
from lf.models import MODELS


class TorchSession:
    """The float network in eager mode on the CPU. Torch's number of threads is a setting of the process."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Load the checkpoint."""
        import torch

        from lf.models import checkpoint

        self._torch = torch
        self._threads = threads
        self._network = checkpoint.network(artifact)
        self._heads = tuple(MODELS[artifact.card.model].heads)
        self.info = SessionInfo("torch", torch.__version__, "cpu", threads)

    def run(self, image: Array) -> dict[str, Array]:
        """See `lf.core.Session`."""
        torch = self._torch
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            maps = self._network(torch.from_numpy(np.ascontiguousarray(image, np.float32)))
        return {name: value.numpy() for name, value in zip(self._heads, maps, strict=True)}


def open_session(artifact: Artifact, threads: int) -> TorchSession:
    """Open a checkpoint; see `TorchSession`."""
    return TorchSession(artifact, threads)
