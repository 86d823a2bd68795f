"""Search for the cheapest bits within a budget: choose the layers with more bits than the scheme.

Whether an assignment keeps the budget is asked of the benchmark, which takes time; so the search asks little. All
layers are raised one step until the budget is kept, a ranking is bisected for how many of them need it, and then the
dearest are lowered again, one by one. It presumes what holds but for noise: more bits do not lose more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lf.core import LfError
from lf.quantize.search.sensitivity import Drops

FLOAT = 3.5  # times as long a convolution takes in float: what lf bench measures of whole networks is 3 to 4
WIDEST_INTEGER = 8  # bits
EXACT = 1e-12  # a drop of just the budget keeps it

Bits = Mapping[str, int]  # layer -> bits of its weights


class Spent(LfError):
    """The evaluations that were allowed are used up."""


class Layer(NamedTuple):
    """Cost of a convolution.

    Attributes:
        ladder: the bits that it may have, rising; one step if they are not searched.
        operations: multiply-adds in a picture of SIZE.
        weights: how many.
    """

    ladder: tuple[int, ...]
    operations: int
    weights: int


class Cost(NamedTuple):
    """Of an assignment, compared in this order: predicted time first, bytes where that is the same.

    Attributes:
        time: multiply-adds, those in float counted FLOAT times.
        bytes: of the weights.
    """

    time: float
    bytes: float


def cost(layers: Mapping[str, Layer], bits: Bits) -> Cost:
    """Cost of an assignment of bits."""
    time = sum(row.operations * (1 if bits[name] <= WIDEST_INTEGER else FLOAT) for name, row in layers.items())
    # Up to 4 bits share a byte by two.
    size = sum(row.weights * max(bits[name], 4) / 8 for name, row in layers.items())
    return Cost(time, size)


def excess(drops: Drops, budget: Mapping[str, float]) -> float:
    """The largest drop in excess of its budget, in the unit of its metric; none is <= EXACT, inf without a value."""
    values = {metric: drops[metric].drop for metric in budget}
    return max(float("inf") if value is None else value - budget[metric] for metric, value in values.items())


def strain(drops: Drops, budget: Mapping[str, float]) -> float:
    """The largest drop in units of its budget, by which layers are ranked; 0 where nothing drops."""
    values = [(drops[metric].drop, limit) for metric, limit in budget.items()]
    return max(0.0, *(float("inf") if drop is None else drop / max(limit, EXACT) for drop, limit in values))


def cheapest(
    layers: Mapping[str, Layer],
    keeps: Callable[[Bits], bool],
    rank: Callable[[Bits, Bits], Sequence[str]],
) -> Bits | None:
    """Search an assignment.

    Args:
        layers: what may be raised, and what it costs.
        keeps: whether an assignment keeps the budget; raises Spent when it may not be asked any more.
        rank: (bits before, bits after) -> the layers that differ, those first that gain most by it.

    Returns:
        The cheapest assignment that was found to keep the budget; None if none was.
    """
    found: Bits | None = None
    try:
        low: Bits = {name: row.ladder[0] for name, row in layers.items()}
        if keeps(low):
            return low
        high = _raised(layers, low, layers)
        while not keeps(high):
            if high == low:
                return None
            low, high = high, _raised(layers, high, layers)
        found = high
        order = [name for name in rank(low, high) if high[name] != low[name]]
        few, enough = 0, len(order)
        while enough - few > 1:
            middle = (few + enough) // 2
            tried = _raised(layers, low, order[:middle])
            if keeps(tried):
                found, enough = tried, middle
            else:
                few = middle
        for name in _dearest(layers, found):
            tried = {**found, name: _below(layers[name], found[name])}
            if keeps(tried):
                found = tried
    except Spent:
        pass
    return found


def _raised(layers: Mapping[str, Layer], bits: Bits, names: Sequence[str] | Mapping[str, Layer]) -> Bits:
    """`bits` with the layers `names` one step higher, where they are not at the top."""
    return {**bits, **{name: next((b for b in layers[name].ladder if b > bits[name]), bits[name]) for name in names}}


def _below(layer: Layer, bits: int) -> int:
    return max(b for b in layer.ladder if b < bits)


def _dearest(layers: Mapping[str, Layer], bits: Bits) -> list[str]:
    """The layers above the foot of their ladder, those first that would save most a step lower."""
    above = [name for name, row in layers.items() if bits[name] > row.ladder[0]]
    return sorted(above, key=lambda name: cost(layers, {**bits, name: _below(layers[name], bits[name])}))
