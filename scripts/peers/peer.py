"""Peers of a comparison, and their agreement with lf for the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lf.core import Array, Features, GateFailed
from lf.extraction import agreement

WITHIN = 1.0  # px
SHARED = 0.9  # least share of the points of each side that the other has within WITHIN
COSINE = 0.95  # least mean cosine of the descriptors of shared points, which are sampled up to half a cell elsewhere


@dataclass(frozen=True)
class Peer:
    """A program to time.

    Attributes:
        name: in the table.
        library: with version.
        engine: what computes the network, with version.
        extract: uint8 (H, W, 3) RGB -> points, scores, descriptors in numpy; from image to features.
        kind: `lf`, or what a peer is built on: `torch`, `onnxruntime`, `opencv`.
        reference: lf's float path with the same weights; None where there is nothing to compare with.
    """

    name: str
    library: str
    engine: str
    extract: Callable[[Array], Features]
    kind: str
    reference: Callable[[Array], Features] | None = None


@dataclass(frozen=True)
class Shared:
    """Agreement of two programs on images: numbers of points, shares of each found in the other, cosine."""

    ours: int
    theirs: int
    of_ours: float
    of_theirs: float
    cosine: float


def shared(ours: Sequence[Features], theirs: Sequence[Features]) -> Shared:
    """Compare features of the same images."""
    found, cosines = np.zeros(4), list[Array]()
    for a, b in zip(ours, theirs, strict=True):
        distance, index = agreement.nearest(b.keypoints, a.keypoints)
        both = distance <= WITHIN
        close = agreement.near(a.keypoints, b.keypoints, WITHIN)
        found += len(a), len(b), close.sum(), both.sum()
        cosines.append((b.descriptors[both] * a.descriptors[index[both]]).sum(1))
    every = np.concatenate(cosines) if cosines else np.zeros(0)
    cosine = float(every.mean()) if len(every) else 0.0
    return Shared(int(found[0]), int(found[1]), found[2] / max(1, found[0]), found[3] / max(1, found[1]), cosine)


def verify(peer: Peer, pictures: Sequence[Array]) -> Shared | None:
    """Compare a peer with lf's float path; None where it has no reference.

    Raises:
        GateFailed: too few points are shared, or their descriptors differ: its weights were loaded wrongly.
    """
    if peer.reference is None:
        return None
    found = shared([peer.reference(p) for p in pictures], [peer.extract(p) for p in pictures])
    if not (min(found.of_ours, found.of_theirs) >= SHARED and found.cosine >= COSINE):
        raise GateFailed(
            f"{peer.name}: shares {found.of_ours:.1%} of the points of lf, {found.of_theirs:.1%} of its own, with a "
            f"mean cosine of {found.cosine:.3f}; expected {SHARED:.0%} and {COSINE}; its weights or its settings differ"
        )
    return found
