"""ROUNDINGS: to the nearest number, or with error compensation (GPTQ, arXiv 2210.17323).

Ours, because the GPTQ of ONNX Runtime's tools rounds matrix products only, not convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import Array
from lf.quantize.calibrate.ranges import Range
from lf.quantize.round.graph_runner import Walk, quantized, upstream, windows
from lf.quantize.round.weight_grids import SHRINK, WIDE, Grid, grid, nearest, on_grid, parameters

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PIXELS = 8 * 240 * 320  # of all pictures that gptq looks at: 8 of the usual size, fewer of a larger
WINDOWS = 8192  # a layer is seen through so many, whatever its size and the number of pictures
DAMPING = 0.01  # of the mean of the diagonal is added to it
FACTORS = SHRINK[::10]  # of the largest weight: ends of the grid that are tried for few bits
FEW = 4  # bits
BLOCK = 64  # columns whose errors are fed back together
SEED = 0


@dataclass(frozen=True)
class Pictures:
    """Calibration images of a rounding.

    Attributes:
        tensors: (1, C, H, W) float32, as the network takes them.
        ranges: of the activations that will be quantized.
        activations: bits of those.
        progress: (done, total, text), called per layer.
    """

    tensors: Sequence[Array] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    activations: int = 8
    progress: Callable[[int, int, str], None] = lambda done, total, text: None


@dataclass(frozen=True)
class Rounding:
    """A way to round.

    Attributes:
        run: (float graph, convolution -> bits, pictures) -> a grid for each; left alone are those that share the
            weights of another.
        about: one line for the help.
        settings: for the card; empty for one that looks at no pictures.
    """

    run: Callable[[ModelProto, Mapping[str, int], Pictures], dict[str, Grid]]
    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def gptq(model: ModelProto, bits: Mapping[str, int], pictures: Pictures) -> dict[str, Grid]:
    """Round layer by layer, each after what the rounded ones before it make of the pictures.

    The sum of squares to be least is that of the layer's output in the float network less its output in the quantized
    one. Weights of WIDE bits and more go to the nearest number.
    """
    few = {name: count for name, count in bits.items() if count < WIDE}
    grids = nearest(model, {name: count for name, count in bits.items() if count >= WIDE})
    tensors = parameters(model, few)
    nodes = upstream(model, few)
    before, after = (Walk(model, nodes, pictures.tensors) for _ in range(2))
    entries = {node.input[0] for node in nodes if node.name in few} & {*pictures.ranges}
    rng, shared = np.random.default_rng(SEED), set[str]()
    for node in nodes:
        if node.name in few:
            for name in entries & {*node.input}:
                entries.remove(name)
                values = after.values[name]
                values[:] = [quantized(value, pictures.ranges[name], pictures.activations) for value in values]
        if node.name in few and node.input[1] not in shared:
            pictures.progress(len(shared), len(few), f"rounding {node.name}")
            shared.add(node.input[1])
            weights, bias = tensors[node.name]
            seen = observe(node, weights, before, after, rng)
            grids[node.name] = made = fit(weights, bias, seen, few[node.name])
            corrected = f"{node.name}.corrected"
            after.constants[node.input[1]] = made.weights()
            after.constants[corrected] = np.asarray(made.bias)
            before.run(node)
            after.run(_with_bias(node, corrected))
        else:
            before.run(node)
            after.run(node)
    pictures.progress(len(few), len(few), "rounded")
    return grids


@dataclass
class Moments:
    """What a layer of weights (O, K) reads, summed over N windows; G groups have R = O / G outputs each.

    Attributes:
        count: N.
        sums: (G, K) of the windows of the quantized network.
        products: (G, K, K) of pairs of their columns.
        lost: (G, R) of the float output less what the float weights make of those windows.
        pulls: (G, R, K) products of that and the windows.
    """

    count: int
    sums: Array
    products: Array
    lost: Array
    pulls: Array

    @classmethod
    def none(cls, groups: int, outputs: int, columns: int) -> Moments:
        """Nothing seen; float64."""
        shapes = (groups, columns), (groups, columns, columns), (groups, outputs), (groups, outputs, columns)
        return cls(0, *(np.zeros(shape) for shape in shapes))

    def add(self, weights: Array, before: Array, after: Array) -> None:
        """Take in the windows (G, P, K) of the float and of the quantized network, for weights (G, R, K)."""
        after = after.astype(np.float64)  # a large mean is to be subtracted from the products
        lost = weights @ (before - after).swapaxes(1, 2)
        self.count += after.shape[1]
        self.sums += after.sum(1)
        self.products += after.swapaxes(1, 2) @ after
        self.lost += lost.sum(2)
        self.pulls += lost @ after


def observe(node: NodeProto, weights: Array, before: Walk, after: Walk, rng: np.random.Generator) -> Moments:
    """Look at a convolution of weights (O, I, kH, kW) through WINDOWS windows at random places, as many per picture."""
    kernel = weights.shape[2:]
    pairs = [*zip(before.values[node.input[0]], after.values[node.input[0]], strict=True)]
    found = None
    for pair in pairs:
        where = rng.random(-(-WINDOWS // len(pairs)))
        seen = [windows(value, node, kernel, where) for value in pair]
        rows = weights.reshape(len(seen[0]), -1, seen[0].shape[2])
        found = found or Moments.none(*rows.shape)
        found.add(rows, *seen)
    assert found is not None
    return found


def fit(weights: Array, bias: Array | None, seen: Moments, bits: int) -> Grid:
    """Round the weights (O, I, kH, kW) of a layer so that its output changes least; the rest is left to the bias.

    GPTQ (arXiv:2210.17323) with two changes. The bias will make the mean of the output right, so covariances take the
    place of products. And what the layers before have lost is made good first, by least squares: W + E[lost x^T] H^-1.
    """
    groups, columns = seen.sums.shape
    rows = weights.reshape(groups, -1, columns).astype(np.float64)
    mean, lost = seen.sums / seen.count, seen.lost / seen.count
    hessian = seen.products / seen.count - mean[:, :, None] * mean[:, None, :]
    pulls = seen.pulls / seen.count - lost[:, :, None] * mean[:, None, :]
    diagonal = np.einsum("gkk->gk", hessian)  # a view
    order = np.argsort(-diagonal, 1, kind="stable")
    damping = DAMPING * diagonal.mean(1, keepdims=True)
    diagonal += np.where(damping > 0, damping, 1)
    target = rows + np.linalg.solve(hessian, pulls.swapaxes(1, 2)).swapaxes(1, 2)
    numbers, scale = feedback(target, hessian, order, bits)
    shift = lost + ((rows - numbers * scale[:, :, None]) @ mean[:, :, None])[:, :, 0]
    return Grid(
        numbers.reshape(weights.shape).astype(np.int8),
        scale.reshape(-1).astype(np.float32),
        bits,
        (shift.reshape(-1) + (0 if bias is None else bias)).astype(np.float32),
    )


def feedback(target: Array, hessian: Array, order: Array, bits: int) -> tuple[Array, Array]:
    """Round column by column; those still to come take over the error, as far as they can stand in for it.

    Args:
        target: (G, R, K) weights.
        hessian: (G, K, K), positive definite; an error e of a row costs e^T H e.
        order: (G, K) the columns in the order in which they are rounded.
        bits: of a number.

    Returns:
        (G, R, K) numbers and (G, R) scales: of those of least squared error and, for FEW bits, of FACTORS the cheapest.
    """
    groups, rows, columns = target.shape
    flat = target.reshape(-1, columns).astype(np.float32)
    full = np.abs(flat).max(1) / (2 ** (bits - 1) - 1)
    full[full < np.finfo(np.float32).tiny] = 1
    tried = [grid(flat, bits)[1], *(full * np.float32(factor) for factor in (FACTORS if bits <= FEW else ()))]
    scales = np.concatenate([scale.reshape(groups, rows) for scale in tried], 1)  # (G, F * R)
    targets = np.tile(np.take_along_axis(target, order[:, None], 2), (1, len(tried), 1))
    hessian = np.stack([matrix[rank][:, rank] for matrix, rank in zip(hessian, order, strict=True)])
    # H = R R^T with R upper triangular, so that U = 1 / R has U^T U = 1 / H
    upper = np.linalg.inv(np.linalg.cholesky(hessian[:, ::-1, ::-1])[:, ::-1, ::-1])
    numbers = _columns(targets, upper, scales, bits)
    error = targets - numbers * scales[:, :, None]
    costs = ((error @ hessian) * error).sum(2).reshape(groups, -1, rows)
    best = costs.argmin(1) * rows + np.arange(rows)
    found = np.empty_like(target)
    np.put_along_axis(found, order[:, None], np.take_along_axis(numbers, best[:, :, None], 1), 2)
    return found, np.take_along_axis(scales, best, 1)


def _columns(target: Array, upper: Array, scale: Array, bits: int) -> Array:
    """Algorithm 1 of arXiv:2210.17323 at given scales; U^T U = 1 / H, `upper` is U (G, K, K)."""
    left, numbers = target.copy(), np.empty_like(target)
    columns = target.shape[2]
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = np.empty((*scale.shape, stop - start))
        for k in range(start, stop):
            numbers[:, :, k] = on_grid(left[:, :, k].reshape(-1, 1), scale.reshape(-1), bits).reshape(scale.shape)
            errors[:, :, k - start] = error = (left[:, :, k] - numbers[:, :, k] * scale) / upper[:, k, k, None]
            left[:, :, k + 1 : stop] -= error[:, :, None] * upper[:, None, k, k + 1 : stop]
        left[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    return numbers


def _with_bias(node: NodeProto, name: str) -> NodeProto:
    copy = type(node)()
    copy.CopyFrom(node)
    copy.input[2:] = [name]
    return copy


ROUNDINGS: dict[str, Rounding] = {
    "nearest": Rounding(
        lambda model, bits, _: nearest(model, bits), "each weight alone, to the grid of least squared error"
    ),
    "gptq": Rounding(
        gptq,
        "each layer so that its output on the photos changes least",
        {"windows": WINDOWS, "damping": DAMPING, "seed": SEED},
    ),
}
