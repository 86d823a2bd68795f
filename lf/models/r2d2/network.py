"""R2D2 (arXiv 1906.06195): an L2-Net with dilation for strides; descriptors and two score maps at full size.

The fast variant pools once after the third layer, halves every later dilation and upsamples before the heads.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.models import MODELS
from lf.models.match import Adopted, State, match

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)

# (channels per unit of width, kernel, dilation, ReLU follows); the last layer has 128 channels and no normalisation
_LAYERS = (
    (8, 3, 1, True),
    (8, 3, 1, True),
    (16, 3, 1, True),
    (16, 3, 2, True),
    (32, 3, 2, True),
    (32, 3, 4, True),
    (32, 2, 4, False),
    (32, 2, 8, False),
)
_POOLED = 3  # layers before the pooling of the fast variant


class R2D2(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> descriptor (B, 128, H, W) raw, reliability and repeatability (B, 1, H, W).

    The last two are logits: P(reliable) = sigmoid(reliability), repeatability = s / (1 + s) with s = softplus(logit).

    Args:
        fast: work at half resolution after the third layer; H and W must be even.
        width: channels in units of 8, 16 and 32; 4 is N16, 6 is "big".
    """

    mean: Tensor
    std: Tensor

    def __init__(self, fast: bool, width: int) -> None:
        super().__init__()
        self.fast = fast
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.layers = nn.Sequential()
        inputs = 3
        for index, (units, kernel, dilation, relu) in enumerate(_LAYERS):
            dilation = dilation // 2 if fast and index >= _POOLED else dilation
            pool = fast and index == _POOLED - 1
            self.layers.append(_layer(inputs, units * width, kernel, dilation, relu, pool))
            inputs = units * width
        dilation = 8 if fast else 16
        self.layers.append(nn.Sequential(OrderedDict(conv=_conv(inputs, 128, 2, dilation))))
        self.reliability = nn.Conv2d(128, 2, 1)
        self.repeatability = nn.Conv2d(128, 1, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        descriptor = self.layers((image - self.mean) / self.std)
        if self.fast:
            descriptor = F.interpolate(descriptor, scale_factor=2, mode="bilinear", align_corners=False)
        squared = descriptor * descriptor
        against, reliable = self.reliability(squared).split(1, dim=1)
        return descriptor, reliable - against, self.repeatability(squared)


def _conv(inputs: int, outputs: int, kernel: int, dilation: int) -> nn.Conv2d:
    """Make a convolution that keeps the size, also for even kernels, because their dilation is even."""
    return nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel - 1) // 2, dilation=dilation)


def _layer(inputs: int, outputs: int, kernel: int, dilation: int, relu: bool, pool: bool) -> nn.Sequential:
    conv = _conv(inputs, outputs, kernel, dilation)
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs, affine=False))
    if relu:
        parts["relu"] = nn.ReLU(inplace=True)
    if pool:
        parts["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(parts)


def build(fast: bool = False, width: int = 4) -> nn.Module:
    """The network with fresh weights."""
    return R2D2(fast, width)


def adopt(state: State) -> Adopted | None:
    """Recognise the published checkpoints: N16, N8 big and fast, by the places of their layers and their shapes.

    Raises:
        BadInput: the family is clear, but a tensor is missing or has another shape.
    """
    rows = {name: row for name, row in MODELS.items() if row.family == "r2d2"}
    return match(state, [(name, _fast if row.options.get("fast") else _plain) for name, row in rows.items()])


def _plain(own: str) -> str:
    return _public(own, (0, 3, 6, 9, 12, 15, 18, 20, 22))


def _fast(own: str) -> str:
    return _public(own, (0, 3, 6, 10, 13, 16, 19, 21, 23))


def _public(own: str, places: tuple[int, ...]) -> str:
    """`layers.3.norm.running_mean` -> `ops.10.running_mean`: a norm stands one place after its convolution."""
    first, *rest = own.split(".")
    if first != "layers":
        return ".".join([{"reliability": "clf", "repeatability": "sal"}[first], *rest])
    number, part, leaf = rest
    return f"ops.{places[int(number)] + {'conv': 0, 'norm': 1}[part]}.{leaf}"
