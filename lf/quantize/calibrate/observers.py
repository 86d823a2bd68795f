"""Range methods of calibration: from the values of an activation to its range. numpy only.

An observer sees the tensor of one picture at a time and keeps a state of fixed size. Histograms have bins of a power of
two, aligned to zero: when the range grows, pairs of bins merge exactly, so the result is that of all pictures at once,
in any order, and no second pass is needed. Ours, because ONNX and TFLite files take the same ranges from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from lf.core import Array, UsageError, pick

BINS = 8192  # at most, at least half of them in use: 16 per step of 8 bits, so that a bin is no cause of error
PART = 1 << 15  # values that are counted at a time: what a core's cache takes
CONSTANT = 0.01  # weight of the newest picture in a moving average
PERCENTILE = 99.999  # %
CANDIDATES = 128  # clipping thresholds that are tried
LOWEST = -100  # exponent of the narrowest bin; below, a tensor is as good as zero


class Observer(Protocol):
    """Sees one tensor, picture by picture."""

    def update(self, values: Array) -> None:
        """Take in the finite float32 values of one picture, of any shape."""
        ...

    def range(self) -> tuple[float, float]:
        """(low, high) to be quantized."""
        ...


class MinMax:
    """From the smallest value ever seen to the largest: nothing is clipped."""

    def __init__(self) -> None:
        """Nothing seen."""
        self.low, self.high = math.inf, -math.inf

    def update(self, values: Array) -> None:
        """See `Observer`."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def range(self) -> tuple[float, float]:
        """See `Observer`."""
        return self.low, self.high


class MovingAverage:
    """Averages of the extremes of the pictures: the plain mean of the first 100, then exponential with CONSTANT.

    Exponential from the first picture on, as training frameworks do it over thousands of batches, would give that one
    picture 0.73 of the weight after 32.
    """

    def __init__(self) -> None:
        """Nothing seen."""
        self.low = self.high = 0.0
        self.count = 0

    def update(self, values: Array) -> None:
        """See `Observer`."""
        self.count += 1
        weight = max(CONSTANT, 1 / self.count)
        self.low += weight * (float(values.min()) - self.low)
        self.high += weight * (float(values.max()) - self.high)

    def range(self) -> tuple[float, float]:
        """See `Observer`."""
        return self.low, self.high


class Histogram:
    """Counts in at most BINS bins: bin i holds [i, i + 1) * width; a rule makes a range of them.

    Attributes:
        low, high: the extremes seen.
        width: of a bin, the smallest power of two with which the extremes fit.
        first: number of the first bin.
        counts: (n,) int64.
        zeros: how many values are zero, which every quantizer represents exactly.
    """

    def __init__(self, rule: Callable[[Histogram], tuple[float, float]]) -> None:
        """Nothing seen."""
        self.low, self.high, self.rule = math.inf, -math.inf, rule
        self.exponent, self.first, self.zeros = LOWEST, 0, 0
        self.counts: Array = np.zeros(0, np.int64)

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1, self.exponent)

    @property
    def edges(self) -> Array:
        """(n + 1,) float64."""
        return (self.first + np.arange(len(self.counts) + 1)) * self.width

    def update(self, values: Array) -> None:
        """See `Observer`."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self._fit(_exponent(self.low, self.high))
        flat, factor = values.reshape(-1), np.float32(math.ldexp(1, -self.exponent))
        for start in range(0, len(flat), PART):
            part = flat[start : start + PART]
            index = part * factor  # a power of two: exact
            numbers = np.floor(index, out=index).astype(np.int64)
            numbers -= self.first
            self.counts += np.bincount(numbers, minlength=len(self.counts))
            self.zeros += int(np.count_nonzero(part == 0))

    def range(self) -> tuple[float, float]:
        """See `Observer`."""
        return self.rule(self)

    def without_zeros(self) -> Array:
        """The counts of the values that are not zero."""
        counts = self.counts.copy()
        if self.zeros:
            counts[-self.first] -= self.zeros
        return counts

    def _fit(self, exponent: int) -> None:
        """Merge bins to width 2**exponent, and extend the histogram to the extremes."""
        first, last = _bin(self.low, exponent), _bin(self.high, exponent)
        counts = np.zeros(last - first + 1, np.int64)
        merged = (self.first + np.arange(len(self.counts))) >> (exponent - self.exponent)
        np.add.at(counts, merged - first, self.counts)
        self.exponent, self.first, self.counts = exponent, first, counts


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def _exponent(low: float, high: float) -> int:
    """The narrowest bins with which [low, high] takes at most BINS, and no bin number needs more than 30 bits."""
    largest = max(abs(low), abs(high))
    exponent = max(LOWEST, _power(largest) - 30, _power((high - low) / BINS) - 1)
    while _bin(high, exponent) - _bin(low, exponent) >= BINS:
        exponent += 1
    return exponent


def _power(value: float) -> int:
    return math.frexp(value)[1] if value else LOWEST


def percentile(histogram: Histogram, share: float) -> tuple[float, float]:
    """Cut (100 - share) / 2 percent of the values off either end, to the width of a bin."""
    total, edges = np.cumsum(histogram.counts), histogram.edges
    cut = (100 - share) / 200 * total[-1]
    low = edges[np.searchsorted(total, cut, side="right")]
    high = edges[np.searchsorted(total, total[-1] - cut, side="left") + 1]
    return max(histogram.low, float(low)), min(histogram.high, float(high))


def entropy(histogram: Histogram, levels: int) -> tuple[float, float]:
    """The symmetric threshold that loses least information, in Kullback-Leibler divergence (Migacz, GTC 2017).

    The clipped values count at the edges of P; Q is what `levels` equal groups of bins keep of P without them. Zeros
    are left out: they are exact, and their spike would make every wide group look bad. Not less than one bin per level.
    """
    counts, edges = histogram.without_zeros(), histogram.edges
    best, least = (histogram.low, histogram.high), math.inf
    largest = max(abs(histogram.low), abs(histogram.high))
    for threshold in np.linspace(largest, 0, CANDIDATES, endpoint=False):
        start = max(0, math.floor(-threshold / histogram.width) - histogram.first)
        stop = min(len(counts), math.ceil(threshold / histogram.width) - histogram.first)
        if stop - start < levels:
            break
        divergence = _divergence(counts, start, stop, levels)
        if divergence < least:
            least = divergence
            best = max(histogram.low, float(edges[start])), min(histogram.high, float(edges[stop]))
    return best


def _divergence(counts: Array, start: int, stop: int, levels: int) -> float:
    inside = counts[start:stop].astype(np.float64)
    if not inside.any():
        return math.inf
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()
    present = p > 0
    begin = np.arange(levels) * len(p) // levels
    kept, places = np.add.reduceat(inside, begin), np.add.reduceat(present, begin, dtype=np.int64)
    q = np.repeat(kept / np.maximum(places, 1), np.diff(begin, append=len(p)))[present]
    q = np.maximum(q, 1)  # an edge that holds nothing but what was clipped; elsewhere a bin has its own value
    p, q = p[present] / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def mse(histogram: Histogram, levels: int) -> tuple[float, float]:
    """The range whose quantizer with `levels` steps has the least squared error; both ends are searched in turn."""
    counts, centres = histogram.without_zeros(), histogram.edges[:-1] + histogram.width / 2

    def error(low: float, high: float) -> float:
        scale = (high - low) / (levels - 1)
        if not scale:
            return math.inf
        zero = round(-low / scale)
        steps = np.clip(np.rint(centres / scale), -zero, levels - 1 - zero)
        return float(counts @ np.square(centres - steps * scale))

    shrunk = np.linspace(1, 0, CANDIDATES, endpoint=False)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    both = min(shrunk, key=lambda factor: error(low * factor, high * factor))
    ends = low * both, high * both
    if low < 0 < high:
        for _ in range(2):
            ends = min(((low * factor, ends[1]) for factor in shrunk), key=lambda pair: error(*pair))
            ends = min(((ends[0], high * factor) for factor in shrunk), key=lambda pair: error(*pair))
    return float(ends[0]), float(ends[1])


CALIBRATIONS: dict[str, str] = {
    "minmax": "smallest and largest value over all images",
    "moving-average": "mean of the smallest and largest values of each image",
    "percentile": f"covers this share of the values, percentile:{PERCENTILE} by default",
    "entropy": "smallest loss of information",
    "mse": "smallest mean squared error",
}


def observer(method: str, bits: int) -> Callable[[], Observer]:
    """Factory of observers, one per tensor.

    Args:
        method: a name of CALIBRATIONS; percentile may carry its share in percent, as in `percentile:99.9`.
        bits: of the activations.

    Raises:
        UsageError: no such method, or no such share.
    """
    name, colon, argument = method.partition(":")
    pick(CALIBRATIONS, name, "calibration")
    if colon and name != "percentile":
        raise UsageError(f"calibration {name} takes no argument; type: `calibration={name}`")
    if name == "percentile":
        return partial(Histogram, partial(percentile, share=_share(argument) if colon else PERCENTILE))
    rules: dict[str, Callable[[], Observer]] = {
        "minmax": MinMax,
        "moving-average": MovingAverage,
        "entropy": partial(Histogram, partial(entropy, levels=2**bits)),
        "mse": partial(Histogram, partial(mse, levels=2**bits)),
    }
    return rules[name]


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 50 < share <= 100:
        raise UsageError(f"percentile:{text}: expected a percentage above 50, for example percentile:{PERCENTILE}")
    return share
