"""KP2D (arXiv 1912.10615) and KP2Dtiny: a score and a location per cell, descriptors at twice the size.

One VGG-like network makes KeypointNet and the KP2Dtiny rows; KeypointResnet is based on a ResNet-18 (arXiv 1512.03385).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.models import MODELS
from lf.models.match import Adopted, State, match

Maps = tuple[Tensor, Tensor, Tensor]
KP2D_SCALE = 0.225  # the published code multiplies by it instead of dividing; the public weights depend on that
DROPOUT = 0.2


class KeypointNet(nn.Module):
    """(B, 3, H, W) RGB in [0, 1], H and W multiples of 2^pools -> raw maps score, shift, feat, with c = 2^pools.

    score (B, 1, H/c, W/c) before the sigmoid, shift (B, 2, H/c, W/c) x, y before the tanh, and
    feat (B, depth, 2H/c, 2W/c) un-normalised.

    Args:
        channels: c1 to c4 of the four stages, and c5 of the fused descriptor.
        up: channels of the descriptor after it is upsampled.
        depth: length of a descriptor.
        pools: number of poolings, 1 to 3; with two, stage 2 has none; with one, stage 1 also has none.
        widen: the second convolution of stages 1 to 3 has the channels of the next stage; otherwise, the first
            convolution of the next stage has.
        slope: of the leaky ReLU; 0 is a plain ReLU.
        eps: epsilon of the batch normalisation.
        scale: the first layer reads (image - 0.5) * scale.
        dropout: probability of dropping whole channels, after every stage and the first layer of a head, in training.
        nearest: upsample by repetition and a convolution, which the Edge TPU maps, instead of a pixel shuffle.
        linear_up: no activation before the pixel shuffle.
        upsample: False leaves the descriptors at the size of the cells (B, depth, H/c, W/c), as before version 2.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int, int],
        up: int,
        depth: int,
        pools: int,
        widen: bool,
        slope: float,
        eps: float,
        scale: float,
        dropout: float,
        nearest: bool,
        linear_up: bool,
        upsample: bool,
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = channels
        self.scale = scale
        self.pooled = (pools > 1, pools > 2)  # after stages 1 and 2; after stage 3 always

        def two(inputs: int, inner: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(OrderedDict(a=_layer(inputs, inner, slope, eps), b=_layer(inner, outputs, slope, eps)))

        def head(inputs: int, inner: int, outputs: int, drop: float) -> nn.Sequential:
            parts = OrderedDict[str, nn.Module](a=_layer(inputs, inner, slope, eps))
            if drop:
                parts["drop"] = nn.Dropout2d(drop)
            parts["b"] = nn.Conv2d(inner, outputs, 3, padding=1)
            return nn.Sequential(parts)

        self.stage1 = two(3, c1, c2) if widen else two(3, c1, c1)
        self.stage2 = two(c2, c2, c3) if widen else two(c1, c2, c2)
        self.stage3 = two(c3, c3, c4) if widen else two(c2, c3, c3)
        self.stage4 = two(c4, c4, c4) if widen else two(c3, c4, c4)
        self.score = head(c4, c4, 1, dropout)
        self.shift = head(c4, c4, 2, dropout)
        self.narrow = _layer(c4, c4, slope, eps)
        self.up = _up(c4, up, slope, eps, nearest, linear_up) if upsample else None
        self.feat = head(up + (c4 if widen else c3) if upsample else c4, c5, depth, 0)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout2d(dropout)

    def forward(self, image: Tensor) -> Maps:
        """See the class."""
        x = (image - 0.5) * self.scale
        for stage, pooled in zip((self.stage1, self.stage2), self.pooled, strict=True):
            x = self.drop(stage(x))
            x = self.pool(x) if pooled else x
        skip = self.drop(self.stage3(x))
        x = self.drop(self.stage4(self.pool(skip)))
        feat = self.drop(self.narrow(x))
        if self.up is not None:
            feat = torch.cat([self.up(feat), skip], 1)
        return self.score(x), self.shift(x), self.feat(feat)


class KeypointResnet(nn.Module):
    """(B, 3, H, W) RGB in [0, 1], multiples of 32 -> raw score and shift at stride 8, feat (B, 64, H/2, W/2).

    A ResNet-18 without its classifier; a decoder with nearest x2 upsampling joins its five maps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(3, 64, 7, 2, 3, bias=False), norm=nn.BatchNorm2d(64), relu=nn.ReLU(inplace=True))
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.drop = nn.Dropout2d(DROPOUT)
        self.layers = nn.ModuleList(
            nn.Sequential(_Residual(inputs, outputs, stride), _Residual(outputs, outputs, 1))
            for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        )
        levels = ((512, 256, 256), (256, 256, 128), (256, 128, 64), (128, 64, 64))  # from below, output, encoder
        self.before = nn.ModuleList(_layer(below, own) for below, own, _ in levels)
        self.after = nn.ModuleList(_layer(own + skip, own) for _, own, skip in levels)
        self.score, self.shift, self.feat = _reflected(256, 1), _reflected(256, 2), _reflected(64, 64)

    def forward(self, image: Tensor) -> Maps:
        """See the class."""
        x = self.stem((image - 0.5) * KP2D_SCALE)
        skips = [x]
        x = self.pool(x)
        for layer in self.layers:
            x = self.drop(layer(x))
            skips.append(x)
        levels = []
        for before, after, skip in zip(self.before, self.after, skips[-2::-1], strict=True):
            x = after(torch.cat([_twice(before(x)), skip], 1))
            levels.append(x)
        return self.score(levels[1]), self.shift(levels[1]), self.feat(x)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (arXiv 1512.03385, the basic block)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.b = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.extend([nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x))) + self.shortcut(x))


class _Twice(nn.Module):
    """Repeat every pixel twice both ways."""

    def forward(self, x: Tensor) -> Tensor:
        return _twice(x)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _layer(inputs: int, outputs: int, slope: float = 0.01, eps: float = 1e-5, linear: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    parts = OrderedDict[str, nn.Module](conv=conv, norm=nn.BatchNorm2d(outputs, eps))
    if not linear:
        parts["relu"] = nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)
    return nn.Sequential(parts)


def _up(inputs: int, outputs: int, slope: float, eps: float, nearest: bool, linear: bool) -> nn.Sequential:
    """Twice the size, `outputs` channels."""
    if nearest:
        a, b = _layer(inputs, outputs, slope, eps), _layer(outputs, outputs, slope, eps)
        return nn.Sequential(OrderedDict([("a", a), ("twice", _Twice()), ("b", b)]))
    a = _layer(inputs, 4 * outputs, slope, eps, linear)
    return nn.Sequential(OrderedDict([("a", a), ("shuffle", nn.PixelShuffle(2))]))


def _reflected(inputs: int, outputs: int) -> nn.Sequential:
    last = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
    return nn.Sequential(OrderedDict(a=_layer(inputs, inputs), b=last))


def build(
    resnet: bool = False,
    channels: tuple[int, int, int, int, int] = (32, 64, 128, 256, 256),
    up: int = 128,
    depth: int = 256,
    pools: int = 3,
    widen: bool = False,
    slope: float = 0.01,
    eps: float = 1e-5,
    scale: float = KP2D_SCALE,
    dropout: float = DROPOUT,
    nearest: bool = False,
    linear_up: bool = True,
    upsample: bool = True,
) -> nn.Module:
    """Build the network with fresh weights: KeypointNet, by default as published, or KeypointResnet."""
    if resnet:
        return KeypointResnet()
    return KeypointNet(channels, up, depth, pools, widen, slope, eps, scale, dropout, nearest, linear_up, upsample)


def adopt(state: State) -> Adopted | None:
    """Recognise the public `model.ckpt` of KeypointNet. KP2Dtiny was published for Keras only.

    Raises:
        BadInput: the family is clear, but a tensor is missing or has another shape.
    """
    plain = [name for name, row in MODELS.items() if row.family == "kp2d" and not row.options]
    return match(state, [(name, _public) for name in plain])


def _public(own: str) -> str:
    """`stage3.a.conv.weight` -> `conv3a.0.weight`; a head is D (score), P (shift) or F (feat), its second layer Db."""
    block, half, *rest = own.split(".")
    if block.startswith("stage"):
        place = block.removeprefix("stage") + half
    elif block == "narrow":
        place, rest = "Fa", [half, *rest]
    elif block == "up":
        place = "Fb"
    else:
        place = {"score": "D", "shift": "P", "feat": "Fa" if half == "a" else "Fb"}[block] + half
    inner = {"conv": ["0"], "norm": ["1"]}.get(rest[0], rest[:1])
    return ".".join([f"conv{place}", *inner, *rest[1:]])
