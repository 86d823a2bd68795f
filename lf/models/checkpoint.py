"""Weights in and out: public PyTorch checkpoints, recognised by the names and shapes of tensors; our .safetensors."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lf.core import Artifact, BadInput, Card, files
from lf.formats import model_file
from lf.models import NETWORKS, unpickle

State = dict[str, Tensor]
Adopted = tuple[str, State]

ALIKE = 0.5  # share of tensors in common from which a state dict "looks like" a family


def build(row: str) -> nn.Module:
    """The network of a row of MODELS with fresh weights."""
    model = NETWORKS[row]
    network: nn.Module = importlib.import_module(model.module or "").build(**model.options)
    return network


def load(path: Path) -> tuple[str, State, dict[str, str]]:
    """Read a public .pth, .pt or .pth.tar, or a .safetensors of ours.

    Returns:
        The row of MODELS, the state dict of our network, and {"origin", "sha256", "licence"} of the weights.

    Raises:
        BadInput: missing, empty, truncated, of another type, asking for more than weights, of no known family, or with
            a weight that is not finite.
    """
    row, state, weights = _load_own(path) if path.suffix == ".safetensors" else _load_public(path)
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise BadInput(f"{path}: {name} holds a non-finite value; the training that wrote it had diverged")
    return row, state, weights


def save(path: Path, module: nn.Module, card: Card) -> Artifact:
    """Write the weights of `module` as .safetensors with `card` in the header."""
    return model_file.save(path, save_tensors({k: v.cpu().contiguous() for k, v in module.state_dict().items()}), card)


def network(artifact: Artifact) -> nn.Module:
    """The network of a checkpoint with its weights, in eval mode.

    Raises:
        BadInput: see `load`; or the weights are of another row than the card says.
    """
    row, state, _ = load(artifact.path)
    if row != artifact.card.model:
        raise BadInput(f"{artifact.path}: holds weights of {row}, its card says {artifact.card.model}")
    module = build(row)
    module.load_state_dict(state, strict=True)
    return module.eval()


def match(state: State, candidates: Iterable[tuple[str, Callable[[str], str]]]) -> Adopted | None:
    """Find the row whose tensors `state` holds, all of them and nothing else, by names and shapes.

    Args:
        state: public name -> tensor; the `module.` of data-parallel training is ignored.
        candidates: (row, function from our tensor name to the public one).

    Raises:
        BadInput: `state` is mostly one of the candidates; the text says what does not fit.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    nearest, why = ALIKE, None
    for row, public in candidates:
        with torch.device("meta"):
            wanted = {public(own): (own, tensor) for own, tensor in build(row).state_dict().items()}
        wrong = [n for n, (_, t) in wanted.items() if n not in state or state[n].shape != t.shape]
        more = [name for name in state if name not in wanted]
        if not wrong and not more:
            return row, {own: state[name].to(tensor.dtype).contiguous() for name, (own, tensor) in wanted.items()}
        share = (len(wanted) - len(wrong)) / (len(wanted) + len(more))
        if share >= nearest:
            nearest, why = share, f"checkpoint looks like {row} but {_misfit(state, wanted, wrong, more)}"
    if why:
        raise BadInput(why)
    return None


def _misfit(state: State, wanted: dict[str, tuple[str, Tensor]], wrong: list[str], more: list[str]) -> str:
    if not wrong:
        return f"also holds {more[0]}" + (f" and {len(more) - 1} more" if more[1:] else "")
    name = wrong[0]
    found = f"is {tuple(state[name].shape)}" if name in state else "is missing"
    others = f" ({len(wrong) - 1} more do not fit)" if wrong[1:] else ""
    return f"{name} {found}; expected {tuple(wanted[name][1].shape)}{others}"


def _adopt(state: State, path: Path) -> Adopted:
    """Ask every network file; one that fits wins over one that nearly does."""
    near: BadInput | None = None
    for module in dict.fromkeys(model.module for model in NETWORKS.values()):
        try:
            adopted: Adopted | None = importlib.import_module(module or "").adopt(state)
        except BadInput as error:
            near = error
            continue
        if adopted:
            return adopted
    if near:
        raise BadInput(f"{path}: {near}") from near
    some = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in list(state.items())[:3])
    raise BadInput(f"{path}: its {len(state)} tensors ({some}, ...) fit no known family; known: {', '.join(NETWORKS)}")


def _load_public(path: Path) -> tuple[str, State, dict[str, str]]:
    data = files.read_bytes(path, "a PyTorch checkpoint")
    row, state = _adopt(_state_dict(unpickle.read(data, path), path), path)
    origin = {"origin": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    return row, state, {**origin, "licence": NETWORKS[row].licence}


def _load_own(path: Path) -> tuple[str, State, dict[str, str]]:
    card = model_file.load(path).card
    if card.model not in NETWORKS:
        raise BadInput(f"{path}: its card names model '{card.model}'; known: {', '.join(NETWORKS)}")
    try:
        adopted = match(load_tensors(path.read_bytes()), [(card.model, lambda own: own)])
    except (SafetensorError, BadInput) as error:
        raise BadInput(f"{path}: {error}") from error
    if adopted is None:
        raise BadInput(f"{path}: its card says {card.model}, its tensors are of another network")
    return *adopted, card.weights


def _state_dict(content: Any, path: Path) -> State:
    """The state dict itself, bare or under the key where the known training scripts put it."""
    for key in ("model_state_dict", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise BadInput(f"{path}: holds no state dict; expected one, bare or under model_state_dict or state_dict")
    return {str(name): tensor for name, tensor in content.items()}
