"""PoSFeat (arXiv 2203.12993): a U-Net with descriptors at 1/4, and a head with a score for every pixel.

The head sees the trunk's features and the image. Its norms use mean and variance of the current map, so that
every score is relative to the image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.models.match import Adopted, Misfit, State, match
from lf.models.r2d2.network import IMAGENET_MEAN, IMAGENET_STD

DEPTHS = (3, 4, 6)  # residual units of the first three layers of ResNet-50
EPSILON = 1e-5  # added to a variance before its square root
JOIN = (
    "expected both in one file; type: torch.save({f'{part}.{name}': value for part in ('backbone', 'localheader') "
    "for name, value in torch.load(f'{part}.pth').items()}, 'posfeat.pth')"
)


class PoSFeat(nn.Module):
    """(B, C, H, W) in [0, 1], multiples of 16 -> raw score (B, 1, H, W), whose softplus is the score, and descriptor.

    Args:
        backbone: normalised image -> descriptor (B, D, H/4, W/4), early features (B, E, H/4, W/4).
        head: (descriptor and early features, image) -> score.
        mean: mean of images, per channel.
        deviation: standard deviation of images, per channel.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, backbone: nn.Module, head: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        picture = (image - self.mean) / self.deviation
        descriptor, early = self.backbone(picture)
        return self.head(torch.cat([descriptor, early], 1), picture), descriptor

    def describe(self, image: Tensor) -> Tensor:
        """The descriptors alone."""
        descriptor: Tensor = self.backbone((image - self.mean) / self.deviation)[0]
        return descriptor


class ScoreHead(nn.Module):
    """Features (B, inputs, h, w) and the image (B, channels, 4h, 4w) -> (B, 1, 4h, 4w).

    Args:
        inputs: channels of the features.
        channels: channels of the image.
        widths: channels computed from the features, from the image, and from both.
    """

    def __init__(self, inputs: int, channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.features = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.picture = nn.Conv2d(channels, widths[1], 3, padding=1)
        self.both = nn.Conv2d(widths[0] + widths[1], widths[2], 3, padding=1)
        self.score = nn.Conv2d(widths[2], 1, 1)
        self.slope = nn.PReLU()

    def forward(self, features: Tensor, picture: Tensor) -> Tensor:
        """See the class."""
        coarse = self.slope(_norm(self.features(features)))
        coarse = F.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=False)
        both = torch.cat([coarse, _norm(self.picture(picture))], 1)
        return _norm(self.score(self.slope(_norm(self.both(both)))))


class ResUNet(nn.Module):
    """ResNet-50 to layer 3, and a decoder up to 1/4: 128 numbers per descriptor, 64 early channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 64, 7, 2, 3, bias=False), norm=nn.BatchNorm2d(64)))
        self.layers = nn.ModuleList(
            nn.Sequential(
                _Residual(128 << index if index else 64, 64 << index, 2 if index else 1),
                *(_Residual(256 << index, 64 << index) for _ in range(count - 1)),
            )
            for index, count in enumerate(DEPTHS)
        )
        self.up8, self.mix8 = _unit(1024, 512, 3), _unit(1024, 512, 3)
        self.up4, self.mix4 = _unit(512, 256, 3), _unit(512, 256, 3)
        self.last = _unit(256, 128, 1)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        early = F.max_pool2d(F.relu(self.first(picture)), 3, 2, 1)
        quarter = self.layers[0](early)
        eighth = self.layers[1](quarter)
        sixteenth = self.layers[2](eighth)
        up = F.elu(self.up8(_double(sixteenth)))
        up = F.elu(self.mix8(torch.cat([eighth, up], 1)))
        up = F.elu(self.up4(_double(up)))
        up = F.elu(self.mix4(torch.cat([quarter, up], 1)))
        return F.elu(self.last(up)), early


class SmallTrunk(nn.Module):
    """A grey trunk of strided convolutions, brought up to 1/4: 64 numbers per descriptor, 32 early channels."""

    def __init__(self) -> None:
        super().__init__()
        self.quarter = nn.Sequential(_block(1, 16, 2), _block(16, 16), _block(16, 32, 2), _block(32, 32))
        self.eighth = nn.Sequential(_block(32, 64, 2), _block(64, 64), _block(64, 64))
        self.sixteenth = nn.Sequential(_block(64, 64, 2), _block(64, 64), _block(64, 64))
        self.coarse, self.fine = _block(128, 64), _block(96, 64)
        self.descriptor = nn.Conv2d(64, 64, 1)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        early = self.quarter(picture)
        eighth = self.eighth(early)
        up = F.interpolate(self.sixteenth(eighth), scale_factor=2, mode="nearest")
        up = F.interpolate(self.coarse(torch.cat([eighth, up], 1)), scale_factor=2, mode="nearest")
        return self.descriptor(self.fine(torch.cat([early, up], 1))), early


class _Residual(nn.Module):
    """A bottleneck of ResNet-50: 1x1, 3x3 with the stride, 1x1 to four times the width."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.a = _plain(inputs, width, 1)
        self.b = _plain(width, width, 3, stride)
        self.c = _plain(width, 4 * width, 1)
        self.shortcut = _plain(inputs, 4 * width, 1, stride) if stride > 1 or inputs != 4 * width else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.c(F.relu(self.b(F.relu(self.a(x)))))
        return F.relu(inner + (x if self.shortcut is None else self.shortcut(x)))


def _plain(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs)))


def _unit(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return _plain(inputs, outputs, kernel, bias=True)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    size = 4 if stride == 2 else 3  # centres each output on its input pixels
    conv = nn.Conv2d(inputs, outputs, size, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)


def _norm(x: Tensor) -> Tensor:
    """Instance normalisation without parameters, written out because exporters convert the operator to a batch norm."""
    centred = x - x.mean((2, 3), keepdim=True)
    return centred * (centred.square().mean((2, 3), keepdim=True) + EPSILON).rsqrt()


def build(small: bool = False) -> nn.Module:
    """The network with fresh weights."""
    if small:  # photographs have about mean 0.5 and deviation 0.25
        return PoSFeat(SmallTrunk(), ScoreHead(96, 1, (32, 8, 16)), (0.5,), (0.25,))
    return PoSFeat(ResUNet(), ScoreHead(192, 3, (192, 64, 128)), IMAGENET_MEAN, IMAGENET_STD)


def adopt(state: Mapping[str, Any]) -> Adopted | None:
    """Recognise the public `backbone.pth` and `localheader.pth` in one file, their names under those of the files.

    Raises:
        BadInput: the family is clear, but a tensor is missing or has another shape, or the head is alone.
    """
    if adopt_head(state):
        raise Misfit(f"checkpoint holds the head of posfeat without its backbone; {JOIN}")
    used = {name: value for name, value in state.items() if "conv_coarse" not in name.split(".")}  # unused
    return match(used, [("posfeat", _public)])


def adopt_head(state: Mapping[str, Any]) -> State | None:
    """Return the tensors of a public `localheader.pth` by the names of `ScoreHead`; None for another `state`."""
    wanted = {_public(f"head.{name}").partition(".")[2]: name for name in HEAD}
    return {own: state[name] for name, own in wanted.items()} if state.keys() == wanted.keys() else None


_HEAD = {"features": "conv1", "picture": "convimg", "both": "conv2", "score": "conv3", "slope": "relu"}
_UNITS = {"up8": "upconv3.conv", "mix8": "iconv3", "up4": "upconv2.conv", "mix4": "iconv2", "last": "conv_fine"}
_FIRST = {"conv": "firstconv", "norm": "firstbn"}
_INNER = {
    "a": ("conv1", "bn1"),
    "b": ("conv2", "bn2"),
    "c": ("conv3", "bn3"),
    "shortcut": ("downsample.0", "downsample.1"),
}
HEAD = tuple(f"{part}.{kind}" for part in _HEAD for kind in ("weight", "bias") if f"{part}.{kind}" != "slope.bias")


def _public(own: str) -> str:
    """`backbone.layers.0.2.a.norm.bias` is `backbone.layer1.2.bn1.bias`, `head.both.bias` `localheader.conv2.bias`."""
    half, part, *rest = own.split(".")
    if half == "head":
        return ".".join(["localheader", _HEAD[part], *rest])
    if part == "first":
        return ".".join(["backbone", _FIRST[rest[0]], *rest[1:]])
    if part in _UNITS:
        return ".".join(["backbone", _UNITS[part], {"conv": "conv", "norm": "bn"}[rest[0]], *rest[1:]])
    layer, unit, inner, kind, leaf = rest
    return f"backbone.layer{int(layer) + 1}.{unit}.{_INNER[inner][kind == 'norm']}.{leaf}"
