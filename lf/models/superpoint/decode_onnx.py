"""Decode SuperPoint inside an ONNX graph: what `lf.models.superpoint.decode` does in numpy."""

from __future__ import annotations

from collections.abc import Mapping

from lf.formats.onnx_graph import Graph
from lf.models.decode import CELL
from lf.models.decode_onnx import Built, detect, heatmap, poison, refined, sample, sides


def superpoint(
    g: Graph,
    maps: Mapping[str, str],
    *,
    threshold: float,
    nms_radius: int,
    border: int,
    refine: str = "none",
    top_k: int,
) -> Built:
    """See `lf.models.superpoint.decode.superpoint`; `maps` are names of tensors (1, c, h, w)."""
    heat = heatmap(g, maps["detector"])
    spots = detect(g, heat, threshold, nms_radius, border, top_k)
    points = refined(g, heat, heat, spots, refine)
    return points, poison(g, spots.scores, maps["detector"]), describe_superpoint(g, maps["descriptor"], points)


def describe_superpoint(g: Graph, descriptor: str, points: str) -> str:
    """See `lf.models.superpoint.decode.describe_superpoint`: (1, D, h, w) at points (K, 2) px -> (K, D)."""
    rows, columns = sides(g, descriptor)
    cells = g("Concat", *(g("Cast", side, to=1) for side in (columns, rows)), axis=0)
    normalised = g("Sub", g("Div", points, g("Div", g("Mul", cells, float(CELL)), 2.0)), 1.0)
    at = g("Mul", g("Div", g("Add", normalised, 1.0), 2.0), g("Sub", cells, 1.0))
    return sample(g, descriptor, at)
