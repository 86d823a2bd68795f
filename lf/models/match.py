"""Match the tensors of a checkpoint with the networks of lf, by names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lf.core import BadInput
from lf.models import NETWORKS, state_dicts
from lf.models.inert_pickle import shown
from lf.models.row import CLASS_LAYER

State = dict[str, Tensor]
Adopted = tuple[str, State]
Wanted = dict[str, tuple[str, Tensor]]  # name in the file -> our name, and a tensor of that shape and type

ALIKE = 0.5  # smallest share of common tensors of a state dict that "looks like" a family
WEIGHTS = (  # integers would be weights only with their scale
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
)
MOST_CLASSES = 1 << 16  # largest number of classes of a segmentation to compare
COUNTER = "num_batches_tracked"  # of batch normalisation, without effect on a trained network


class Misfit(BadInput):
    """A state dict nearly fits a network; `share` is the share of matching tensors, 1 if several networks fit."""

    def __init__(self, text: str, share: float = 1.0) -> None:
        super().__init__(text)
        self.share = share


def match(state: Mapping[str, Any], candidates: Iterable[tuple[str, Callable[[str], str]]]) -> Adopted | None:
    """Find the row with exactly the tensors of `state`, by names and shapes.

    Args:
        state: public name -> tensor. Wrappers of names are ignored, see `lf.models.state_dicts.bare`.
            `num_batches_tracked` may be missing, as before torch 0.4.1; it becomes 0.
        candidates: (row, function from our tensor name to the public one).

    Raises:
        Misfit: `state` is similar to a candidate, or fits several; the text gives the reason.
    """
    unwrapped = _unwrap(state)
    fits, nearest, why = dict[str, State](), ALIKE, ""
    for row, public in candidates:
        wanted, wrapped = _wanted(row, public)
        held, twice = (state, "") if wrapped else unwrapped
        wanted = _resized(row, public, wanted, held)
        if not held.keys() & wanted.keys():
            continue
        wrong = [name for name, (own, tensor) in wanted.items() if not _fits(held, name, own, tensor)]
        more = [name for name in held if name not in wanted]
        if not wrong and not more and not twice:
            fits[row] = {own: _converted(held.get(name), tensor) for name, (own, tensor) in wanted.items()}
            continue
        share = (len(wanted) - len(wrong)) / (len(wanted) + len(more))
        if share >= nearest:
            nearest, why = share, f"checkpoint looks like {row} but {_misfit(held, wanted, wrong, more, twice)}"
    if len(fits) > 1:
        raise unclear(fits)
    if why and not fits:
        raise Misfit(why, nearest)
    return next(iter(fits.items()), None)


@lru_cache(256)
def _wanted(row: str, public: Callable[[str], str], classes: int | None = None) -> tuple[Wanted, bool]:
    """Return the tensors of a row by bare name and False; or by public name and True if bare names are ambiguous."""
    shapes = _shapes(row, classes)
    names = state_dicts.bare(map(public, shapes))
    if len({*names.values()}) < len(shapes):
        return {public(own): (own, tensor) for own, tensor in shapes.items()}, True
    return {names[public(own)]: (own, tensor) for own, tensor in shapes.items()}, False


def _resized(row: str, public: Callable[[str], str], wanted: Wanted, held: Mapping[str, Any]) -> Wanted:
    """Return the same tensors for the number of classes of the file, if the network has a segmentation."""
    if not NETWORKS[row].per_class:
        return wanted
    found = held.get(next(name for name, (own, _) in wanted.items() if own == CLASS_LAYER))
    if not isinstance(found, Tensor) or found.ndim != 1 or not 0 < len(found) <= MOST_CLASSES:
        return wanted
    return _wanted(row, public, len(found))[0]


@lru_cache(256)
def _shapes(row: str, classes: int | None) -> State:
    with torch.device("meta"):
        return NETWORKS[row].for_classes(classes).build().state_dict()


def _unwrap(state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the state dict by bare names, and a remark if different tensors get the same name."""
    held, origin, twice = dict[str, Any](), dict[str, str](), ""
    for name, plain in state_dicts.bare(state).items():
        if plain in held and not same(held[plain], state[name]):
            twice = f"{shown(origin[plain])} and {shown(name)} differ; save the one you want alone"
        held[plain], origin[plain] = state[name], name
    return held, twice


def same(a: Any, b: Any) -> bool:
    """Return whether two values are the same tensor."""
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)


def _fits(held: Mapping[str, Any], name: str, own: str, tensor: Tensor) -> bool:
    if name not in held:
        return own.endswith(COUNTER)
    found = held[name]
    if not isinstance(found, Tensor) or found.shape != tensor.shape:
        return False
    return found.dtype in WEIGHTS if tensor.is_floating_point() else not found.is_complex()


def _converted(found: Tensor | None, tensor: Tensor) -> Tensor:
    return torch.zeros((), dtype=tensor.dtype) if found is None else found.to(tensor.dtype).contiguous()


def _misfit(held: Mapping[str, Any], wanted: Wanted, wrong: list[str], more: list[str], twice: str) -> str:
    if not wrong and more:
        return f"also holds {shown(more[0])}" + (f" and {len(more) - 1} more" if more[1:] else "")
    if not wrong:
        return f"its {twice}"
    name = wrong[0]
    tensor, found = wanted[name][1], held.get(name)
    if isinstance(found, Tensor):
        which = f" of {found.dtype}" if found.shape == tensor.shape else ""
        said = f"is {tuple(found.shape)}{which}"
    else:
        said = f"is {state_dicts.kind(found)}" if name in held else "is missing"
    others = f" ({len(wrong) - 1} more do not fit)" if wrong[1:] else ""
    return f"{name} {said}; expected {tuple(tensor.shape)}{others}"


def itself(own: str) -> str:
    """Return our name as the public name, for tensors that are saved under our names."""
    return own


def unclear(rows: Iterable[str]) -> Misfit:
    """Return the error for tensors that fit several networks."""
    return Misfit(
        f"checkpoint fits {' and '.join(rows)} alike, whose tensors have the same names and shapes; "
        "expected a .safetensors with a card that says which, as lf train writes it"
    )
