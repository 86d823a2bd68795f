"""Segmentation head of SuperPoint: atrous spatial pyramid pooling (arXiv 1706.05587), then logits of classes.

Layer order and sizes are those of pytorch-superpoint's segmentation fork: five branches, each with batch normalisation,
joined by a 1x1 convolution. The logits have stride 8, or stride 4 with the decoder of its later version.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

DILATIONS = (1, 6, 12, 18)


class Head(nn.Module):
    """Trunk features (B, C, H/8, W/8) and (B, C, H/4, W/4) -> logits (B, classes, H/8, W/8), or at stride 4.

    Args:
        channels: C of both features.
        classes: number of classes.
        refine: decode to stride 4 with a skip connection from the third block.
    """

    def __init__(self, channels: int, classes: int, refine: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_layer(channels, channels, 3, rate) for rate in DILATIONS)
        self.pooled = _layer(channels, channels, 1)
        self.project: nn.Module = Projection(channels)
        self.decoder = Decoder(channels) if refine else None
        self.fuse = None if refine else _layer(channels, channels, 3, bias=True)
        self.out = nn.Conv2d(channels // 2 if refine else channels, classes, 1)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """See the class."""
        maps = [branch(features) for branch in self.branches]
        found = self.project(maps, self.pooled(features.mean((2, 3), keepdim=True)))
        if self.decoder is not None:
            found = self.decoder(found, skip)
        if self.fuse is not None:
            found = self.fuse(found)
        logits: Tensor = self.out(found)
        return logits

    def fold(self) -> None:
        """Rewrite layers for export: same results in evaluation mode, fewer and simpler operators."""
        self.project = FoldedProjection(self.project)
        if self.decoder is not None:
            self.decoder.up = FoldedUpsampling(self.decoder.up)


class Projection(nn.Module):
    """Four maps (B, C, h, w) and one vector (B, C, 1, 1) per image -> (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d((len(DILATIONS) + 1) * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Sequence[Tensor], pooled: Tensor) -> Tensor:
        """See the class."""
        joined: Tensor = self.relu(self.norm(self.conv(torch.cat([*maps, pooled.expand_as(maps[0])], 1))))
        return joined


class FoldedProjection(nn.Module):
    """A `Projection` in evaluation: the pooled vector adds one value per channel, computed once per image.

    W [maps, pooled] = W_maps maps - (-W_pooled) pooled, where the second product is computed at one pixel. It is a
    difference, because OpenCV 5 mistakes a sum with a convolution for a sum of maps of equal size, and refuses it.
    """

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        assert isinstance(plain, Projection)
        norm = plain.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = (plain.conv.weight * scale[:, None, None, None]).detach()
        split = weight.shape[1] // (len(DILATIONS) + 1) * len(DILATIONS)
        self.conv = _fixed(weight[:, :split], (norm.bias - norm.running_mean * scale).detach())
        self.pooled = _fixed(-weight[:, split:], None)
        self.relu = nn.ReLU()

    def forward(self, maps: Sequence[Tensor], pooled: Tensor) -> Tensor:
        """See `Projection`."""
        joined: Tensor = self.relu(self.conv(torch.cat([*maps], 1)) - self.pooled(pooled))
        return joined


class Decoder(nn.Module):
    """Features (B, C, h, w) and the skip (B, C, 2h, 2w) -> (B, C/2, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.up: nn.Module = nn.ConvTranspose2d(channels, half, 2, stride=2)
        self.a = _layer(half + channels, half, 3)
        self.b = _layer(half, half, 3)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """See the class."""
        refined: Tensor = self.b(self.a(torch.cat([self.up(features), skip], 1)))
        return refined


class FoldedUpsampling(nn.Module):
    """A transposed 2x2 convolution of stride 2, as a 1x1 convolution; its channels become the pixels of a square."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        assert isinstance(plain, nn.ConvTranspose2d)
        assert plain.bias is not None
        weight = plain.weight.detach().permute(1, 2, 3, 0).reshape(-1, plain.in_channels, 1, 1)
        self.conv = _fixed(weight, plain.bias.detach().repeat_interleave(4))
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', 2h, 2w)."""
        raised: Tensor = self.shuffle(self.conv(features))
        return raised


def _layer(inputs: int, outputs: int, kernel: int, dilation: int = 1, bias: bool = False) -> nn.Sequential:
    """A convolution that keeps the size, batch normalisation, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=bias)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs), relu=nn.ReLU(inplace=True)))


def _fixed(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 1x1 convolution with these weights."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias, requires_grad=False)
    return conv


def public(own: str) -> str:
    """The fork's name of a tensor of the head: `branches.0.conv.weight` -> `seg_aspp.blocks.0.0.weight`."""
    place, leaf = own.rsplit(".", 1)
    parts = place.split(".")
    layer = {"conv": 0, "norm": 1}.get(parts[-1], 0)
    if parts[0] == "branches":
        return f"seg_aspp.blocks.{parts[1]}.{layer}.{leaf}"
    if parts[0] == "pooled":
        return f"seg_aspp.global_pool.{layer + 1}.{leaf}"
    if parts[0] == "project":
        return f"seg_aspp.project.{layer}.{leaf}"
    if parts[0] == "fuse":
        return f"seg_head.{layer}.{leaf}"
    if parts[:2] == ["decoder", "up"]:
        return f"seg_up.{leaf}"
    return f"seg_fuse.{3 * 'ab'.index(parts[1]) + layer}.{leaf}"
