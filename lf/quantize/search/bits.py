"""Search for the cheapest bits within a budget: choose the layers with more bits than the scheme.

Each test of the budget is a benchmark, which takes time, so the search makes few. It raises all layers step by step
until the budget is kept, finds by bisection of a ranking how many of them need the last step, and then lowers the most
expensive layers again, one by one. It assumes that more bits do not lose more, which is true except for noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lf.core import LfError
from lf.quantize.search.sensitivity import Drops

FLOAT = 3.5  # time of a float convolution relative to 8 bits; lf bench measures 3 to 4 for whole networks
WIDEST_INTEGER = 8  # bits
EXACT = 1e-12  # tolerance, so that a drop equal to the budget keeps it

Bits = Mapping[str, int]  # layer -> bits of its weights


class Spent(LfError):
    """The allowed number of evaluations is used."""


class Layer(NamedTuple):
    """Cost of a convolution.

    Attributes:
        ladder: allowed bits in ascending order; a single step if they are not searched.
        operations: multiply-adds in an image of SIZE.
        weights: number of weights.
    """

    ladder: tuple[int, ...]
    operations: int
    weights: int


class Cost(NamedTuple):
    """Cost of an assignment of bits. Costs are compared by predicted time, then by bytes.

    Attributes:
        time: multiply-adds; those in float count FLOAT times.
        bytes: bytes of the weights.
    """

    time: float
    bytes: float


def cost(layers: Mapping[str, Layer], bits: Bits) -> Cost:
    """Return the cost of an assignment of bits."""
    time = sum(row.operations * (1 if bits[name] <= WIDEST_INTEGER else FLOAT) for name, row in layers.items())
    # Two weights of up to 4 bits share a byte.
    size = sum(row.weights * max(bits[name], 4) / 8 for name, row in layers.items())
    return Cost(time, size)


def excess(drops: Drops, budget: Mapping[str, float]) -> float:
    """Return the largest excess of a drop over its budget, in the unit of its metric; inf without a value.

    The budget is kept if the result is at most EXACT."""
    values = {metric: drops[metric].drop for metric in budget}
    return max(float("inf") if value is None else value - budget[metric] for metric, value in values.items())


def strain(drops: Drops, budget: Mapping[str, float]) -> float:
    """Return the largest drop in units of its budget, for ranking layers; 0 if nothing drops."""
    values = [(drops[metric].drop, limit) for metric, limit in budget.items()]
    return max(0.0, *(float("inf") if drop is None else drop / max(limit, EXACT) for drop, limit in values))


def cheapest(
    layers: Mapping[str, Layer],
    keeps: Callable[[Bits], bool],
    rank: Callable[[Bits, Bits], Sequence[str]],
) -> Bits | None:
    """Search the cheapest assignment of bits that keeps the budget.

    Args:
        layers: layers with their allowed bits and costs.
        keeps: returns whether an assignment keeps the budget; raises Spent if no evaluations are left.
        rank: (bits before, bits after) -> the layers that differ, those with the largest gain first.

    Returns:
        The cheapest assignment found that keeps the budget; None if there is none.
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
    """Return `bits` with the layers `names` one step higher, except at the top of their ladders."""
    return {**bits, **{name: next((b for b in layers[name].ladder if b > bits[name]), bits[name]) for name in names}}


def _below(layer: Layer, bits: int) -> int:
    return max(b for b in layer.ladder if b < bits)


def _dearest(layers: Mapping[str, Layer], bits: Bits) -> list[str]:
    """Return the layers that can go a step lower, those with the largest saving first."""
    above = [name for name, row in layers.items() if bits[name] > row.ladder[0]]
    return sorted(above, key=lambda name: cost(layers, {**bits, name: _below(layers[name], bits[name])}))
