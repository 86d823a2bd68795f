"""Quantizers with straight-through gradients: weights, activations, folded batch norms.

The derivative of rounding counts as one (arXiv 1308.3432). Steps and ranges are learned with the weights (LSQ, arXiv
1902.08153; LSQ+, arXiv 2004.09576), as factors exp(p) of where they began: an optimiser whose steps have the size of
its rate then moves each in proportion, and weight decay draws it to where it began.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

LEVELS = 255  # steps of an activation
SHRINK = torch.linspace(0.4, 1, 61)  # shares of a channel's largest weight that are tried as the end of its grid
TINY = 1e-6  # the least end of a range: what is zero in every picture has to have a step, too


class _Round(torch.autograd.Function):
    """To the nearest integer, halves to even; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


def nearest(x: Tensor) -> Tensor:
    """The nearest integers; their gradient passes straight through."""
    rounded: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return rounded


class Weights(nn.Module):
    """The weights of a convolution (O, ...) on the grid {-end, ..., end} * step, a step per output channel.

    With 8 bits the largest weight of a channel is always the end of its grid, as in the file; with fewer it need not
    be: the step starts where the squared error is least and is learned.
    """

    def __init__(self, weight: Tensor, bits: int) -> None:
        """Find the steps for weights as they are now."""
        super().__init__()
        self.end = int(2 ** (bits - 1)) - 1
        self.factor = None if bits == 8 else nn.Parameter(weight.new_zeros(len(weight)))
        self.step: Tensor
        self.register_buffer("step", _best_step(weight.detach(), self.end) if bits < 8 else None)

    def forward(self, weight: Tensor) -> Tensor:
        """The weights on their grid."""
        step = self.steps(weight).view(-1, *[1] * (weight.ndim - 1))
        rounded: Tensor = nearest(weight / step).clamp(-self.end, self.end) * step
        return rounded

    def steps(self, weight: Tensor) -> Tensor:
        """(O,) of the grids of weights (O, ...)."""
        if self.factor is None:
            return weight.detach().flatten(1).abs().amax(1).clamp(min=TINY) / self.end
        return self.step * self.factor.exp()


class Bias(nn.Module):
    """A bias (O,) on the grid of the sums it joins: integers times the step of the input times that of the weights.

    With 4 bits that is coarse enough to move one in a hundred values to the next level.
    """

    def __init__(self, conv: nn.Module, reads: Activations) -> None:
        """Of a convolution with parametrized weights that reads `reads`."""
        super().__init__()
        self._parts: list[Any] = [conv, reads]  # in a list, or they would be part of this module's state

    def forward(self, bias: Tensor) -> Tensor:
        """The bias on its grid."""
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
        places: what it quantizes, `<convolution>.input` and `<convolution>.output`.
        observing: it passes everything through and remembers the extremes.
    """

    low: Tensor
    high: Tensor

    def __init__(self, places: Iterable[str]) -> None:
        """Nothing seen."""
        super().__init__()
        self.places, self.observing = tuple(places), True
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.full((), TINY))
        self.factors = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same on its levels, float32."""
        if self.observing:
            self.low = torch.minimum(self.low, x.detach().amin().float())
            self.high = torch.maximum(self.high, x.detach().amax().float())
            return x
        step = self.step()
        zero = nearest(-self.range()[0] / step)
        levels = (nearest(x.float() / step) + zero).clamp(0, LEVELS)
        return (levels - zero) * step

    def range(self) -> tuple[Tensor, Tensor]:
        """(low, high)."""
        low, high = self.factors.exp()
        return self.low * low, self.high * high

    def step(self) -> Tensor:
        """Between two levels."""
        low, high = self.range()
        return (high - low) / LEVELS


class Folded(nn.Module):
    """What is left of a batch norm that its convolution took in: nothing, or the bias that the latter has no place for.

    It keeps the names of the norm, with values that make the norm itself an exact identity (but for that bias).
    """

    def __init__(self, norm: Any, bias: Tensor | None) -> None:
        """Take the place of `norm`; `bias` (C,) is what to add.

        The variance is one less than `eps`, which is added to it: float32 rounds the sum to exactly one.
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
        """(B, C, H, W) -> the same with the bias."""
        return x + self.bias.view(-1, 1, 1) if self.adds else x


def _best_step(weight: Tensor, end: int) -> Tensor:
    """(O, ...) -> (O,) the steps of least squared error."""
    rows = weight.flatten(1)
    full = rows.abs().amax(1, keepdim=True).clamp(min=TINY) / end
    steps = full * SHRINK.to(full)  # (O, 61)
    errors = [((rows / s[:, None]).round().clamp(-end, end) * s[:, None] - rows).square().sum(1) for s in steps.T]
    return steps.gather(1, torch.stack(errors, 1).argmin(1, keepdim=True))[:, 0]
