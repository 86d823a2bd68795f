"""Decode a network that a card describes inside an ONNX graph: what `lf.models.own.decode` does in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lf.formats.onnx_graph import Graph
from lf.models.decode_onnx import Built, Spots, detect, heatmap, nms, odds, poison, refined, sample, sides, top
from lf.models.superpoint.decode_onnx import describe_superpoint


def decode(
    g: Graph,
    maps: Mapping[str, str],
    *,
    part: str,
    stride: int,
    values: str,
    offset: float,
    spacing: int,
    sampling: str,
    threshold: float,
    nms_radius: int = 0,
    border: int = 0,
    refine: str = "none",
    top_k: int,
) -> Built:
    """See `lf.models.own.decode.decode`."""
    logits = values == "logits" and part in ("heatmap", "heatmap+offset")
    least = threshold / (1 - threshold) if logits else threshold
    if part in ("grid65", "heatmap"):
        read = [maps["detector" if part == "grid65" else "score"]]
        score = heatmap(g, read[0]) if part == "grid65" else _laid_out(g, read[0], stride)
        heat = odds(g, score) if logits else score
        spots = detect(g, heat, least, nms_radius, border, top_k)
        points = refined(g, score, g("Max", heat, 0.0), spots, refine)
    else:
        move = "shift" if part == "cell" else "offset"
        read = [maps["score"], maps[move]]
        heat = g("Sigmoid", read[0]) if part == "cell" else odds(g, read[0]) if logits else read[0]
        shift = g("Mul", g("Tanh", read[1]), float(stride - 1)) if part == "cell" else g("Mul", read[1], float(offset))
        moved, inside = _moved(g, shift, stride, border, clip=part == "cell")
        above = g("Greater" if part == "cell" else "GreaterOrEqual", heat, least)
        kept = g("Where", above, heat, 0.0)
        if part != "cell" and nms_radius // stride:
            kept = nms(g, kept, nms_radius // stride)
        spots = top(g, g("Where", inside, kept, 0.0), int(part == "cell"), top_k)
        points = _picked(g, moved, spots)
    scores = g("Div", spots.scores, g("Add", spots.scores, 1.0)) if logits else spots.scores
    return points, poison(g, scores, *read), SAMPLINGS[sampling](g, maps["descriptor"], points, spacing)


def _laid_out(g: Graph, score: str, stride: int) -> str:
    return g("DepthToSpace", score, blocksize=stride) if stride > 1 else score


def _moved(g: Graph, shift: str, stride: int, border: int, clip: bool) -> tuple[list[str], str]:
    """Shift the centres of squares by (1, 2, h, w) px, x and y; also return a mask of centres inside the border."""
    rows, columns = sides(g, shift)
    places, tests = [], []
    for axis, side in enumerate((columns, rows)):
        last = g("Cast", g("Sub", g("Mul", side, stride), 1), to=1)
        centre = g("Cast", g("Range", 0, g("Squeeze", side), 1), to=1)
        centre = g("Add", g("Mul", centre, float(stride)), (stride - 1) / 2)
        centre = g("Reshape", centre, [1, 1, 1, -1] if axis == 0 else [1, 1, -1, 1])
        place = g("Add", centre, g("Slice", shift, [axis], [axis + 1], [1]))
        place = g("Max", g("Min", place, last), 0.0) if clip else place
        tests.append(g("GreaterOrEqual", place, float(border)))
        tests.append(g("LessOrEqual", place, g("Sub", last, float(border))))
        places.append(place)
    inside = tests[0]
    for test in tests[1:]:
        inside = g("And", inside, test)
    return places, inside


def _picked(g: Graph, moved: list[str], spots: Spots) -> str:
    """(K, 2) float32, x then y."""
    columns = [g("Gather", g("Reshape", place, [-1]), spots.index) for place in moved]
    return g("Concat", *(g("Unsqueeze", column, [1]) for column in columns), axis=1)


def _centres(g: Graph, descriptor: str, points: str, spacing: int) -> str:
    return sample(g, descriptor, g("Sub", g("Div", g("Add", points, 0.5), float(spacing)), 0.5))


def _corners(g: Graph, descriptor: str, points: str, spacing: int) -> str:
    rows, columns = sides(g, descriptor)
    cells = g("Cast", g("Concat", columns, rows, axis=0), to=1)
    share = g("Div", points, g("Sub", g("Mul", cells, float(spacing)), 1.0))
    return sample(g, descriptor, g("Mul", share, g("Sub", cells, 1.0)))


def _superpoint(g: Graph, descriptor: str, points: str, spacing: int) -> str:
    return describe_superpoint(g, descriptor, points)


SAMPLINGS: dict[str, Callable[[Graph, str, str, int], str]] = {
    "centres": _centres,
    "corners": _corners,
    "superpoint": _superpoint,
}
