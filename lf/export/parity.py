"""Parity check of every export: the new file must give the maps and keypoints of its parent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import Array, Artifact, BadInput, BadModel, GateFailed
from lf.data import images
from lf.extraction import agreement
from lf.extraction.agreement import Look
from lf.extraction.extractor import Extractor
from lf.models import Model
from lf.models.decode import CELL, heatmap, unfold

RELATIVE = 1e-4  # largest error of a map, as a share of its largest value; float32 in another order causes 1e-6
SAME = 0.05  # largest distance of equal keypoints, px; networks without sub-pixel points have integers
IDENTICAL = 0.999  # least share of common keypoints
SLACK = 1e-4  # relative difference of a score to a threshold or a rival within which rounding may decide
FREE_SIZES = ((240, 320), (96, 136), (320, 240), (200, 408))  # H, W: what a file of free size is shown, see `sizes`


@dataclass
class Tally:
    """Accumulated results: largest error and value of each head, and counts of keypoints."""

    error: dict[str, float] = field(default_factory=dict)
    value: dict[str, float] = field(default_factory=dict)
    keypoints: int = 0
    differing: int = 0
    unexplained: int = 0
    pictures: int = 0

    def figures(self) -> dict[str, Any]:
        """Return the figures for the card."""
        heads = {
            name: {"max_abs": float(f"{error:.3g}"), "max_rel": float(f"{error / self.value[name]:.3g}")}
            for name, error in self.error.items()
        }
        return {
            "pictures": self.pictures,
            "heads": heads,
            "keypoints": self.keypoints,
            "identical": round(self.identical, 6),
            "unexplained": self.unexplained,
        }

    @property
    def identical(self) -> float:
        """Return the share of keypoints of both sides that the other side has, too."""
        return 1 - self.differing / max(1, self.keypoints)


def check(
    parent: Artifact,
    candidate: Artifact,
    before: str,
    after: str,
    folder: Path | None = None,
    relative: float = RELATIVE,
    *,
    exact: bool = True,
) -> dict[str, Any]:
    """Compare a new file with its parent on images.

    Args:
        parent: its parent, run by backend `before`.
        candidate: the new file, run by backend `after`.
        folder: folder of images; None draws them, in several sizes for a file of free size.
        relative: tolerance of the maps, see RELATIVE.
        exact: True also compares keypoints; False for rounded weights.

    Returns:
        The figures for the card.

    Raises:
        GateFailed: a map or the keypoints differ by more than the stated tolerance.
        BadModel: the parent itself gives non-finite values.
    """
    reference, tally = Extractor(parent, before), Tally()
    agreement.refuse_broken(reference)
    with gated(parent):
        new = Extractor(candidate, after)
        for a, b in agreement.both(reference, new, pictures(new, folder)):
            _maps(a, b, tally)
            _keypoints(a, b, new, tally)
    _judge(tally, parent, after, relative, exact)
    return tally.figures()


@contextmanager
def gated(parent: Artifact) -> Iterator[None]:
    """Raise GateFailed if the new file gives non-finite values and its parent does not."""
    try:
        yield
    except BadModel as error:
        if error.path == parent.path:
            raise
        raise GateFailed(f"parity of {parent.path.name}: {error.what}; nothing was written") from error


def pictures(extractor: Extractor, folder: Path | None) -> Iterator[Array]:
    """Yield images of a folder, or drawn images of the sizes that the file takes."""
    if folder:
        for path in images.list_images(folder, limit=agreement.PICTURES):
            yield images.read(path)
        return
    size = extractor.artifact.card.size
    if size:
        yield from agreement.drawn(size)
    else:
        yield from chain(*(agreement.drawn(s, 2) for s in sizes(extractor.model.multiple)))


def sizes(multiple: int) -> list[tuple[int, int]]:
    """Return FREE_SIZES, every second one moved to odd multiples, which show rounded strides or wrong padding."""
    odd = [((h // multiple | 1) * multiple, (w // multiple | 1) * multiple) for h, w in FREE_SIZES]
    return [size if index % 2 else plain for index, (plain, size) in enumerate(zip(FREE_SIZES, odd, strict=True))]


def _maps(a: Look, b: Look, tally: Tally) -> None:
    for name, expected in a.maps.items():
        if name not in b.maps or b.maps[name].shape != expected.shape:
            shape = b.maps[name].shape if name in b.maps else "absent"
            raise GateFailed(f"output {name} is {shape}, its parent gives {expected.shape}; nothing was written")
        error, value = float(np.abs(b.maps[name] - expected).max()), float(np.abs(expected).max())
        tally.error[name] = max(error, tally.error.get(name, 0.0))
        tally.value[name] = max(value, tally.value.get(name, 0.0), 1e-30)
    tally.pictures += 1


def _keypoints(a: Look, b: Look, extractor: Extractor, tally: Tally) -> None:
    only_a = ~agreement.near(a.features.keypoints, b.features.keypoints, SAME)
    only_b = ~agreement.near(b.features.keypoints, a.features.keypoints, SAME)
    differing = int(only_a.sum() + only_b.sum())
    tally.keypoints += len(a.features) + len(b.features)
    tally.differing += differing
    if differing:
        tally.unexplained += int((~explained(a, b, only_a, only_b, extractor)).sum())


def explained(a: Look, b: Look, only_a: Array, only_b: Array, extractor: Extractor) -> Array:
    """Return a mask of the differing keypoints, those of `a` then those of `b`, that rounding may explain.

    Rounding may explain a point if the other side has it with thresholds lower by SLACK; if its score there is within
    SLACK of a rival in reach of suppression; or if it is in reach of such a point, which may or may not suppress it.
    Rivals are keypoints if suppression is greedy, and all neighbours for the max-filter rule.
    """
    settings = extractor.settings
    lower: dict[str, Any] = {name: value - SLACK for name, value in settings.items() if isinstance(value, float)}
    lower |= dict.fromkeys({"limit"} & settings.keys())  # thresholds, and the limit of points
    reach, radius = reach_of(settings), settings.get("radius", 1)
    points = np.concatenate([a.features.keypoints[only_a], b.features.keypoints[only_b]])
    may = np.zeros(len(points), bool)
    for own, other in ((slice(0, only_a.sum()), b), (slice(only_a.sum(), None), a)):
        relaxed = agreement.decode(extractor, other.maps, other.features.size, **lower)
        may[own] = agreement.near(points[own], relaxed.keypoints, SAME)
        if (score := ranked(extractor.model, other.maps)) is not None:
            may[own] |= contested(score, points[own], radius)
        if "nms_radius" not in settings:
            continue
        rivals = other.features.keypoints
        scores, theirs = (_ranks(other, at, extractor, lower) for at in (points[own], rivals))
        for index, (point, score) in enumerate(zip(points[own], scores, strict=True), own.start):
            close = np.hypot(*(rivals - point).T) <= reach
            may[index] |= bool((np.abs(theirs[close] - score) < SLACK).any())
    while (further := ~may & agreement.near(points, points[may], reach)).any():
        may |= further
    return may


def reach_of(settings: Mapping[str, Any]) -> float:
    """Return the reach of suppression, px: the corner of a square, plus a sub-pixel shift."""
    return float(settings.get("nms_radius", settings.get("radius", 1)) * 2**0.5 + 1)


def ranked(row: Model, maps: Mapping[str, Array]) -> Array | None:
    """Return the map (H, W) with a network's points as local maxima; None if suppression is greedy."""
    if row.maxima is None:
        return None
    stacked = maps[row.maxima]
    return heatmap(stacked) if len(stacked) == CELL**2 + 1 else unfold(stacked, isqrt(len(stacked)))


def contested(score: Array, points: Array, radius: int = 1) -> Array:
    """Return a mask of `points` (N, 2) that score within SLACK of the best other pixel of their square of `radius`."""
    padded = np.pad(score, radius, constant_values=-np.inf)
    x, y = np.round(points).astype(np.intp).T
    steps = [(dy, dx) for dy in range(2 * radius + 1) for dx in range(2 * radius + 1) if (dy, dx) != (radius, radius)]
    around = np.stack([padded[y + dy, x + dx] for dy, dx in steps])
    contested: Array = np.abs(around.max(0) - score[y, x]) < SLACK
    return contested


def _ranks(seen: Look, points: Array, extractor: Extractor, lower: Mapping[str, Any]) -> Array:
    """Return the value that suppression compares for each of `points` (N, 2); NaN if it is too low."""
    head = extractor.model.descriptor
    maps = {**seen.maps, head: seen.maps[head][:1]}  # one channel, because only positions are needed
    pixels = agreement.decode(extractor, maps, seen.features.size, **lower, nms_radius=0)
    if not len(pixels):
        return np.full(len(points), np.nan)
    distance, index = agreement.nearest(points, pixels.keypoints)
    return np.where(distance <= SAME, pixels.scores[index], np.nan)


def _judge(tally: Tally, parent: Artifact, after: str, relative: float, exact: bool) -> None:
    advice = f"nothing was written; try another `opset`, or other versions of the packages behind {after}: lf doctor"
    if not tally.pictures:
        raise BadInput(f"{parent.path}: no image to check the export on")
    for name, error in tally.error.items():
        found = error / tally.value[name]
        if not found <= relative:
            raise GateFailed(
                f"parity of {parent.path.name}: output {name} differs by {error:.3g}, which is {found:.2g} of its "
                f"largest value; expected at most {relative:g}; {advice}"
            )
    if exact and (tally.unexplained or tally.identical < IDENTICAL):
        raise GateFailed(
            f"parity of {parent.path.name}: {tally.identical:.3%} of {tally.keypoints} keypoints are identical, "
            f"{tally.unexplained} of the others are not ties; expected {IDENTICAL:.1%} and 0; {advice}"
        )
