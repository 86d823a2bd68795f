"""Heads that the host computes in float, after an 8-bit file.

R2D2's heads are 1x1 convolutions of squares (arXiv 1906.06195, section 3.1 and the authors' code), and the range
of squares is too wide for 8 bits. So the file ends before these heads, and its card describes them for the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lf.core import Array, BadInput, Card


@dataclass(frozen=True)
class HostHead:
    """y = W (x * x if `square` else x) + b at every pixel.

    Attributes:
        name: name of the head.
        source: output tensor of the file, (1, Cin, h, w) outside of the session.
        weight: (Cout, Cin) float32.
        bias: (Cout,) float32.
        square: True squares x first.
    """

    name: str
    source: str
    weight: Array
    bias: Array
    square: bool

    @property
    def inputs(self) -> int:
        """Channels of x."""
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        """Channels of y."""
        return int(self.weight.shape[0])

    def __call__(self, value: Array) -> Array:
        """Compute y (1, Cout, h, w) float32 from x (1, Cin, h, w) float32."""
        _, channels, height, width = value.shape
        flat = value.reshape(channels, -1)
        found = self.weight @ (flat * flat if self.square else flat) + self.bias[:, None]
        return np.asarray(found.reshape(1, -1, height, width))


def host_heads(card: Card, where: str) -> tuple[HostHead, ...]:
    """Return the heads that the last step of the card leaves to the host; empty for other files.

    Raises:
        BadInput: an entry does not describe a head of this card.
    """
    steps = next((step.host for step in reversed(card.made) if step.host), [])
    try:
        heads = tuple(_head(step) for step in steps)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadInput(f"{where}: the head of the host in its card is damaged ({error}); make it again") from error
    for head in heads:
        if head.name not in card.outputs:
            raise BadInput(f"{where}: its card has the host compute {head.name}, which is no head of {card.model}")
    return heads


def _head(step: Mapping[str, Any]) -> HostHead:
    weight, bias = np.asarray(step["weight"], np.float32), np.asarray(step["bias"], np.float32)
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ValueError(f"weights {weight.shape} and biases {bias.shape}")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError("a weight that is no finite number")
    return HostHead(str(step["head"]), str(step["input"]), weight, bias, bool(step["square"]))
