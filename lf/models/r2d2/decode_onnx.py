"""Decode R2D2 inside an ONNX graph: what `lf.models.r2d2.decode` does in numpy."""

from __future__ import annotations

from collections.abc import Mapping

from lf.formats.onnx_graph import Graph
from lf.models.decode_onnx import Built, leads, mix, pick_columns, poison, refined, softplus, top, unit


def r2d2(
    g: Graph, maps: Mapping[str, str], *, repeatability: float, reliability: float, refine: str = "none", top_k: int
) -> Built:
    """See `lf.models.r2d2.decode.r2d2`."""
    positive = softplus(g, maps["repeatability"])
    repeatable = g("Div", positive, g("Add", positive, 1.0))
    reliable = g("Sigmoid", maps["reliability"])
    passes = [g("GreaterOrEqual", repeatable, repeatability), g("GreaterOrEqual", reliable, reliability)]
    chosen = g("And", g("And", *passes), leads(g, repeatable, 1))
    spots = top(g, g("Where", chosen, g("Mul", reliable, repeatable), 0.0), 0, top_k)
    points = refined(g, repeatable, repeatable, spots, refine)
    if refine == "none":
        descriptors = g("Transpose", pick_columns(g, maps["descriptor"], spots.index), perm=[1, 0])
    else:
        descriptors = mix(g, maps["descriptor"], points)
    scores = poison(g, spots.scores, maps["repeatability"], maps["reliability"])
    return points, scores, unit(g, descriptors)
