"""DISK (arXiv 2006.13566): a U-Net of 5x5 convolutions, each after an instance norm and a PReLU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.models.match import Adopted, match

DEPTH = 128  # numbers per descriptor
JOINT = "path_up.3.conv.3"  # in the public files: one convolution for the descriptor and, last, the score


class Disk(nn.Module):
    """(B, 3, H, W) RGB in [0, 1], multiples of 16 -> raw score (B, 1, H, W) and descriptor (B, 128, H, W).

    Descriptor and score have separate convolutions with separate 8-bit scales; the public files have a joint one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 5, padding=2)
        self.down = nn.ModuleList(
            _Layer(inputs, outputs) for inputs, outputs in ((16, 32), (32, 64), (64, 64), (64, 64))
        )
        self.up = nn.ModuleList(_Layer(inputs, 64) for inputs in (128, 128, 96))
        self.slope = nn.PReLU(80)
        self.score = nn.Conv2d(80, 1, 5, padding=2)
        self.descriptor = nn.Conv2d(80, DEPTH, 5, padding=2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        levels = [self.first(image)]
        for layer in self.down:
            levels.append(layer(F.avg_pool2d(levels[-1], 2)))
        features = levels.pop()
        for up in self.up:
            features = up(_joined(features, levels.pop()))
        features = self.slope(F.instance_norm(_joined(features, levels.pop())))
        return self.score(features), self.descriptor(features)


class _Layer(nn.Module):
    """Instance normalisation, PReLU, then a convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.slope = nn.PReLU(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 5, padding=2)

    def forward(self, features: Tensor) -> Tensor:
        convolved: Tensor = self.conv(self.slope(F.instance_norm(features)))
        return convolved


def _joined(coarse: Tensor, fine: Tensor) -> Tensor:
    """Concatenate the coarse features at twice their size with the fine features."""
    return torch.cat([F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False), fine], 1)


def build() -> nn.Module:
    """The network with fresh weights."""
    return Disk()


def adopt(state: Mapping[str, Any]) -> Adopted | None:
    """Recognise the public `.pth` by its keys and shapes.

    Raises:
        BadInput: the family is clear, but a tensor is missing or has another shape.
    """
    parted: dict[str, Any] = {}
    for name, value in state.items():
        if name.rpartition(".")[0].endswith(JOINT) and isinstance(value, Tensor) and len(value) == DEPTH + 1:
            parted |= {f"{name}[:-1]": value[:-1], f"{name}[-1:]": value[-1:]}
        else:
            parted[name] = value
    return match(parted, [("disk", _public)])


def _public(own: str) -> str:
    """`down.0.slope.weight` -> `unet.path_down.1.1.1.weight`; `score.bias` -> `unet.path_up.3.conv.3.bias[-1:]`."""
    kind, *inner, leaf = own.split(".")
    part = {"slope": 1, "conv": 3}
    if kind in ("score", "descriptor"):
        return f"unet.{JOINT}.{leaf}{'[-1:]' if kind == 'score' else '[:-1]'}"
    if kind == "down":
        return f"unet.path_down.{int(inner[0]) + 1}.1.{part[inner[1]]}.{leaf}"
    if kind == "up":
        return f"unet.path_up.{inner[0]}.conv.{part[inner[1]]}.{leaf}"
    return f"unet.path_down.0.1.3.{leaf}" if kind == "first" else f"unet.path_up.3.conv.1.{leaf}"
