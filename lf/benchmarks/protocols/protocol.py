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

FORMULAS = 1  # increased when shared code changes values; `Protocol.version` is for a protocol's own code

Scale = tuple[float, float]  # (x, y) prepared pixels per native pixel
Scores = dict[str, float | None]
Truth = Array | RelativePose  # homography (3, 3) or pose, first image -> second


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol. All its values depend only on this row and the features.

    Attributes:
        name: its key in PROTOCOLS.
        version: increased when a change of code changes a value.
        size: (H, W) of the prepared images, or None for native size.
        geometry: conversion of images and homographies to that size.
        scorer: (Features, Features, truth, **params) -> Scores; of labelled images see `lf.benchmarks.run.segment`.
        params: k, thresholds (px) and RANSAC settings; keyword arguments of `scorer`.
        metrics: names that `score` returns, in order; rows of METRICS.
        aggregates: numbers of a run that are not the mean of a metric over all pairs; rows of METRICS.
        inlier_mask: definition of the RANSAC inlier mask behind inlier counts, or None without such counts (Q4).
        without: sequences that are left out.
        unscored: True: if points have no scores, all are used, whatever `k` is. False: points need scores.
        above: family of a network in `lf.models` -> the score that its points must exceed, in addition to the model's
            own threshold.
        truth: kind of ground truth of a pair: a key of TRUTHS.
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
        """Return (3, 3) from pixels of an image of (H, W) `native` to prepared pixels, as the protocol assumes."""
        return self.geometry.matrix(native, self.size or native)

    def kept(self, native: Size) -> Size:
        """Return how many rows and columns, from the top left, the protocol keeps of an image of (H, W) `native`."""
        return self.geometry.kept(native, self.size or native)

    def homography(self, native: Array, size0: Size, size1: Size) -> Array:
        """Return the homography (3, 3) between prepared images, from that between native images and their (H, W)."""
        return self.geometry.homography(np.asarray(native, dtype=np.float64), size0, size1, self.size or size0)

    def between(self, pair: Pair, size0: Size, size1: Size) -> Truth:
        """Return the ground truth between the prepared images of a pair, from the (H, W) of the native images.

        Raises:
            UsageError: see `check`.
        """
        self.check([pair], f"{pair.sequence} {pair.name}")
        if isinstance(pair.truth, RelativePose):
            return pair.truth.moved(self.matrix(size0), self.matrix(size1))
        return self.homography(pair.truth, size0, size1)

    def score(self, features0: Features, features1: Features, truth: Truth) -> Scores:
        """Score one pair; None means undefined. Few, no or degenerate points are no error (section 4).

        Args:
            features0: of the first image, pixels of the prepared image.
            features1: of the second image, pixels of the prepared image.
            truth: an invertible homography (3, 3) or a relative pose, between the prepared images.

        Raises:
            LfError: the features are not in pixels of prepared images, or the truth is of the other kind.
        """
        if isinstance(truth, RelativePose) != (self.truth == "pose"):
            raise LfError(f"protocol {self.name} scores against {TRUTHS[self.truth][0]}, got {type(truth).__name__}")
        for features in (features0, features1):
            if self.size and features.size[::-1] != self.size:
                raise LfError(f"protocol {self.name} scores (H, W) {self.size}, got features of {features.size[::-1]}")
        known = truth if isinstance(truth, RelativePose) else np.asarray(truth, dtype=np.float64)
        return self.scorer(features0, features1, known, **self.params)

    def vary(self, **params: Any) -> Protocol:
        """Return the protocol with other parameters, and so with another digest.

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
            **({"above": self.above} if self.above else {}),  # protocols without it keep their digests
            **({"truth": self.truth} if self.truth != "homography" else {}),
        }

    @property
    def digest(self) -> str:
        """Return 12 hex digits over `describe`. Values with equal digests are comparable."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:12]
