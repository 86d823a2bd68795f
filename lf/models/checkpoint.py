"""Load public PyTorch and safetensors checkpoints; load and save lf's .safetensors with their card."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from lf.core import Artifact, BadInput, BadModel, Card, files, one_line
from lf.formats import model_file
from lf.models import NETWORKS, recognise, unpickle
from lf.models.match import State, itself, match
from lf.models.row import CLASS_LAYER, SEGMENTATION


def build(row: str, classes: int | None = None) -> nn.Module:
    """Build the network of a row of MODELS with fresh weights; None takes the number of classes of the row."""
    return NETWORKS[row].for_classes(classes).build()


def classes_of(state: State) -> int | None:
    """Return the number of classes of the segmentation in a state dict of ours; None without a segmentation."""
    return len(state[CLASS_LAYER]) if CLASS_LAYER in state else None


def load(path: Path) -> tuple[str, State, dict[str, str]]:
    """Read a public .pth, .pt, .pth.tar, .ckpt or .safetensors, or a .safetensors of ours, which carries a card.

    Returns:
        The row of MODELS, the state dict of our network, and {"origin", "sha256", "licence"} of the weights.

    Raises:
        BadInput: missing, empty, truncated, of another type, of no known family, or of several networks.
        BadModel: a weight is not finite.
    """
    card = model_file.read_card(path) if path.suffix == ".safetensors" else None
    row, state, weights = _load_own(path, card) if card else _load_public(path)
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise BadModel.not_finite(name, path)
    return row, state, weights


def save(path: Path, module: nn.Module, card: Card) -> Artifact:
    """Write the weights of `module` as .safetensors with `card` in the header."""
    return model_file.save(path, save_tensors({k: v.cpu().contiguous() for k, v in module.state_dict().items()}), card)


def network(artifact: Artifact) -> nn.Module:
    """Build the network of a checkpoint with its weights, in eval mode.

    Raises:
        BadInput: see `load`; or the weights belong to another row than the card says.
    """
    row, state, _ = load(artifact.path)
    if row != artifact.card.model:
        raise BadInput(f"{artifact.path}: holds weights of {row}, its card says {artifact.card.model}")
    found, said = classes_of(state), artifact.card.outputs.get(SEGMENTATION)
    if found and said and found != said[0]:
        raise BadInput(f"{artifact.path}: holds weights for {found} classes, its card says {said[0]}")
    module = build(row, found)
    module.load_state_dict(state, strict=True)
    return module.eval()


def _load_public(path: Path) -> tuple[str, State, dict[str, str]]:
    data = files.read_bytes(path, "a PyTorch checkpoint")
    content = _tensors(data, path) if path.suffix == ".safetensors" else unpickle.read(data, path)
    row, state = recognise.adopt(content, path)
    origin = {"origin": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    return row, state, {**origin, "licence": NETWORKS[row].licence}


def _load_own(path: Path, card: Card) -> tuple[str, State, dict[str, str]]:
    if card.model not in NETWORKS:
        raise BadInput(f"{path}: its card names model '{card.model}'; known: {', '.join(NETWORKS)}")
    tensors = _tensors(path.read_bytes(), path)
    try:
        adopted = match(tensors, [(card.model, itself)])
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    if adopted is None:
        raise BadInput(f"{path}: its card says {card.model}, its tensors are of another network")
    return *adopted, card.weights


def _tensors(data: bytes, path: Path) -> State:
    try:
        return load_tensors(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # for example a type that torch lacks
        raise BadInput(f"{path}: not a safetensors file that torch can read ({one_line(error)})") from error
