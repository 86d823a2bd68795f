"""Adopt graphs that contain a decoder: find keypoints, scores and descriptors, convert them to lf's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import FEATURES, Array, BadInput, UsageError
from lf.export.adopt import graph
from lf.export.adopt.heads import PAGE, ambiguous, check_names
from lf.formats import onnx_model
from lf.formats.onnx_graph import Graph

if TYPE_CHECKING:
    from onnx import ModelProto

SHORTEST = 8  # least length of a descriptor
UNIT = 1e-3


def looks(values: Mapping[str, Array]) -> bool:
    """Return whether the outputs of a graph may be features: one is a list of pairs."""
    return any(_pairs(value) is not None for value in values.values())


def assign(values: Mapping[str, Array], given: Mapping[str, str], path: Path) -> dict[str, str]:
    """Find the output of each of the FEATURES.

    Raises:
        UsageError: shapes do not decide, or `given` names a missing output.
        BadInput: an output is missing.
    """
    check_names(given, values, dict.fromkeys(FEATURES), path)
    chosen = {feature: output for output, feature in given.items()}
    free = [name for name in values if name not in given]
    points = _one("keypoints", chosen, [name for name in free if _pairs(values[name]) is not None], values, path)
    count = _pairs(values[points])
    if count is None:
        raise BadInput(missing("keypoints", values, path))
    left = [name for name in free if name != points]
    fits = [name for name in left if values[name].size == count and values[name].dtype.kind == "f"]
    scores = _one("scores", chosen, fits, values, path)
    fits = [name for name in left if name != scores and _depth(values[name], count)]
    return {"keypoints": points, "scores": scores, "descriptors": _one("descriptors", chosen, fits, values, path)}


def _one(feature: str, chosen: Mapping[str, str], fits: list[str], values: Mapping[str, Array], path: Path) -> str:
    if feature in chosen:
        return chosen[feature]
    if len(fits) > 1:
        raise UsageError(ambiguous(path, fits, [feature]))
    if not fits:
        raise BadInput(missing(feature, values, path))
    return fits[0]


def missing(feature: str, values: Mapping[str, Array], path: Path) -> str:
    """Return the error if no output fits."""
    shown = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in values.items())
    wanted = {"keypoints": "(1, N, 2)", "scores": "(1, N)", "descriptors": "(1, N, D) or (1, D, N)"}[feature]
    return (
        f"{path}: no output fits {feature}, {wanted}; it gives {shown}; name it: `outputs=OUTPUT={feature}`, see {PAGE}"
    )


def _pairs(value: Array) -> int | None:
    """Return the number of points of an array (N, 2) or (1, N, 2); None for other shapes."""
    inner = value[0] if value.ndim == 3 and len(value) == 1 else value
    return len(inner) if inner.ndim == 2 and inner.shape[1] == 2 and len(inner) != 1 else None


def _depth(value: Array, count: int) -> tuple[int, bool] | None:
    """Return the length of a descriptor and whether it is the first axis, for (N, D) or (D, N), also with a batch."""
    inner = value[0] if value.ndim == 3 and len(value) == 1 else value
    if inner.ndim != 2 or count not in inner.shape or value.dtype.kind != "f":
        return None
    first = inner.shape[0] != count
    depth = inner.shape[0 if first else 1]
    return (depth, first) if depth >= SHORTEST else None


def length(values: Mapping[str, Array], found: Mapping[str, str]) -> int:
    """Length of a descriptor."""
    count = _pairs(values[found["keypoints"]]) or 0
    depth = _depth(values[found["descriptors"]], count)
    return depth[0] if depth else 0


def observe(
    several: Sequence[Mapping[str, Array]], found: Mapping[str, str], size: tuple[int, int], path: Path
) -> dict[str, Any]:
    """Observe the conventions of the outputs on several images (H, W).

    Returns:
        {"order": xy or yx, "slots": fixed or varying, "descriptors first": whether they are (D, N),
        "unit": whether they have length 1, "padding": whether slots are empty, "positive": whether all scores are}.

    Raises:
        BadInput: keypoints are not in pixels.
    """
    laid = [_laid(values, found) for values in several]
    counts = [len(points) for points, *_ in laid]
    depths = [_depth(values[found["descriptors"]], count) for values, count in zip(several, counts, strict=True)]
    points, scores, descriptors = (np.concatenate(parts) for parts in zip(*laid, strict=True))
    used = _used(points, descriptors)
    if used.any() and np.abs(points[used]).max() <= 1:
        raise BadInput(f"{path}: keypoints lie within -1..1; expected pixels; export it without normalising them")
    widest = points[used].max(0, initial=0)
    height, width = size
    shorter = int(width > height)  # the axis on which y, x read as x, y would leave the image
    yx = bool(height != width and widest[shorter] >= min(size) > widest[1 - shorter])
    lengths = np.linalg.norm(descriptors[used], axis=1)
    return {
        "order": "yx" if yx else "xy",
        "slots": counts[0] if len({*counts}) == 1 else "varying",
        "descriptors first": any(depth is not None and depth[1] for depth in depths),
        "unit": bool(np.abs(lengths - 1).max(initial=0) < UNIT),
        "padding": bool((~used).any()),
        "positive": bool(scores[used].min(initial=1) > 0),
    }


def decode(values: Mapping[str, Array], found: Mapping[str, str]) -> tuple[Array, Array, Array]:
    """Return points, scores and unit descriptors of the used slots, with coordinates in the order of the file."""
    points, scores, descriptors = _laid(values, found)
    used = _used(points, descriptors)
    norm = np.maximum(np.linalg.norm(descriptors[used], axis=1, keepdims=True), 1e-12)
    return points[used], scores[used], descriptors[used] / norm


def _laid(values: Mapping[str, Array], found: Mapping[str, str]) -> tuple[Array, Array, Array]:
    points = np.asarray(values[found["keypoints"]], np.float32).reshape(-1, 2)
    value = np.asarray(values[found["descriptors"]], np.float32)
    depth = _depth(value, len(points))
    inner = value.reshape(value.shape[-2:])
    return points, values[found["scores"]].reshape(-1).astype(np.float32), inner.T if depth and depth[1] else inner


def _used(points: Array, descriptors: Array) -> Array:
    """Return a mask of slots with a point in the image and a nonzero descriptor."""
    used: Array = (points >= 0).all(1) & (np.abs(descriptors).max(1, initial=0) > 0)
    return used


def end(model: ModelProto, found: Mapping[str, str], facts: Mapping[str, Any], depth: int) -> None:
    """End the graph with keypoints (1, N, 2), scores (1, N) and descriptors (1, N, D) in lf's form; in place."""
    from onnx import TensorProto, helper

    del model.graph.output[:]
    marked = {output: f"{graph.PREFIX}{feature}" for feature, output in found.items()}
    onnx_model.retitle(model, marked)
    onnx_model.rename(model, lambda name: name in FEATURES)
    g = Graph(f"{graph.PREFIX}out.")
    floats = {f: g("Cast", f"{graph.PREFIX}{f}", to=TensorProto.FLOAT) for f in FEATURES}
    points = g("Reshape", floats["keypoints"], [1, -1, 2])
    if facts["order"] == "yx":
        points = g("Gather", points, [1, 0], axis=2)
    scores = g("Reshape", floats["scores"], [1, -1])
    descriptors = floats["descriptors"]
    if facts["descriptors first"]:
        descriptors = g("Transpose", g("Reshape", descriptors, [1, depth, -1]), perm=[0, 2, 1])
    else:
        descriptors = g("Reshape", descriptors, [1, -1, depth])
    squares = g("ReduceSum", g("Mul", descriptors, descriptors), [2], keepdims=1)
    if not facts["unit"]:
        descriptors = g("Div", descriptors, g("Max", g("Sqrt", squares), 1e-12))
    if not facts["positive"]:
        scores = g("Sigmoid", scores)
    if facts["padding"]:
        outside = g("ReduceSum", g("Relu", g("Neg", points)), [2], keepdims=0)
        used = g("And", g("Equal", outside, 0.0), g("Greater", g("Squeeze", squares, [2]), 0.0))
        scores = g("Where", used, scores, 0.0)
    for name, made in zip(FEATURES, (points, scores, descriptors), strict=True):
        g.rename(g("Identity", made), name)
    graph.append(model, g)
    for name, sides in zip(FEATURES, ([1, None, 2], [1, None], [1, None, depth]), strict=True):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sides))
    graph.prune(model)
