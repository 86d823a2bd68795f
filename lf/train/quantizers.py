"""Quantizers with straight-through gradients: weights, activations, folded batch norms.

The derivative of rounding is taken as one (arXiv 1308.3432). Steps and ranges are learned with the weights (LSQ, arXiv
1902.08153; LSQ+, arXiv 2004.09576), as factors exp(p) of their initial values. Steps of Adam then change each in
proportion to its size, and weight decay pulls each to its initial value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

LEVELS = 255  # number of steps in the range of an activation
SHRINK = torch.linspace(0.4, 1, 61)  # candidates for the end of a grid, as shares of the channel's largest weight
TINY = 1e-6  # smallest end of a range, so that a tensor of zeros has a step, too


class _Round(torch.autograd.Function):
    """Rounding to the nearest integer, halves to even, with the identity as gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


def nearest(x: Tensor) -> Tensor:
    """Round to the nearest integers, with the identity as gradient."""
    rounded: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return rounded


class Weights(nn.Module):
    """The weights of a convolution (O, ...) on the grid {-end, ..., end} * step, with a step per output channel.

    With 8 bits the end of a grid is always the largest weight of the channel, as in the file. With fewer bits the step
    is learned; it starts with the least squared error.
    """

    def __init__(self, weight: Tensor, bits: int) -> None:
        """Find the initial steps for these weights."""
        super().__init__()
        self.end = int(2 ** (bits - 1)) - 1
        self.factor = None if bits == 8 else nn.Parameter(weight.new_zeros(len(weight)))
        self.step: Tensor
        self.register_buffer("step", _best_step(weight.detach(), self.end) if bits < 8 else None)

    def forward(self, weight: Tensor) -> Tensor:
        """Round the weights to their grid."""
        step = self.steps(weight).view(-1, *[1] * (weight.ndim - 1))
        rounded: Tensor = nearest(weight / step).clamp(-self.end, self.end) * step
        return rounded

    def steps(self, weight: Tensor) -> Tensor:
        """Return the steps (O,) of the grids of weights (O, ...)."""
        if self.factor is None:
            return weight.detach().flatten(1).abs().amax(1).clamp(min=TINY) / self.end
        return self.step * self.factor.exp()


class Bias(nn.Module):
    """A bias (O,) on the grid of its accumulator: integers times the steps of the input and of the weights.

    With 4 bits this grid is so coarse that one in a hundred values moves to the next level.
    """

    def __init__(self, conv: nn.Module, reads: Activations) -> None:
        """Store the convolution, which has parametrized weights, and its input `reads`."""
        super().__init__()
        self._parts: list[Any] = [conv, reads]  # in a list, so that they are not part of this module's state

    def forward(self, bias: Tensor) -> Tensor:
        """Round the bias to its grid."""
        conv, reads = self._parts
        if reads.observing:
            return bias
        weights = conv.parametrizations.weight
        step = reads.step() * weights[0].steps(weights.original)
        rounded: Tensor = nearest(bias / step) * step
        return rounded


class Activations(nn.Module):
    """A tensor on 256 levels from low <= 0 to high >= 0, zero among them.

    Attributes:
        places: names of the quantized tensor, `<convolution>.input` and `<convolution>.output`.
        observing: True: tensors pass unchanged and their extremes are recorded.
    """

    low: Tensor
    high: Tensor

    def __init__(self, places: Iterable[str]) -> None:
        """Start with an empty range."""
        super().__init__()
        self.places, self.observing = tuple(places), True
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.full((), TINY))
        self.factors = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """Round (B, C, H, W) to the levels; float32."""
        if self.observing:
            self.low = torch.minimum(self.low, x.detach().amin().float())
            self.high = torch.maximum(self.high, x.detach().amax().float())
            return x
        step = self.step()
        zero = nearest(-self.range()[0] / step)
        levels = (nearest(x.float() / step) + zero).clamp(0, LEVELS)
        return (levels - zero) * step

    def range(self) -> tuple[Tensor, Tensor]:
        """Return the range (low, high)."""
        low, high = self.factors.exp()
        return self.low * low, self.high * high

    def step(self) -> Tensor:
        """Return the distance of two levels."""
        low, high = self.range()
        return (high - low) / LEVELS


class Folded(nn.Module):
    """Rest of a batch norm after folding: an identity, plus the bias if the convolution has none.

    It keeps the names of the norm's tensors, with values that make the norm exactly the identity (without that bias).
    """

    def __init__(self, norm: Any, bias: Tensor | None) -> None:
        """Replace `norm`, and add `bias` (C,) if given.

        The variance is 1 - eps, so that float32 rounds variance + eps to exactly one.
        """
        super().__init__()
        self.adds = bias is not None
        if norm.weight is not None:
            self.register_buffer("weight", torch.ones_like(norm.weight))
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone())
        elif norm.bias is not None:
            self.register_buffer("bias", torch.zeros_like(norm.bias))
        self.register_buffer("running_mean", torch.zeros_like(norm.running_mean))
        self.register_buffer("running_var", torch.full_like(norm.running_var, 1 - norm.eps))
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)

    def forward(self, x: Tensor) -> Tensor:
        """Add the bias to (B, C, H, W)."""
        return x + self.bias.view(-1, 1, 1) if self.adds else x


def _best_step(weight: Tensor, end: int) -> Tensor:
    """Return the steps (O,) with the least squared error of weights (O, ...)."""
    rows = weight.flatten(1)
    full = rows.abs().amax(1, keepdim=True).clamp(min=TINY) / end
    steps = full * SHRINK.to(full)  # (O, 61)
    errors = [((rows / s[:, None]).round().clamp(-end, end) * s[:, None] - rows).square().sum(1) for s in steps.T]
    return steps.gather(1, torch.stack(errors, 1).argmin(1, keepdim=True))[:, 0]
