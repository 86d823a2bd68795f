"""Find the state dicts in a checkpoint, under any keys and prefixes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from lf.models.inert_pickle import OtherTensor, Placeholder, shown

# prefixes of names by torch.compile, data-parallel training, FSDP and training scripts, at any level
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "model", "net", "network"}
COUNTERS = {"n_averaged"}  # of torch.optim.swa_utils.AveragedModel, beside the names of the network
MOST_LEVELS = 8  # largest depth of nested containers to search
MOST_NAMED = 3  # entries of a checkpoint in an error


def find(content: Any) -> list[tuple[str, dict[str, Any]]]:
    """List the dictionaries of named tensors, outermost first, each with the keys that lead to it.

    Other entries are left out: numbers, words, settings. Containers are searched.
    """
    found, seen = [], set[int]()
    queue = deque([("", content, 0)])
    while queue:
        where, value, level = queue.popleft()
        value = (value.items or {}) if isinstance(value, Placeholder) else value
        if id(value) in seen or level > MOST_LEVELS or not isinstance(value, dict | list | tuple):
            continue
        seen.add(id(value))
        if isinstance(value, dict) and any(isinstance(each, Tensor) for each in value.values()):
            found.append((where, {str(k): each for k, each in value.items() if isinstance(each, Tensor | OtherTensor)}))
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        queue += [
            (f"{where}[{key if type(key) is int else repr(shown(key))}]", each, level + 1)
            for key, each in inner
            if isinstance(each, Placeholder) or (isinstance(each, dict | list | tuple) and each)
        ]
    return found


def bare(names: Iterable[str]) -> dict[str, str]:
    """Map each name to the same name without wrappers and without the common first parts of all names.

    `module._orig_mod.conv1a.weight` and `extractor.model.conv1a.weight` become `conv1a.weight`.
    """
    parts = {name: [part for part in name.split(".") if part not in WRAPPERS] for name in names}
    parts = {name: left for name, left in parts.items() if ".".join(left) not in COUNTERS}
    shared = _shared(list(parts.values()))
    return {name: ".".join(left[shared:]) for name, left in parts.items()}


def _shared(names: list[list[str]]) -> int:
    """Return the number of common first parts of all names, without the last part of a name."""
    if not names:
        return 0
    least, most = min(names), max(names)  # the first and the last of sorted names have the shortest common prefix
    shared = 0
    while shared < min(len(least), len(most)) - 1 and least[shared] == most[shared]:
        shared += 1
    return shared


def groups(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Split a state dict by the first part of names."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in state.items():
        first, dot, rest = name.partition(".")
        if dot:
            found.setdefault(first, {})[rest] = value
    return found


def kind(value: Any) -> str:
    """Name the kind of a value, for errors."""
    if isinstance(value, Tensor):
        return f"a tensor {size(value)}"
    return shown(value.name) if isinstance(value, Placeholder) else type(value).__name__


def size(value: Any) -> str:
    """Format the shape of a tensor, or describe another value."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"({kind(value)})"


def contents(content: Any) -> str:
    """Describe contents that are not a state dict, for errors."""
    if isinstance(content, Placeholder):
        return f"an object of {shown(content.name)}; save its weights with torch.save(model.state_dict(), FILE)"
    if not isinstance(content, dict) or not content:
        return f"{kind(content)}{', empty' if content == {} else ''}"
    some = ", ".join(f"{shown(key)} ({kind(value)})" for key, value in list(content.items())[:MOST_NAMED])
    return some + (", ..." if len(content) > MOST_NAMED else "")
