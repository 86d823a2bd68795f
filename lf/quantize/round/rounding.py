"""ROUNDINGS: to the nearest number, or with error compensation (GPTQ, arXiv 2210.17323).

ONNX Runtime's GPTQ is not used: it rounds matrix products only, not convolutions.
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

PIXELS = 8 * 240 * 320  # total pixels of the images for gptq: 8 images of 240x320, fewer larger ones
WINDOWS = 8192  # windows of a layer, for all sizes and numbers of images
DAMPING = 0.01  # share of the mean of the diagonal that is added to it
FACTORS = SHRINK[::10]  # ends of the grid to try for few bits, as shares of the largest weight
FEW = 4  # bits
BLOCK = 64  # columns with a joint feedback of errors
SEED = 0


@dataclass(frozen=True)
class Pictures:
    """Calibration images of a rounding.

    Attributes:
        tensors: inputs of the network (1, C, H, W) float32.
        ranges: ranges of the activations to quantize.
        activations: bits of these activations.
        progress: (done, total, text), called per layer.
    """

    tensors: Sequence[Array] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    activations: int = 8
    progress: Callable[[int, int, str], None] = lambda done, total, text: None


@dataclass(frozen=True)
class Rounding:
    """A method to round weights.

    Attributes:
        run: (float graph, convolution -> bits, images) -> a grid for each, except for convolutions that share the
            weights of another.
        about: one line for the help.
        settings: settings for the card; empty for methods without images.
    """

    run: Callable[[ModelProto, Mapping[str, int], Pictures], dict[str, Grid]]
    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def gptq(model: ModelProto, bits: Mapping[str, int], pictures: Pictures) -> dict[str, Grid]:
    """Round layer by layer; the inputs of each come from the rounded layers before it.

    Rounding minimizes the squared difference between the layer's outputs in the float and in the quantized network.
    Weights with WIDE bits or more are rounded to the nearest number.
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
    """Sums over N windows of the inputs of a layer of weights (O, K); G groups have R = O / G outputs each.

    Attributes:
        count: N.
        sums: (G, K), sums of the windows in the quantized network.
        products: (G, K, K), sums of products of pairs of their columns.
        lost: (G, R), sums of the float output minus the output of the float weights for those windows.
        pulls: (G, R, K), sums of products of this difference and the windows.
    """

    count: int
    sums: Array
    products: Array
    lost: Array
    pulls: Array

    @classmethod
    def none(cls, groups: int, outputs: int, columns: int) -> Moments:
        """Return zeros, float64."""
        shapes = (groups, columns), (groups, columns, columns), (groups, outputs), (groups, outputs, columns)
        return cls(0, *(np.zeros(shape) for shape in shapes))

    def add(self, weights: Array, before: Array, after: Array) -> None:
        """Add the windows (G, P, K) of the float and of the quantized network, for weights (G, R, K)."""
        after = after.astype(np.float64)  # float64, because a large mean will be subtracted from the products
        lost = weights @ (before - after).swapaxes(1, 2)
        self.count += after.shape[1]
        self.sums += after.sum(1)
        self.products += after.swapaxes(1, 2) @ after
        self.lost += lost.sum(2)
        self.pulls += lost @ after


def observe(node: NodeProto, weights: Array, before: Walk, after: Walk, rng: np.random.Generator) -> Moments:
    """Sum over WINDOWS random windows of a convolution of weights (O, I, kH, kW), with the same number per image."""
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
    """Round the weights (O, I, kH, kW) of a layer with the least change of its output; the bias corrects the mean.

    It is GPTQ (arXiv:2210.17323) with two changes. The bias corrects the mean of the output, so covariances replace
    products. And the errors of earlier layers are corrected first, by least squares: W + E[lost x^T] H^-1.
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
    """Round column by column; the following columns compensate the error.

    Args:
        target: (G, R, K) weights.
        hessian: (G, K, K), positive definite; an error e of a row costs e^T H e.
        order: (G, K), order of rounding the columns.
        bits: bits of a number.

    Returns:
        Numbers (G, R, K) and scales (G, R): scales of least squared error or, for FEW bits, the best of FACTORS.
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
    """Run algorithm 1 of arXiv:2210.17323 at given scales; `upper` is U (G, K, K) with U^T U = 1 / H."""
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
