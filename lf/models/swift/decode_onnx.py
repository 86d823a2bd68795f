"""Decode Swift inside an ONNX graph: what `lf.models.swift.decode` does in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lf.formats.onnx_graph import Graph
from lf.models.decode_onnx import Built, detect, odds, poison, refined, sample
from lf.models.swift.decode import CELL


def swift(
    g: Graph,
    maps: Mapping[str, str],
    *,
    threshold: float,
    nms_radius: int,
    border: int,
    temperature: float,
    refine: str = "soft",
    top_k: int,
) -> Built:
    """See `lf.models.swift.decode.swift`."""
    logits = g("DepthToSpace", maps["score"], blocksize=2)
    heat = odds(g, logits)
    spots = detect(g, heat, threshold / (1 - threshold), nms_radius, border, top_k)
    points = refined(g, logits, g("Pow", heat, 1 / temperature) if temperature != 1 else heat, spots, refine)
    spots = replace(spots, scores=g("Div", spots.scores, g("Add", spots.scores, 1.0)))
    at = g("Sub", g("Div", g("Add", points, 0.5), float(CELL)), 0.5)
    return points, poison(g, spots.scores, maps["score"]), sample(g, maps["descriptor"], at)
