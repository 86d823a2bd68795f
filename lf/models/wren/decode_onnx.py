"""Decode Wren inside an ONNX graph: what `lf.models.wren.decode` does in numpy."""

from __future__ import annotations

from collections.abc import Mapping

from lf.formats.onnx_graph import Graph
from lf.models.decode import CELL
from lf.models.decode_onnx import Built, detect, heatmap, poison, refined, sample


def wren(
    g: Graph,
    maps: Mapping[str, str],
    *,
    threshold: float,
    nms_radius: int,
    border: int,
    refine: str = "soft",
    top_k: int,
) -> Built:
    """See `lf.models.wren.decode.wren`."""
    heat = heatmap(g, maps["detector"])
    spots = detect(g, heat, threshold, nms_radius, border, top_k)
    points = refined(g, heat, heat, spots, refine)
    at = g("Sub", g("Div", g("Add", points, 0.5), float(CELL)), 0.5)
    return points, poison(g, spots.scores, maps["detector"]), sample(g, maps["descriptor"], at)
