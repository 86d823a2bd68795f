"""Decode KP2D inside an ONNX graph: what `lf.models.kp2d.decode` does in numpy."""

from __future__ import annotations

from collections.abc import Mapping

from lf.formats.onnx_graph import Graph
from lf.models.decode_onnx import Built, mix, pick_columns, places, poison, sides, top, unit


def kp2d(
    g: Graph,
    maps: Mapping[str, str],
    *,
    cell: int,
    threshold: float,
    cross: bool = True,
    align_corners: bool = True,
    top_k: int,
) -> Built:
    """See `lf.models.kp2d.decode.kp2d`."""
    score = g("Sigmoid", maps["score"])
    spots = top(g, g("Where", g("Greater", score, threshold), score, 0.0), 1, top_k)
    shift = g("Transpose", pick_columns(g, maps["shift"], spots.index), perm=[1, 0])
    middle = (cell - 1) / 2  # px
    corner = g("Add", g("Mul", places(g, spots), float(cell)), middle)
    moved = g("Add", corner, g("Mul", g("Tanh", shift), middle * (2 if cross else 1)))
    rows, columns = sides(g, maps["score"])
    pixels = g("Mul", g("Cast", g("Concat", columns, rows, axis=0), to=1), float(cell))
    last = g("Sub", pixels, 1.0)
    points = g("Min", g("Max", moved, 0.0), last)
    rows, columns = sides(g, maps["feat"])
    samples = g("Cast", g("Concat", columns, rows, axis=0), to=1)
    share = g("Div", points, last)
    at = g("Mul", share, g("Sub", samples, 1.0)) if align_corners else g("Sub", g("Mul", share, samples), 0.5)
    return points, poison(g, spots.scores, maps["score"]), unit(g, mix(g, maps["feat"], at))
