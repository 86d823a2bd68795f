"""Wren: SuperPoint's two heads on a strided greyscale backbone, small enough for int8 on one core.

The first convolution is 5x5 with stride 2, so that nothing is computed at full resolution: int8 convolutions of few
channels wait for memory. Strides replace pooling for the same reason. 0.5 M parameters, 1.0 GMAC at 240x320.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _block(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Wren(nn.Module):
    """(B, 1, H, W) in [0, 1], H and W multiples of 8 -> raw maps: (B, 65, H/8, W/8) and (B, 64, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _block(1, 32, stride=2, kernel=5),
            _block(32, 32),
            _block(32, 64, stride=2),
            _block(64, 64),
            _block(64, 96, stride=2),
            _block(96, 96),
            _block(96, 96),
        )
        self.detector = nn.Sequential(_block(96, 96), nn.Conv2d(96, 65, 1))
        self.descriptor = nn.Sequential(_block(96, 96), nn.Conv2d(96, 64, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.trunk((image - 0.5) * 4)  # photographs have mean 0.5 and deviation 0.25, roughly
        return self.detector(features), self.descriptor(features)


def build() -> nn.Module:
    """The network with fresh weights."""
    return Wren()


def adopt(state: dict[str, torch.Tensor]) -> tuple[str, dict[str, Any]] | None:
    """No public checkpoint of this network exists outside lf."""
    return None
