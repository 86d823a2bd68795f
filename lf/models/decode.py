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
from lf.models.peaks import few, local_maxima, nms, square

Decoded = tuple[Array, Array, Array]
CELL = 8  # px, side of the square that one detector position describes
SMALL = 1e30  # largest sum of valid maps
LOUDEST = 40.0  # largest logit: its exponential still fits float32
OUTSIDE = 1e30  # score beyond the edge; a parabola through it has no maximum
REFINEMENTS = ("none", "quadratic", "soft")  # see `refined`
BLOCK = 1 << 19  # bytes that stay in the cache of a core between two reads
LINE = 16  # values in a line of the cache


def heatmap(detector: Array) -> Array:
    """Compute probabilities (8h, 8w): softmax over (65, h, w) logits, dustbin removed, cells unfolded."""
    # In place: page faults of new arrays would take longer than the arithmetic.
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
    """Return p / (1 - p) of logits. They still differ where p is 1 in float32."""
    made: Array = np.clip(logits, -LOUDEST, LOUDEST)
    np.exp(made, out=made)  # a fresh array would cost more than the arithmetic
    return made


def refined(score: Array, heat: Array, points: Array, how: str, reach: int = 2) -> Array:
    """Move integer points (N, 2) off whole pixels.

    Args:
        score: (H, W), the points are its maxima.
        heat: (H, W) weights, at least 0; for logits, their odds.
        points: x, y in px.
        how: `none` leaves them; `quadratic` fits a parabola to three scores along each axis, see `parabola`; `soft`
            takes the mean position of the heat, see `refine`.
        reach: px, half the side of the square of `soft`.

    Raises:
        LfError: unknown `how`.
    """
    if how not in REFINEMENTS:
        raise LfError(f"`refine={how}`: expected one of {', '.join(REFINEMENTS)}")
    return points if how == "none" else parabola(score, points) if how == "quadratic" else refine(heat, points, reach)


def parabola(score: Array, points: Array) -> Array:
    """Move integer points (N, 2) to the maxima of parabolas through three scores along x and y, at most half a pixel.

    A coordinate stays if the parabola has no maximum, as at an edge.
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
    stride = padded.shape[1]
    x, y = points.astype(np.intp).T
    patch = padded.reshape(-1).take(square(reach, stride)[:, None] + (y + reach) * stride + x + reach)
    return centred(patch.reshape(2 * reach + 1, 2 * reach + 1, -1), points)


def centred(patch: Array, points: Array) -> Array:
    """Move integer points (N, 2) to the mean positions of the heat (side, side, N) in the squares round them."""
    reach = len(patch) // 2
    columns, rows = (np.ascontiguousarray(patch.sum(axis).T) for axis in (0, 1))
    total = np.ascontiguousarray(patch.reshape(len(patch) ** 2, len(points)).T).sum(1)
    span = np.arange(-reach, reach + 1, dtype=np.float32)
    with np.errstate(invalid="ignore"):  # BLAS may raise this flag although all values are finite
        shift = np.stack([columns @ span, rows @ span], 1)
    moved: Array = points + shift / np.maximum(total, np.float32(1e-12))[:, None]
    return moved


def sample(maps: Mapping[str, Array], name: str, at: Array) -> Array:
    """Normalise cells to unit length, sample bilinearly, and normalise again.

    Args:
        maps: name -> (D, h, w) un-normalised.
        name: name of the map.
        at: (N, 2) float32 x, y in cells, clamped to the outermost centres.

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
    """Sample a map (D, h, w) at points (N, 2) x, y in its pixels, bilinearly and clamped to the map: (N, D)."""
    index, weights = bilinear(at, *raw(maps, name).shape[1:])
    mixed: Array = np.einsum("kn,dkn->nd", weights, read(maps, name, index))
    return mixed


def read(maps: Mapping[str, Array], name: str, index: Array) -> Array:
    """Read values (D, ...) of a map (D, h, w) at flat indices (...) inside it, and check them as `check_finite`.

    If most cache lines of the map are read, the whole map is checked first, a few channels at a time: sequential reads
    are faster, and the following reads find the values in the cache.
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
    """Read cells (M, D) of a map (D, h, w) at flat indices (...), and the rank (...) of each index in them.

    Reading each cell once, in order, is several times as fast. If there are as many indices as cells, all are read. The
    caller checks their values.
    """
    head = raw(maps, name)
    flat = head.reshape(len(head), -1)
    if index.size >= flat.shape[1] > 0:
        return cv2.transpose(flat).reshape(-1, len(flat)), index
    rank = np.zeros(flat.shape[1], np.intp)
    rank[index] = 1
    used = np.flatnonzero(rank)
    rank[used] = np.arange(len(used))
    values = flat.take(used, axis=1)
    cells: Array = cv2.transpose(values).reshape(len(used), len(flat)) if len(used) else values.T
    return cells, rank[index]


def bilinear(at: Array, rows: int, columns: int) -> tuple[Array, Array]:
    """Return flat indices (4, N) of the cells around points (N, 2) x, y in cells, clamped to the map, and weights."""
    last = np.array([columns - 1, rows - 1], np.float32)
    at = np.clip(at, 0, last)
    low = np.floor(at)
    x1, y1 = np.ascontiguousarray((at - low).T)
    x0, y0 = 1 - x1, 1 - y1
    (left, top), (right, bottom) = low.astype(np.intp).T, np.minimum(low + 1, last).astype(np.intp).T
    index = np.stack([top * columns + left, top * columns + right, bottom * columns + left, bottom * columns + right])
    return index, np.stack([y0 * x0, y0 * x1, y1 * x0, y1 * x1])


def detect(heat: Array, threshold: float, nms_radius: int, border: int, top_k: int | None) -> tuple[Array, Array]:
    """Find points (N, 2) px and scores (N,), descending, in a heat map (H, W)."""
    width, first = heat.shape[1], None
    if not few(heat, threshold):
        first = local_maxima(heat, threshold, nms_radius)
        found = heat.reshape(-1)[first]
        if top_k and (inside := found[away(first, heat.shape, border)]).size > top_k:
            # All of these are kept. So no lower score is among the best, and lower scores suppress no higher ones.
            threshold = np.partition(inside, -top_k)[-top_k]
            first = first[found >= threshold]
    index = nms(heat, threshold, nms_radius, first=first)
    index = index[away(index, heat.shape, border)][:top_k]
    return places(index, width), heat.reshape(-1)[index]


def away(index: Array, size: tuple[int, int], border: int) -> Array:
    """Return a mask (N,) of the flat indices (N,) that are at least `border` px from the edges of (H, W)."""
    y, x = np.divmod(index, size[1])
    inside: Array = (np.minimum(x, y) >= border) & (x < size[1] - border) & (y < size[0] - border)
    return inside


def head(maps: Mapping[str, Array], name: str) -> Array:
    """Return one map, contiguous float32 (c, h, w), after checking that it is finite."""
    found = raw(maps, name)
    check_finite(found, name)
    return found


def raw(maps: Mapping[str, Array], name: str) -> Array:
    """Return one map, contiguous float32 (c, h, w), without checking its values."""
    if name not in maps:
        raise BadModel(f"the network gives no {name} map, only {', '.join(maps)}", remedy=ANOTHER)
    head = np.ascontiguousarray(maps[name], np.float32)
    if head.ndim != 3:
        shape = f"the {name} map has shape {head.shape}, expected (channels, height, width)"
        raise BadModel(shape, remedy=ANOTHER)
    return head


def check_alike(maps: Mapping[str, Array], *names: str) -> None:
    """Raise BadModel unless the maps of these names have the same size."""
    if len({raw(maps, name).shape[1:] for name in names}) > 1:
        found = ", ".join(f"{name} {maps[name].shape}" for name in names)
        raise BadModel(f"maps of one size expected, found {found}", remedy=ANOTHER)


def check_finite(values: Array, name: str) -> None:
    """Raise BadModel unless all values are finite; OpenCV's engine replaces others by the largest float."""
    small = cv2.norm(values.reshape(-1), cv2.NORM_L1) < SMALL  # in half the time of numpy
    finite = small or (np.abs(values) < np.finfo(np.float32).max).all()
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
