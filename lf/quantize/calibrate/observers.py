"""Range methods of calibration: from the values of an activation to its range. numpy only.

An observer sees the tensor of one image at a time and keeps a state of fixed size. Histograms have bins of a power of
two, aligned to zero: when the range grows, pairs of bins merge exactly, so the result is that of all images at once,
in any order, and no second pass is needed. ONNX and TFLite files use the same ranges from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from lf.core import Array, UsageError, pick

BINS = 8192  # largest number, at least half in use: 16 per step of 8 bits, so that the width of bins causes no error
PART = 1 << 15  # values counted together, which fit the cache of a core
CONSTANT = 0.01  # weight of the newest image in a moving average
PERCENTILE = 99.999  # %
CANDIDATES = 128  # number of clipping thresholds to try
LOWEST = -100  # exponent of the narrowest bin; smaller tensors count as zero


class Observer(Protocol):
    """Observes the range of a tensor, image by image."""

    def update(self, values: Array) -> None:
        """Add the finite float32 values of one image, of any shape."""
        ...

    def range(self) -> tuple[float, float]:
        """Return the range (low, high) to quantize."""
        ...


class MinMax:
    """Observes the smallest and the largest value: nothing is clipped."""

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
    """Averages the extremes of images: the mean of the first 100, then exponentially with CONSTANT.

    An exponential average from the first image on, as in training frameworks with thousands of batches, would give the
    first image a weight of 0.73 after 32 images.
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
    """Counts values in at most BINS bins; bin i holds [i, i + 1) * width. A rule computes the range from them.

    Attributes:
        low, high: the extremes.
        width: width of a bin, the smallest power of two with which the extremes fit.
        first: number of the first bin.
        counts: (n,) int64.
        zeros: number of zeros, which every quantizer represents exactly.
    """

    def __init__(self, rule: Callable[[Histogram], tuple[float, float]]) -> None:
        """Nothing seen."""
        self.low, self.high, self.rule = math.inf, -math.inf, rule
        self.exponent, self.first, self.zeros = LOWEST, 0, 0
        self.counts: Array = np.zeros(0, np.int64)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1, self.exponent)

    @property
    def edges(self) -> Array:
        """Return the edges of the bins (n + 1,) float64."""
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
        """Return the counts without zeros."""
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
    """Return the exponent of the narrowest bins: at most BINS of them in [low, high], numbers of at most 30 bits."""
    largest = max(abs(low), abs(high))
    exponent = max(LOWEST, _power(largest) - 30, _power((high - low) / BINS) - 1)
    while _bin(high, exponent) - _bin(low, exponent) >= BINS:
        exponent += 1
    return exponent


def _power(value: float) -> int:
    return math.frexp(value)[1] if value else LOWEST


def percentile(histogram: Histogram, share: float) -> tuple[float, float]:
    """Clip (100 - share) / 2 percent of the values at each end, to the width of a bin."""
    total, edges = np.cumsum(histogram.counts), histogram.edges
    cut = (100 - share) / 200 * total[-1]
    low = edges[np.searchsorted(total, cut, side="right")]
    high = edges[np.searchsorted(total, total[-1] - cut, side="left") + 1]
    return max(histogram.low, float(low)), min(histogram.high, float(high))


def entropy(histogram: Histogram, levels: int) -> tuple[float, float]:
    """Find the symmetric threshold with the least Kullback-Leibler divergence (Migacz, GTC 2017).

    P counts clipped values at its edges. Q is P without them, averaged over `levels` equal groups of bins. Zeros are
    left out: they are exact, and their peak would dominate the divergence of wide groups. There is at least one bin per
    level.
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
    q = np.maximum(q, 1)  # an edge with only clipped values; other bins are not 0
    p, q = p[present] / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def mse(histogram: Histogram, levels: int) -> tuple[float, float]:
    """Find the range with the least squared error of a quantizer with `levels` steps, for both ends in turn."""
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
    """Return a factory of observers, one per tensor.

    Args:
        method: a name of CALIBRATIONS; percentile may have its share in percent, as in `percentile:99.9`.
        bits: bits of the activations.

    Raises:
        UsageError: unknown method, or invalid share.
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
