"""Compare two files of one network on the same images: maps, keypoints, shared keypoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from lf.core import FEATURES, Array, Features, blaming
from lf.data.drawn import procedural
from lf.extraction.extractor import Extractor, checked

PICTURES = 8  # drawn images; at 240x320 they have some thousand keypoints, so a share of one in a thousand is visible

SIZE = (240, 320)  # H, W of drawn images for a file that takes every size

# Two backends agree on a file if:
MAPS = 1e-4  # float: largest difference in a raw map, as a share of its largest value
SHARED, NEAR = 0.99, 0.05  # float: least share of keypoints with a partner, least ratio of counts; px to a partner
NOISE = 1e-2  # quantized: the power of the differences, as a share of the variance of that map
TINY = 1e-30  # replaces zero for constant maps


@dataclass(frozen=True)
class Look:
    """Maps and keypoints of one image: raw maps {head: (c, h, w)}, and keypoints in pixels of the network."""

    maps: dict[str, Array]
    features: Features


def look(extractor: Extractor, tensor: Array) -> Look:
    """Run a prepared image, (1, C, H, W) float32 as `Extractor.tensor` makes it.

    Raises:
        LfError: a map is missing or misshapen.
        BadModel: a map is not finite, or a descriptor not of unit length.
    """
    maps = {name: value[0] for name, value in extractor.session.run(tensor).items()}
    return Look(maps, decode(extractor, maps, tensor.shape[:-3:-1]))


def refuse_broken(extractor: Extractor) -> None:
    """Raise BadModel if the network gives non-finite values for a drawn image, as converted files would do the same."""
    picture = next(drawn(extractor.artifact.card.size or SIZE, 1))
    look(extractor, extractor.tensor(extractor.fit(picture)))


def decode(extractor: Extractor, maps: dict[str, Array], size: tuple[int, ...], **changed: Any) -> Features:
    """Decode raw maps of an image of `size` (W, H); `changed` settings replace the extractor's."""
    with blaming(extractor.artifact.path):
        return checked(*extractor.model.decode(maps, **{**extractor.settings, **changed}), (size[0], size[1]))


def both(reference: Extractor, candidate: Extractor, pictures: Iterable[Array]) -> Iterator[tuple[Look, Look]]:
    """Run both on every image, prepared for `candidate`."""
    for picture in pictures:
        yield pair(reference, candidate, candidate.tensor(candidate.fit(picture)))


def pair(reference: Extractor, candidate: Extractor, tensor: Array) -> tuple[Look, Look]:
    """Run both on a prepared image."""
    return look(reference, tensor), look(candidate, tensor)


def drawn(size: tuple[int, int], count: int = PICTURES) -> Iterator[Array]:
    """Draw `count` images of `size` (H, W) px that training and calibration never use; uint8 (H, W, 3) RGB."""
    for index in range(count):
        yield procedural.held_out_picture(index, (max(32, size[0]), max(32, size[1])))


def nearest(points: Array, others: Array) -> tuple[Array, Array]:
    """Return for each of `points` (N, 2) the distance to the nearest of `others` (M, 2), px, and its index.

    The distance is inf if M = 0."""
    if not len(points) or not len(others):
        return np.full(len(points), np.inf, np.float32), np.zeros(len(points), np.intp)
    distance, index = cv2.batchDistance(points, others, cv2.CV_32F, normType=cv2.NORM_L2, K=1)
    return distance[:, 0], index[:, 0]


def near(points: Array, others: Array, within: float) -> Array:
    """Return a mask (N,) of `points` (N, 2) with one of `others` (M, 2) at most `within` px away."""
    found: Array = nearest(points, others)[0] <= within
    return found


def differences(expected: Look, found: Look, quantized: bool) -> str:
    """Describe the differences of two runs of a file on one image beyond the tolerances above; "" if there are none.

    The conformance suite (tests/test_conformance.py) compares every backend within the same tolerances.

    Args:
        expected: output of the reference backend.
        found: output of another backend.
        quantized: whether the file has quantized layers, which engines round differently.
    """
    points = tuple(expected.maps) == FEATURES  # decoded in the graph: lists, whose order may differ
    for head, values in {} if points else expected.maps.items():
        if found.maps[head].shape != values.shape:
            return f"map {head} is {found.maps[head].shape}, expected {values.shape}"
        gap = found.maps[head] - values
        if quantized:
            noise = float(np.square(gap).sum() / max(float(np.square(values - values.mean()).sum()), TINY))
            if noise >= NOISE:
                return f"map {head} differs by {noise:.2g} of its variance, more than {NOISE:g}"
        elif (share := float(np.abs(gap).max() / max(float(np.abs(values).max()), TINY))) > MAPS:
            return f"map {head} differs by {share:.2g} of its largest value, more than {MAPS:g}"
    if quantized and not points:
        return ""
    first, second = expected.features, found.features
    if abs(len(first) - len(second)) > (1 - SHARED) * len(first):
        return f"{len(second)} keypoints, expected {len(first)}"
    same = float(near(first.keypoints, second.keypoints, NEAR).mean()) if len(first) else 1.0
    return "" if same >= SHARED else f"{same:.1%} of the keypoints are within {NEAR:g} px, less than {SHARED:.0%}"
