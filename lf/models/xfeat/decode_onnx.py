"""Decode XFeat inside an ONNX graph: what `lf.models.xfeat.decode` does in numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.formats.onnx_graph import Graph
from lf.models.decode_onnx import Built, flat, heatmap, leads, poison, refined, row_length, sides, top, unit
from lf.models.xfeat.decode import CUBIC, TAPS


def xfeat(
    g: Graph, maps: Mapping[str, str], *, threshold: float, radius: int, refine: str = "none", top_k: int
) -> Built:
    """See `lf.models.xfeat.decode.xfeat`."""
    heat = heatmap(g, maps["detector"])
    chosen = g("And", g("GreaterOrEqual", heat, threshold), leads(g, heat, radius))
    score = g("Where", chosen, g("Mul", heat, _reliable(g, maps["reliability"])), 0.0)
    score = g("Pad", g("Slice", score, [0, 0], [-1, -1], [2, 3]), [0, 0, 0, 0, 0, 0, 1, 1])
    rest = g("Pad", g("Slice", g("Reshape", score, [-1]), [1], [2**31 - 1], [0]), [1, 0])  # no point at 0, 0
    spots = top(g, g("Reshape", rest, g("Shape", score)), 0, top_k)
    points = refined(g, heat, heat, spots, refine)
    scores = poison(g, spots.scores, maps["detector"], maps["reliability"])
    return points, scores, _described(g, maps["descriptor"], points)


def _reliable(g: Graph, reliability: str) -> str:
    """Resize logits (1, 1, h, w) to (1, 1, 8h, 8w): bilinear at the published places, with zeros beyond the map."""
    mixes = []
    for side in sides(g, reliability):
        pixels = g("Mul", side, 8)
        last, cells = (g("Cast", each, to=1) for each in (g("Sub", pixels, 1), side))
        at, cell = (g("Cast", g("Range", 0, g("Squeeze", each), 1), to=1) for each in (pixels, side))
        at = g("Sub", g("Mul", g("Div", at, last), cells), 0.5)
        away = g("Abs", g("Sub", g("Unsqueeze", at, [1]), cell))
        mixes.append(g("Max", g("Sub", 1.0, away), 0.0))  # (pixels, cells)
    known = g("Sigmoid", reliability)
    return g("MatMul", g("MatMul", mixes[0], known), g("Transpose", mixes[1], perm=[1, 0]))


def _described(g: Graph, descriptor: str, points: str) -> str:
    """See `lf.models.xfeat.decode.describe_xfeat`: (1, D, h, w) at points (K, 2) px -> (K, D)."""
    rows, columns = sides(g, descriptor)
    cells = g("Transpose", flat(g, descriptor), perm=[1, 0])  # (h * w, D)
    cells = g("Div", cells, row_length(g, cells))
    places, shares = [], []
    for axis, side in enumerate((columns, rows)):
        count = g("Cast", side, to=1)
        last = g("Sub", g("Mul", count, 8.0), 1.0)
        at = g("Sub", g("Mul", g("Div", g("Gather", points, [axis], axis=1), last), count), 0.5)  # (K, 1)
        at = g("Max", g("Min", at, g("Sub", count, 0.5)), -0.5)
        low = g("Floor", at)
        place = g("Add", g("Cast", low, to=7), TAPS)  # (K, 4)
        inside = g("And", g("GreaterOrEqual", place, 0), g("Less", place, side))
        shares.append(g("Where", inside, _cubic(g, g("Sub", at, low)), 0.0))
        places.append(g("Max", g("Min", place, g("Sub", side, 1)), 0))
    index = g("Add", g("Unsqueeze", g("Mul", places[1], columns), [2]), g("Unsqueeze", places[0], [1]))
    share = g("Mul", g("Unsqueeze", shares[1], [2]), g("Unsqueeze", shares[0], [1]))  # (K, 4, 4)
    taken = g("Gather", cells, g("Reshape", index, [0, 16]))  # (K, 16, D)
    return unit(g, g("Squeeze", g("MatMul", g("Unsqueeze", g("Reshape", share, [0, 16]), [1]), taken), [1]))


def _cubic(g: Graph, share: str) -> str:
    """Return weights (K, 4) at places `share` (K, 1) of a cell after the second of TAPS."""
    away = g("Abs", g("Sub", TAPS.astype(np.float32), share))
    square = g("Mul", away, away)
    near = g("Add", g("Mul", g("Sub", g("Mul", away, CUBIC + 2), CUBIC + 3), square), 1.0)
    far = g("Add", g("Mul", g("Sub", g("Mul", away, CUBIC), 5 * CUBIC), away), 8 * CUBIC)
    far = g("Sub", g("Mul", far, away), 4 * CUBIC)
    return g("Where", g("LessOrEqual", away, 1.0), near, far)
