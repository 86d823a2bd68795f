"""Protocol: image geometry, metrics of a pair, and the summary over all pairs.

Section and Q numbers: docs/concepts/protocols.md. The rows themselves are in `lf.benchmarks`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lf.benchmarks.protocols.geometry import Geometry, Size, image_size
from lf.benchmarks.protocols.summary import Aggregate
from lf.core import Array, Features, LfError, UsageError, pick
from lf.data import TRUTHS, Pair
from lf.data.cameras import RelativePose

FORMULAS = 1  # raised when code that protocols share changes their values; `Protocol.version`, when its own does

Scale = tuple[float, float]  # (x, y) prepared pixels per native pixel
Scores = dict[str, float | None]
Truth = Array | RelativePose  # homography (3, 3) or pose, first image -> second


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol: every value it yields is a function of this row and the features.

    Attributes:
        name: its key in PROTOCOLS.
        version: raised when a change of code changes a value.
        size: (H, W) of the prepared images, or None for native size.
        geometry: how images and homographies get to that size.
        scorer: (Features, Features, truth, **params) -> Scores; of labelled images see `lf.benchmarks.run.segment`.
        params: k, thresholds (px) and RANSAC settings; keyword arguments of `scorer`.
        metrics: names that `score` returns, in order; rows of METRICS.
        aggregates: numbers of a run that are no mean of a metric, or of fewer pairs; rows of METRICS.
        inlier_mask: family of OpenCV's RANSAC inlier mask behind inlier counts, or None if it has none (Q4).
        without: sequences that it leaves out.
        unscored: whether it takes all points where they have no scores, whatever its `k`; the others need `k` best.
        above: family of a network in `lf.models` -> the score that its points must exceed, where the protocol has a
            threshold of its own beside the model's.
        truth: what a pair must have: a key of TRUTHS.
    """

    name: str
    version: int
    size: Size | None
    geometry: Geometry
    scorer: Callable[..., Scores]
    params: Mapping[str, Any]
    metrics: tuple[str, ...]
    aggregates: Mapping[str, Aggregate] = field(default_factory=dict)
    inlier_mask: str | None = None
    without: tuple[str, ...] = ()
    unscored: bool = False
    above: Mapping[str, float] = field(default_factory=dict)
    truth: str = "homography"

    def check(self, pairs: Sequence[Pair], dataset: str) -> None:
        """Raise UsageError if pairs have another truth than this protocol scores against."""
        if other := next((pair.kind for pair in pairs if pair.kind != self.truth), None):
            (needs, fits), (has, _) = TRUTHS[self.truth], TRUTHS[other]
            raise UsageError(f"protocol {self.name} needs {needs}, {dataset} has {has}; {fits}")

    def prepare(self, image: Array, channels: int) -> tuple[Array, Scale]:
        """Bring uint8 (H, W, 3) RGB to the protocol's size: uint8 (h, w) grey for 1 channel, (h, w, 3) for 3."""
        matrix = self.matrix(image_size(image))
        prepared = self.geometry.prepare(image, channels, self.size or image_size(image))
        return prepared, (float(matrix[0, 0]), float(matrix[1, 1]))

    def matrix(self, native: Size) -> Array:
        """(3, 3): where this protocol takes the pixels of an image of (H, W) `native` to be after `prepare`."""
        return self.geometry.matrix(native, self.size or native)

    def kept(self, native: Size) -> Size:
        """Rows and columns, from the top left, that this protocol keeps of an image of (H, W) `native`."""
        return self.geometry.kept(native, self.size or native)

    def homography(self, native: Array, size0: Size, size1: Size) -> Array:
        """(3, 3) between the prepared images, from the (3, 3) between the native ones and their (H, W)."""
        return self.geometry.homography(np.asarray(native, dtype=np.float64), size0, size1, self.size or size0)

    def between(self, pair: Pair, size0: Size, size1: Size) -> Truth:
        """The truth between the prepared images of a pair, from the (H, W) of the native ones.

        Raises:
            UsageError: see `check`.
        """
        self.check([pair], f"{pair.sequence} {pair.name}")
        if isinstance(pair.truth, RelativePose):
            return pair.truth.moved(self.matrix(size0), self.matrix(size1))
        return self.homography(pair.truth, size0, size1)

    def score(self, features0: Features, features1: Features, truth: Truth) -> Scores:
        """Score one pair; None is undefined. Few, no or degenerate points are a result, not an error (section 4).

        Args:
            features0: of the first image, pixels of the prepared image.
            features1: of the second image, likewise.
            truth: between the prepared images: a homography (3, 3) that is invertible, or a relative pose.

        Raises:
            LfError: the features are not of prepared images, or the truth is of the other kind.
        """
        if isinstance(truth, RelativePose) != (self.truth == "pose"):
            raise LfError(f"protocol {self.name} scores against {TRUTHS[self.truth][0]}, got {type(truth).__name__}")
        for features in (features0, features1):
            if self.size and features.size[::-1] != self.size:
                raise LfError(f"protocol {self.name} scores (H, W) {self.size}, got features of {features.size[::-1]}")
        known = truth if isinstance(truth, RelativePose) else np.asarray(truth, dtype=np.float64)
        return self.scorer(features0, features1, known, **self.params)

    def vary(self, **params: Any) -> Protocol:
        """The same protocol with other parameters; its digest tells it from the published one.

        Raises:
            UsageError: it has no such parameter.
        """
        for name in params:
            pick(self.params, name, f"parameter of protocol {self.name}")
        return replace(self, params={**self.params, **params})

    def describe(self) -> dict[str, Any]:
        """Definition of the protocol for results; JSON."""
        names = ("name", "version", "size", "params", "metrics", "inlier_mask", "without")
        return {
            **{name: getattr(self, name) for name in names},
            "geometry": self.geometry.name,
            "formulas": FORMULAS,
            "aggregates": {name: [of, statistic.about] for name, (of, statistic) in self.aggregates.items()},
            **({"above": self.above} if self.above else {}),  # the digests of the others stay
            **({"truth": self.truth} if self.truth != "homography" else {}),
        }

    @property
    def digest(self) -> str:
        """12 hex digits over `describe`: equal digests, comparable values."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:12]
