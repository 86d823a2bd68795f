"""Building blocks of the decoders inside ONNX graphs: what `lf.models.decode` does in numpy.

Every shape follows from that of the heads: fixed slots, best first; unused slots have the score 0. NonZero is not used,
because its length depends on the values. If scores are equal, the lower index goes first: ONNX defines that for TopK,
and suppression treats pixels before and after a pixel differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lf.formats.onnx_graph import Graph
from lf.models.decode import CELL, LOUDEST

Built = tuple[str, str, str]
END = 2**31 - 1  # end of a slice up to the end of the axis
EPSILON = 1e-12  # smallest length for normalisation


@dataclass(frozen=True)
class Spots:
    """Chosen places of a map, best first; names of tensors (K,).

    Attributes:
        x, y: int64.
        scores: float32, 0 for unused slots.
        index: int64, y * columns + x.
    """

    x: str
    y: str
    scores: str
    index: str


def heatmap(g: Graph, detector: str) -> str:
    """(1, 65, h, w) logits -> (1, 1, 8h, 8w) probabilities."""
    # without Softmax: over channels, ONNX Runtime's takes three times as long on a CPU
    cells = g("Exp", g("Sub", detector, g("ReduceMax", detector, [1])))
    cells = g("Div", g("Slice", cells, [0], [-1], [1]), g("ReduceSum", cells, [1]))
    return g("DepthToSpace", cells, blocksize=CELL)


def nms(g: Graph, score: str, radius: int) -> str:
    """Exact greedy non-maximum suppression of scores (1, 1, H, W): others become 0. Scores of 0 are no candidates.

    It uses the rounds of `lf.models.peaks.nms` over the whole map: keep the leaders of squares and clear their squares,
    until no candidate is left. Real images take 2 to 4 rounds. Every round keeps the best candidate, so the loop ends.
    """

    def step(states: list[str]) -> tuple[str, list[str]]:
        left, kept = states
        leaders = g("Where", leads(g, left, radius), left, 0.0)
        near = g("MaxPool", leaders, kernel_shape=[2 * radius + 1] * 2, pads=[radius] * 4)
        left = g("Where", g("Greater", near, 0.0), 0.0, left)
        return any_left(g, left), [left, g("Add", kept, leaders)]

    return g.loop(any_left(g, score), [score, g("Mul", score, 0.0)], step)[1]


def leads(g: Graph, score: str, radius: int) -> str:
    """Return a mask (1, 1, H, W) of leaders: positive, above earlier pixels of their square, not below later ones."""
    left, right = either_side(g, score, radius, 3)
    row = g("Max", left, score, right)
    up, down = either_side(g, row, radius, 2)
    above = g("Greater", score, g("Max", up, left))
    return g("And", above, g("GreaterOrEqual", score, g("Max", down, right)))


def top(g: Graph, score: str, margin: int, top_k: int) -> Spots:
    """Choose the best `top_k` scores above 0 of a map (1, 1, H, W), outside a margin in px."""
    rows, columns = sides(g, score)
    inner = g("Slice", score, [margin] * 2, [-margin] * 2, [2, 3]) if margin else score
    flat = g("Pad", g("Reshape", inner, [-1]), [0, top_k])  # a map may have fewer pixels than `top_k`
    scores, index = g.several("TopK", 2, flat, [top_k])
    width = g("Max", g("Sub", columns, 2 * margin), [1])
    last = g("Sub", rows, [1]), g("Sub", columns, [1])
    y, x = g("Div", index, width), g("Mod", index, width)
    y, x = (g("Min", g("Add", side, margin), end) for side, end in zip((y, x), last, strict=True))
    return Spots(x, y, scores, g("Add", g("Mul", y, columns), x))


def sides(g: Graph, tensor: str) -> tuple[str, str]:
    """Return rows and columns of a map, (1,) int64 each."""
    rows, columns = (g("Shape", tensor, start=axis, end=axis + 1) for axis in (2, 3))
    return rows, columns


def detect(g: Graph, heat: str, threshold: float, nms_radius: int, border: int, top_k: int) -> Spots:
    candidates = g("Where", g("GreaterOrEqual", heat, threshold), heat, 0.0)
    return top(g, nms(g, candidates, nms_radius) if nms_radius else candidates, border, top_k)


def any_left(g: Graph, score: str) -> str:
    return g("Greater", g("ReduceMax", score, keepdims=0), 0.0)


def either_side(g: Graph, score: str, radius: int, axis: int) -> tuple[str, str]:
    """Return the maxima of the `radius` pixels before and after each pixel along an axis; 0 beyond the edge."""
    kernel = [radius if axis == along else 1 for along in (2, 3)]
    windows = g("MaxPool", score, kernel_shape=kernel, pads=[side - 1 for side in kernel] * 2)
    pads = [0] * 8  # after the pooling: ONNX Runtime would fuse a pad before it, and refuse pads as wide as the kernel
    pads[axis] = pads[axis + 4] = 1
    windows = g("Pad", windows, pads)
    return g("Slice", windows, [0], [-radius - 1], [axis]), g("Slice", windows, [radius + 1], [END], [axis])


def odds(g: Graph, logits: str) -> str:
    """See `lf.models.decode.odds`."""
    return g("Exp", g("Min", g("Max", logits, -LOUDEST), LOUDEST))


def refined(g: Graph, score: str, heat: str, spots: Spots, how: str, reach: int = 2) -> str:
    """See `lf.models.decode.refined`; (K, 2) float32, x then y."""
    if how == "quadratic":
        return parabola(g, score, spots)
    return refine(g, heat, spots, reach) if how == "soft" else places(g, spots)


def parabola(g: Graph, score: str, spots: Spots) -> str:
    """See `lf.models.decode.parabola`."""
    rows, columns = sides(g, score)
    values = g("Reshape", score, [-1])
    shifts = []
    axes: tuple[tuple[str, str, str | int], ...] = ((spots.x, columns, 1), (spots.y, rows, columns))
    for place, side, step in axes:
        room = g("Min", g("Min", place, g("Sub", g("Sub", side, 1), place)), 1)  # 0 at an edge
        reach = g("Mul", room, step)
        places_read = g("Sub", spots.index, reach), spots.index, g("Add", spots.index, reach)
        before, here, after = (g("Gather", values, index) for index in places_read)
        bend = g("Sub", g("Add", before, after), g("Mul", here, 2.0))
        top = g("Less", bend, 0.0)
        shift = g("Div", g("Sub", before, after), g("Where", top, g("Mul", bend, 2.0), 1.0))
        shifts.append(g("Unsqueeze", g("Where", top, g("Min", g("Max", shift, -0.5), 0.5), 0.0), [1]))
    return g("Add", places(g, spots), g("Concat", *shifts, axis=1))


def refine(g: Graph, heat: str, spots: Spots, reach: int = 2) -> str:
    """See `lf.models.decode.refine`."""
    padded = g("Pad", heat, [0, 0, reach, reach] * 2)
    _, columns = sides(g, padded)
    span = np.arange(-reach, reach + 1)
    rows, across = np.repeat(span, len(span)), np.tile(span, len(span))
    corner = g("Add", g("Mul", g("Add", spots.y, reach), columns), g("Add", spots.x, reach))
    index = g("Add", g("Unsqueeze", corner, [1]), g("Add", g("Mul", rows, columns), across))
    patch = g("Gather", g("Reshape", padded, [-1]), index)  # (K, 25) for a reach of 2
    moments = g("MatMul", patch, np.stack([across, rows], 1).astype(np.float32))
    mass = g("Max", g("ReduceSum", patch, [1]), EPSILON)
    return g("Add", places(g, spots), g("Div", moments, mass))


def sample(g: Graph, descriptor: str, at: str) -> str:
    """See `lf.models.decode.sample`."""
    cells = g("Transpose", flat(g, descriptor), perm=[1, 0])  # (h * w, D)
    length = row_length(g, cells)
    mixed = ""
    for index, weight in bilinear(g, at, descriptor):
        share = g("Div", g("Unsqueeze", weight, [1]), g("Gather", length, index))
        part = g("Mul", g("Gather", cells, index), share)  # (K, D)
        mixed = g("Add", mixed, part) if mixed else part
    return unit(g, mixed)


def bilinear(g: Graph, at: str, descriptor: str) -> list[tuple[str, str]]:
    """Return flat index (K,) and weight (K,) of each of the four cells around points (K, 2), clamped to the map."""
    rows, columns = sides(g, descriptor)
    axes: list[list[tuple[str, str]]] = []
    for axis, side in ((1, rows), (0, columns)):
        last = g("Sub", side, [1])
        place = g("Min", g("Max", g("Gather", at, axis, axis=1), 0.0), g("Cast", last, to=1))
        low = g("Floor", place)
        share, first = g("Sub", place, low), g("Cast", low, to=7)
        axes.append([(first, g("Sub", 1.0, share)), (g("Min", g("Add", first, 1), last), share)])
    return [
        (g("Add", g("Mul", y, columns), x), g("Mul", weight_y, weight_x))
        for y, weight_y in axes[0]
        for x, weight_x in axes[1]
    ]


def places(g: Graph, spots: Spots) -> str:
    """(K, 2) float32, x then y."""
    return g("Cast", g("Concat", *(g("Unsqueeze", side, [1]) for side in (spots.x, spots.y)), axis=1), to=1)


def flat(g: Graph, tensor: str) -> str:
    """(1, c, h, w) -> (c, h * w)."""
    return g("Flatten", g("Squeeze", tensor, [0]), axis=1)


def unit(g: Graph, rows: str) -> str:
    return g("Div", rows, row_length(g, rows))


def row_length(g: Graph, rows: str) -> str:
    """(N, D) -> (N, 1), never 0."""
    return g("Max", g("Sqrt", g("ReduceSum", g("Mul", rows, rows), [1])), EPSILON)


def mix(g: Graph, tensor: str, at: str) -> str:
    """See `lf.models.decode.mix`: (1, D, h, w) at points (K, 2) x, y in its pixels -> (K, D)."""
    mixed = ""
    for index, weight in bilinear(g, at, tensor):
        part = g("Mul", pick_columns(g, tensor, index), weight)  # (D, K)
        mixed = g("Add", mixed, part) if mixed else part
    return g("Transpose", mixed, perm=[1, 0])


def pick_columns(g: Graph, tensor: str, index: str) -> str:
    """(1, c, h, w), flat indices (K,) -> (c, K). GatherElements: ONNX Runtime's Gather takes five times as long."""
    cells = flat(g, tensor)
    return g("GatherElements", cells, g("Expand", index, g("Concat", g("Shape", cells, end=1), [1], axis=0)), axis=1)


def softplus(g: Graph, logit: str) -> str:
    """log(1 + exp(logit)), without overflow; ONNX Runtime's own takes four times as long."""
    return g("Add", g("Log", g("Add", g("Exp", g("Neg", g("Abs", logit))), 1.0)), g("Max", logit, 0.0))


def poison(g: Graph, scores: str, *maps: str) -> str:
    """Return the scores, or NaN for all if a map has a non-finite value, because comparisons would drop it silently."""
    for each in maps:
        whole = g("ReduceSum", each, keepdims=0)
        broken = g("Or", g("IsNaN", whole), g("IsInf", whole))
        scores = g("Where", broken, float("nan"), scores)
    return scores
