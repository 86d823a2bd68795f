"""Forms of a head in other tools: raw, activated, unfolded to pixels; and how to get the raw head back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lf.core import Array
from lf.formats.onnx_graph import Graph
from lf.models.decode import CELL, heatmap, sigmoid, unfold

ONE = 1e-3  # tolerance of a sum of probabilities or a length that should be 1
LITTLE = 1e-12  # smallest probability for the logarithm
SURE = 1e-6  # the logit of a probability nearer than this to 0 or 1 is lost


def always(value: Array) -> bool:
    """Accept all values, for forms that only the graph shows."""
    return False


@dataclass(frozen=True)
class Form:
    """A form of a head.

    Attributes:
        name: description for cards and errors.
        shape: its (channels, stride).
        apply: raw (C, h, w) -> this form.
        shows: returns whether values (c, h, w) are surely of this form, if the graph does not show it.
        undo: appends nodes to a graph that make a tensor (1, c, h, w) raw again, and returns its name.
    """

    name: str
    shape: tuple[int, int]
    apply: Callable[[Array], Array]
    shows: Callable[[Array], bool]
    undo: Callable[[Graph, str], str]


def forms(head: str, shape: tuple[int, int], descriptor: str, values: str = "logits") -> list[Form]:
    """Return the forms of a head, the raw form first.

    Args:
        head: name of the head in the network's row.
        shape: its (channels, stride).
        descriptor: name of the head that holds the descriptors.
        values: `scores` if the decoder uses scores directly.
    """
    channels, stride = shape
    raw = Form("raw", shape, _same, always, _keep)
    if head == descriptor:
        return [raw, Form("of unit length", shape, _unit, _is_unit, _keep)]
    if shape == (65, CELL):
        return [
            raw,
            Form("softmax", shape, _softmax, _is_softmax, _log),
            Form("softmax without the dustbin", (64, CELL), lambda v: _softmax(v)[:-1], _is_share, _with_dustbin),
            Form("softmax, pixels unfolded", (1, 1), lambda v: heatmap(v)[None], _is_heat, _from_heat),
        ]
    found = [raw]
    if head in ("score", "reliability") and values == "logits":
        found.append(Form("sigmoid", shape, sigmoid, always, _logit))
    if head == "shift":
        found.append(Form("tanh", shape, np.tanh, always, _atanh))
    if channels == stride * stride > 1:
        found.append(Form("pixels unfolded", (1, 1), lambda v: unfold(v, stride)[None], _is_raw, _fold(stride)))
        if values == "logits":
            found.append(
                Form(
                    "sigmoid, pixels unfolded",
                    (1, 1),
                    lambda v: sigmoid(unfold(v, stride))[None],
                    always,
                    _fold_logit(stride),
                )
            )
    return found


def _same(value: Array) -> Array:
    return value


def _unit(value: Array) -> Array:
    return np.asarray(value / np.maximum(np.sqrt((value * value).sum(0)), np.float32(1e-12)))


def _softmax(value: Array) -> Array:
    odds = np.exp(value - value.max(0))
    return np.asarray(odds / odds.sum(0))


def _is_unit(value: Array) -> bool:
    return bool(np.abs(np.sqrt((value * value).sum(0)) - 1).max() < ONE)


def _is_softmax(value: Array) -> bool:
    return bool(value.min() >= 0 and np.abs(value.sum(0) - 1).max() < ONE)


def _is_share(value: Array) -> bool:
    return bool(value.min() >= 0 and value.sum(0).max() < 1 + ONE)


def _is_heat(value: Array) -> bool:
    rows, columns = value.shape[1] // CELL, value.shape[2] // CELL
    cells = value[0, : rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)
    return bool(value.min() >= 0 and cells.sum((1, 3)).max() < 1 + ONE)


def _is_raw(value: Array) -> bool:
    """Return whether values are outside the range of a sigmoid."""
    return bool(value.min() < 0 or value.max() > 1)


def _keep(g: Graph, tensor: str) -> str:
    return tensor


def _log(g: Graph, tensor: str) -> str:
    return g("Log", g("Max", tensor, LITTLE))


def _with_dustbin(g: Graph, tensor: str) -> str:
    rest = g("Sub", 1.0, g("ReduceSum", tensor, [1], keepdims=1))
    return _log(g, g("Concat", tensor, rest, axis=1))


def _from_heat(g: Graph, tensor: str) -> str:
    return _with_dustbin(g, g("SpaceToDepth", tensor, blocksize=CELL))


def _logit(g: Graph, tensor: str) -> str:
    sure = g("Min", g("Max", tensor, SURE), 1 - SURE)
    return g("Log", g("Div", sure, g("Sub", 1.0, sure)))


def _atanh(g: Graph, tensor: str) -> str:
    return g("Atanh", g("Min", g("Max", tensor, SURE - 1), 1 - SURE))


def _fold(stride: int) -> Callable[[Graph, str], str]:
    return lambda g, tensor: g("SpaceToDepth", tensor, blocksize=stride)


def _fold_logit(stride: int) -> Callable[[Graph, str], str]:
    return lambda g, tensor: _logit(g, g("SpaceToDepth", tensor, blocksize=stride))
