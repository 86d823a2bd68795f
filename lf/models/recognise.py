"""Recognise the network in a checkpoint by its tensors."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lf.core import BadInput
from lf.models import NETWORKS, state_dicts
from lf.models.inert_pickle import shown
from lf.models.match import Adopted, Misfit, State, itself, match, same, unclear

LEAST = 5  # least number of tensors of a network; an optimizer holds dictionaries of up to four
MOST_DICTS = 1000  # largest number of dictionaries to compare with the networks


def _recognise(state: Mapping[str, Any]) -> Adopted | None:
    """Try the public names of every network, then ours. An exact match is preferred to a near match."""
    fits, near = dict[str, State](), list[BadInput]()
    for module in dict.fromkeys(model.module for model in NETWORKS.values()):
        try:
            if adopted := importlib.import_module(module or "").adopt(state):
                fits[adopted[0]] = adopted[1]
        except BadInput as error:
            near.append(error)
    if len(fits) > 1:
        raise unclear(fits)
    if fits:
        return next(iter(fits.items()))
    try:
        if own := match(state, [(row, itself) for row in NETWORKS]):
            return own
    except BadInput as error:
        near.append(error)
    if near:
        raise max(near, key=_share)
    return None


def _share(error: BadInput) -> float:
    return error.share if isinstance(error, Misfit) else 0.0


def adopt(content: Any, path: Path) -> Adopted:
    """Find the state dict of a known network in the content of a checkpoint, at any level.

    Raises:
        BadInput: there is none, or there are several different ones.
    """
    dicts = _large(content, path)
    fits, near = list[tuple[str, Adopted]](), list[tuple[float, str]]()
    for where, state in dicts:
        try:
            if adopted := _recognise(state):
                fits.append((where, adopted))
            else:
                _check_alone(state)
        except BadInput as error:
            near.append((_share(error), f"{path}{where}: {error}"))
    if fits:
        return _only(fits, path)
    if near:
        raise BadInput(max(near, key=lambda each: each[0])[1])
    _, state = max(dicts, key=_count)
    some = ", ".join(f"{shown(name)} {state_dicts.size(value)}" for name, value in list(state.items())[:3])
    raise BadInput(f"{path}: its {len(state)} tensors ({some}, ...) fit no known family; known: {', '.join(NETWORKS)}")


def _large(content: Any, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the dictionaries of tensors that may be a network."""
    dicts = state_dicts.find(content)
    if not dicts:
        raise BadInput(
            f"{path}: holds no state dict; expected one, bare or under a key such as state_dict; "
            f"found {state_dicts.contents(content)}"
        )
    large = [each for each in dicts if _count(each) >= LEAST] or [max(dicts, key=_count)]
    if len(large) > MOST_DICTS:
        raise BadInput(f"{path}: holds {len(large)} dictionaries of tensors; save the state dict alone")
    return large


def _count(found: tuple[str, dict[str, Any]]) -> int:
    return len(found[1])


def _only(fits: list[tuple[str, Adopted]], path: Path) -> Adopted:
    """Return the network; several equal copies are allowed, different networks are an error."""
    where, (row, state) = fits[0]
    for other, (its_row, its_state) in fits[1:]:
        if its_row != row or not all(same(tensor, its_state[name]) for name, tensor in state.items()):
            first = f"under {where}" if where else "at its top level"
            raise BadInput(
                f"{path}: holds {row} {first} and {its_row} under {other}, which differ; "
                f"save the one you want alone, for example torch.save(torch.load(FILE){other}, OUT)"
            )
    return row, state


def _check_alone(state: dict[str, Any]) -> None:
    """Raise Misfit if one part of a state dict is a known network and the rest is something else."""
    found = {}
    large = {first: part for first, part in state_dicts.groups(state).items() if len(part) >= LEAST}
    for first, part in large.items() if len(large) <= MOST_DICTS else ():
        with suppress(BadInput):
            if adopted := _recognise(part):
                found[f"{shown(first)}."] = adopted[0]
    if found:
        rows = [f"{row} under {first}" for first, row in found.items()]
        raise Misfit(f"checkpoint holds {' and '.join(rows)}{', and other tensors' * (len(rows) < 2)}; save one alone")
