"""Building blocks of the numpy decoders: check maps, find peaks, refine, sample. numpy and OpenCV only.

Maps are (c, h, w). Keypoints are x, y in pixels of the network's image, pixel centres at integers. A flat index is
y * W + x; wherever scores are equal, the lower index goes first, so the plateaus of 8-bit maps cannot multiply points.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from lf.core import Array, BadModel, LfError
from lf.core.errors import ANOTHER
from lf.models.peaks import local_maxima, nms, square

Decoded = tuple[Array, Array, Array]
CELL = 8  # px, side of the square that one detector position describes
SMALL = 1e30  # a sum of maps that are not suspicious
LOUDEST = 40.0  # of a logit: its exponential still fits float32
OUTSIDE = 1e30  # a score beyond the edge that leaves a parabola without a top
REFINEMENTS = ("none", "quadratic", "soft")  # see `refined`
BLOCK = 1 << 19  # bytes that stay in a core's own cache between two readings
LINE = 16  # values in a line of the cache


def heatmap(detector: Array) -> Array:
    """Softmax over (65, h, w) logits, without the dustbin, cells unfolded: (8h, 8w) probabilities."""
    # In place: a fresh megabyte per step costs more in page faults than the arithmetic.
    cells = detector - detector.max(0)
    np.exp(cells, out=cells)
    total = cells.sum(0)
    cells = cells[:-1]
    cells /= total
    return unfold(cells, CELL)


def unfold(cells: Array, side: int) -> Array:
    """(side * side, h, w) -> (side * h, side * w): the channels are the pixels of a square, row by row."""
    _, rows, columns = cells.shape
    unfolded = np.empty((rows, side, columns, side), np.float32)
    for y in range(side):
        cv2.merge([*cells[y * side : (y + 1) * side]], unfolded[:, y])
    return unfolded.reshape(rows * side, columns * side)


def odds(logits: Array) -> Array:
    """p / (1 - p) of logits: where p itself is 1 in float32, they still differ."""
    made: Array = np.clip(logits, -LOUDEST, LOUDEST)
    np.exp(made, out=made)  # a fresh array would cost more than the arithmetic
    return made


def refined(score: Array, heat: Array, points: Array, how: str, reach: int = 2) -> Array:
    """Move integer points (N, 2) off whole pixels.

    Args:
        score: (H, W), the map of which they are maxima.
        heat: (H, W) weights, none below 0; of logits their odds.
        points: x, y in px.
        how: `none` leaves them; `quadratic` fits a parabola to three scores along each axis, see `parabola`; `soft`
            takes the mean position of the heat, see `refine`.
        reach: px, of `soft`.

    Raises:
        LfError: another word.
    """
    if how not in REFINEMENTS:
        raise LfError(f"`refine={how}`: expected one of {', '.join(REFINEMENTS)}")
    return points if how == "none" else parabola(score, points) if how == "quadratic" else refine(heat, points, reach)


def parabola(score: Array, points: Array) -> Array:
    """Move integer points (N, 2) to the tops of parabolas through three scores along x and y, by half a pixel at most.

    Where three scores have no top, as at an edge, that coordinate stays.
    """
    padded = np.pad(score, 1, constant_values=OUTSIDE).reshape(-1)
    stride = score.shape[1] + 2
    x, y = points.astype(np.intp).T
    at = (y + 1) * stride + x + 1
    step = np.array([[1], [stride]])
    before, here, after = padded[at - step], padded[at], padded[at + step]  # (2, N), (N,), (2, N)
    bend = before + after - 2 * here  # far above 0 at an edge
    top = bend < 0
    shift = np.where(top, (before - after) / np.where(top, 2 * bend, 1), 0)
    return points + np.clip(shift, -0.5, 0.5).astype(np.float32).T


def refine(heat: Array, points: Array, reach: int = 2) -> Array:
    """Move integer points (N, 2) to the mean position of the heat in the square round them; zero beyond the edge.

    The square has the side 2 * reach + 1.
    """
    padded = cv2.copyMakeBorder(heat, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0)
    stride, side = padded.shape[1], 2 * reach + 1
    x, y = points.astype(np.intp).T
    around = padded.reshape(-1).take(((y + reach) * stride + x + reach)[:, None] + square(reach, stride))
    patch = np.ascontiguousarray(around.T).reshape(side, side, -1)  # sums over its first axes are the fastest
    columns, rows = (np.ascontiguousarray(patch.sum(axis).T) for axis in (0, 1))
    span = np.arange(-reach, reach + 1, dtype=np.float32)
    with np.errstate(invalid="ignore"):  # all is finite, yet BLAS was once seen to raise this flag
        shift = np.stack([columns @ span, rows @ span], 1)
    moved: Array = points + shift / np.maximum(around.sum(1), np.float32(1e-12))[:, None]
    return moved


def sample(maps: Mapping[str, Array], name: str, at: Array) -> Array:
    """Bilinear samples of unit-normalised cells, normalised again.

    Args:
        maps: name -> (D, h, w) un-normalised.
        name: of the map.
        at: (N, 2) float32 x, y in cells; beyond the outermost centres the outermost value holds.

    Returns:
        (N, D) float32.
    """
    index, weights = bilinear(at, *raw(maps, name).shape[1:])
    cells, rank = _cells(maps, name, index)
    squares = np.einsum("nd,nd->n", cells, cells)
    if not (squares < SMALL).all():
        check_finite(cells, name)
    length = np.maximum(np.sqrt(squares), np.float32(1e-12))
    return unit(np.einsum("kn,knd->nd", weights / length[rank], cells.take(rank, axis=0)))


def mix(maps: Mapping[str, Array], name: str, at: Array) -> Array:
    """Bilinear samples (N, D) of a map (D, h, w) at points (N, 2) x, y in its pixels; beyond its edge that holds."""
    index, weights = bilinear(at, *raw(maps, name).shape[1:])
    mixed: Array = np.einsum("kn,dkn->nd", weights, read(maps, name, index))
    return mixed


def read(maps: Mapping[str, Array], name: str, index: Array) -> Array:
    """Values (D, ...) of a map (D, h, w) at flat indices (...), all inside; they are checked as by `check_finite`.

    Where most of the map's cache lines are touched, the whole map is checked, a few channels at a time: in order it
    comes into the cache faster, and what the check brought there is not fetched again.
    """
    head = raw(maps, name)
    flat = head.reshape(len(head), -1)
    values = np.empty((len(flat), *index.shape), np.float32)
    sparse = index.size * LINE < flat.shape[1]
    step = max(4, BLOCK // max(1, flat[:1].nbytes))
    for i in range(0, len(flat), step):
        if not sparse:
            check_finite(flat[i : i + step], name)
        flat[i : i + step].take(index, axis=1, mode="clip", out=values[i : i + step])
    if sparse:
        check_finite(values, name)
    return values


def _cells(maps: Mapping[str, Array], name: str, index: Array) -> tuple[Array, Array]:
    """The cells (M, D) of a map (D, h, w) at flat indices (...), each once, and the rank (...) of each index in them.

    In order, and each once, they are read several times as fast. The caller checks their values.
    """
    head = raw(maps, name)
    flat = head.reshape(len(head), -1)
    rank = np.zeros(flat.shape[1], np.intp)
    rank[index] = 1
    used = np.flatnonzero(rank)
    rank[used] = np.arange(len(used))
    values = flat.take(used, axis=1)
    cells: Array = cv2.transpose(values).reshape(len(used), len(flat)) if len(used) else values.T
    return cells, rank[index]


def bilinear(at: Array, rows: int, columns: int) -> tuple[Array, Array]:
    """Flat indices (4, N) of the cells round points (N, 2) x, y in cells, and their weights; clamped to the map."""
    last = np.array([columns - 1, rows - 1], np.float32)
    at = np.clip(at, 0, last)
    low = np.floor(at)
    x1, y1 = np.ascontiguousarray((at - low).T)
    x0, y0 = 1 - x1, 1 - y1
    (left, top), (right, bottom) = low.astype(np.intp).T, np.minimum(low + 1, last).astype(np.intp).T
    index = np.stack([top * columns + left, top * columns + right, bottom * columns + left, bottom * columns + right])
    return index, np.stack([y0 * x0, y0 * x1, y1 * x0, y1 * x1])


def detect(heat: Array, threshold: float, nms_radius: int, border: int, top_k: int | None) -> tuple[Array, Array]:
    """Points (N, 2) and scores (N,) of a heat map, descending."""
    width = heat.shape[1]
    first = local_maxima(heat, threshold, nms_radius)
    found = heat.reshape(-1)[first]
    if top_k and (inside := found[away(first, heat.shape, border)]).size > top_k:
        # All of these are kept. So no lower score is among the best, and none changes what is kept of higher ones.
        threshold = np.partition(inside, -top_k)[-top_k]
        first = first[found >= threshold]
    index = nms(heat, threshold, nms_radius, first=first)
    index = index[away(index, heat.shape, border)][:top_k]
    return places(index, width), heat.reshape(-1)[index]


def away(index: Array, size: tuple[int, int], border: int) -> Array:
    """Which flat indices (N,) are at least `border` px from the edges of (H, W); bool (N,)."""
    y, x = np.divmod(index, size[1])
    inside: Array = (np.minimum(x, y) >= border) & (x < size[1] - border) & (y < size[0] - border)
    return inside


def head(maps: Mapping[str, Array], name: str) -> Array:
    """One map, contiguous float32 (c, h, w), finite."""
    found = raw(maps, name)
    check_finite(found, name)
    return found


def raw(maps: Mapping[str, Array], name: str) -> Array:
    """One map, contiguous float32 (c, h, w), of whatever values."""
    if name not in maps:
        raise BadModel(f"the network gives no {name} map, only {', '.join(maps)}", remedy=ANOTHER)
    head = np.ascontiguousarray(maps[name], np.float32)
    if head.ndim != 3:
        shape = f"the {name} map has shape {head.shape}, expected (channels, height, width)"
        raise BadModel(shape, remedy=ANOTHER)
    return head


def check_alike(maps: Mapping[str, Array], *names: str) -> None:
    """Raise BadModel unless the maps of these names have one size."""
    if len({raw(maps, name).shape[1:] for name in names}) > 1:
        found = ", ".join(f"{name} {maps[name].shape}" for name in names)
        raise BadModel(f"maps of one size expected, found {found}", remedy=ANOTHER)


def check_finite(values: Array, name: str) -> None:
    """Raise BadModel unless all values are; OpenCV's engine makes the largest float of those that are not."""
    with np.errstate(all="ignore"):  # the sum is twice as fast on large maps
        finite = abs(values.sum()) < SMALL or (np.abs(values) < np.finfo(np.float32).max).all()
    if not finite:
        raise BadModel.not_finite(f"the {name} map")


def places(index: Array, width: int) -> Array:
    y, x = np.divmod(index, width)
    return np.stack([x, y], 1).astype(np.float32)


def unit(rows: Array) -> Array:
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    unit: Array = rows / np.maximum(length, np.float32(1e-12))[:, None]
    return unit


def softplus(logit: Array) -> Array:
    """log(1 + exp(logit)), without overflow."""
    return np.log1p(np.exp(-np.abs(logit))) + np.maximum(logit, 0)


def sigmoid(logit: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(89) is infinite in float32, and 1 / inf the right answer
        return 1 / (1 + np.exp(-logit))
