"""Decode EdgePoint2 inside an ONNX graph: what `lf.models.edgepoint2.decode` does in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lf.formats.onnx_graph import Graph
from lf.models.decode_onnx import Built, leads, mix, odds, poison, refined, top, unit
from lf.models.edgepoint2.decode import CELL


def edgepoint2(
    g: Graph, maps: Mapping[str, str], *, threshold: float, radius: int, border: int, refine: str = "none", top_k: int
) -> Built:
    """See `lf.models.edgepoint2.decode.edgepoint2`."""
    logits = g("DepthToSpace", maps["score"], blocksize=2)
    heat = odds(g, logits)
    chosen = g("And", g("GreaterOrEqual", heat, threshold / (1 - threshold)), leads(g, heat, radius))
    spots = top(g, g("Where", chosen, heat, 0.0), border, top_k)
    points = refined(g, logits, heat, spots, refine)
    spots = replace(spots, scores=g("Div", spots.scores, g("Add", spots.scores, 1.0)))
    at = g("Sub", g("Div", g("Add", points, 0.5), float(CELL)), 0.5)
    return points, poison(g, spots.scores, maps["score"]), unit(g, mix(g, maps["descriptor"], at))
