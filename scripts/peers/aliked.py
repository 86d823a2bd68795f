"""ALIKED as kornia has it, in PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

from lf.core import Array, Features
from lf.models.resolve import resolve
from scripts.peers import ours
from scripts.peers.peer import Peer


def peers(path: str, points: int) -> list[Peer]:
    """Return the only peer, with the weights of a public checkpoint; see `Peer`."""
    import kornia
    import torch

    name = resolve(path).card.model
    extract, engine = partial(_by_kornia, network(path, name, points)), f"torch {torch.__version__}"
    reference = ours.reference(path, points)
    return [Peer(f"{name}, kornia", f"kornia {kornia.__version__}", engine, extract, "torch", reference)]


def network(path: str, name: str, points: int) -> Any:
    """The class of kornia with the weights of a public checkpoint."""
    import torch
    from kornia.feature import ALIKED

    model = ALIKED(name, max_num_keypoints=points)
    state = torch.load(path, map_location="cpu", weights_only=True)
    grid = {"dkd.hw_grid": model.dkd.hw_grid}  # a constant, which the public file does not hold
    model.load_state_dict(grid | state)
    return model.eval()


def _by_kornia(model: Any, picture: Array) -> Features:
    import torch

    with torch.inference_mode():
        tensor = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
        found = model(tensor)[0]
    arrays = (value.numpy() for value in (found.keypoints, found.keypoint_scores, found.descriptors))
    return Features(*arrays, picture.shape[1::-1])
