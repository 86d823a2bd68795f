"""Decode PoSFeat inside an ONNX graph: what `lf.models.posfeat.decode` does in numpy."""

from __future__ import annotations

from collections.abc import Mapping

from lf.formats.onnx_graph import Graph
from lf.models.decode_onnx import END, Built, leads, mix, poison, refined, sides, softplus, top, unit
from lf.models.posfeat.decode import CELL, EDGE, REACH


def posfeat(
    g: Graph, maps: Mapping[str, str], *, threshold: float, radius: int, refine: str = "soft", top_k: int
) -> Built:
    """See `lf.models.posfeat.decode.posfeat`."""
    score = softplus(g, maps["score"])
    inner = g("Slice", score, [EDGE] * 2, [-EDGE] * 2, [2, 3])
    chosen = g("And", g("Greater", inner, threshold), leads(g, inner, radius))
    kept = g("Where", chosen, inner, 0.0)
    for axis in (2, 3) if radius // 2 else ():  # see `peaks`
        first, lost, rest = (
            g("Slice", kept, [low], [high], [axis])
            for low, high in ((0, 1), (1, 1 + radius // 2), (1 + radius // 2, END))
        )
        kept = g("Concat", first, g("Mul", lost, 0.0), rest, axis=axis)
    spots = top(g, g("Pad", kept, [0, 0, EDGE, EDGE] * 2), EDGE, top_k)
    points = refined(g, score, score, spots, refine, REACH)
    rows, columns = (g("Cast", side, to=1) for side in sides(g, maps["descriptor"]))
    cells = g("Unsqueeze", g("Concat", columns, rows, axis=0), [0])
    scale = g("Div", cells, g("Sub", g("Mul", cells, float(CELL)), 1.0))
    at = g("Sub", g("Mul", points, scale), 0.5)
    return points, poison(g, spots.scores, maps["score"]), unit(g, mix(g, maps["descriptor"], at))
