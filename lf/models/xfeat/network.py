"""XFeat (arXiv 2404.19174): a narrow backbone from 1/1 to 1/32, and a detector that reads the pixels of 8x8 squares.

The input is whitened grey, prepared on the host: see `lf.models.xfeat.picture`. The public files also have a matcher of
coarse matches, which is left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lf.models.match import Adopted, match

SIDE = 8  # px, of the squares that the detector reads
FOLDED = "keypoint_head.0.layer.0.weight"  # of the public files: a 1x1 convolution over the 64 pixels of a square
MATCHER = "fine_matcher"  # of the public files


class XFeat(nn.Module):
    """(B, 1, H, W) whitened grey, multiples of 32 -> raw detector, reliability, descriptor: 65, 1, 64 channels at 1/8.

    The detector's first convolution is 8x8 with a stride of 8: it combines the published unfolding into 64 channels and
    the 1x1 convolution after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(_unit(1, 4, 3), _unit(4, 8, 3, 2), _unit(8, 8, 3), _unit(8, 24, 3, 2))
        self.block2 = nn.Sequential(_unit(24, 24, 3), _unit(24, 24, 3))
        self.block3 = nn.Sequential(_unit(24, 64, 3, 2), _unit(64, 64, 3), _unit(64, 64, 1))
        self.block4 = nn.Sequential(_unit(64, 64, 3, 2), _unit(64, 64, 3), _unit(64, 64, 3))
        self.block5 = nn.Sequential(_unit(64, 128, 3, 2), _unit(128, 128, 3), _unit(128, 128, 3), _unit(128, 64, 1))
        self.skip = nn.Conv2d(1, 24, 1)
        self.fusion = nn.Sequential(_unit(64, 64, 3), _unit(64, 64, 3), nn.Conv2d(64, 64, 1))
        self.reliability = nn.Sequential(_unit(64, 64, 1), _unit(64, 64, 1), nn.Conv2d(64, 1, 1))
        squares = _unit(1, SIDE * SIDE, SIDE, SIDE, padding=0)
        self.detector = nn.Sequential(squares, _unit(64, 64, 1), _unit(64, 64, 1), nn.Conv2d(64, 65, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        quarter = self.block2(self.block1(image) + self.skip(F.avg_pool2d(image, 4)))
        eighth = self.block3(quarter)
        sixteenth = self.block4(eighth)
        coarse = self.block5(sixteenth)
        descriptor = self.fusion(eighth + _grown(sixteenth, 2) + _grown(coarse, 4))
        return self.detector(image), self.reliability(descriptor), descriptor


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs, affine=False), relu=nn.ReLU(inplace=True)))


def _grown(features: Tensor, times: int) -> Tensor:
    return F.interpolate(features, scale_factor=times, mode="bilinear", align_corners=False)


def build() -> nn.Module:
    """The network with fresh weights."""
    return XFeat()


def adopt(state: Mapping[str, Any]) -> Adopted | None:
    """Recognise the public `.pt` by its keys and shapes, with its matcher or without.

    Raises:
        BadInput: the family is clear, but a tensor is missing or has another shape.
    """
    held = {}
    for name, value in state.items():
        if MATCHER in name.split("."):
            continue
        if name.endswith(FOLDED) and isinstance(value, Tensor) and value.shape == (64, SIDE * SIDE, 1, 1):
            value = value.reshape(64, 1, SIDE, SIDE)
        held[name] = value
    return match(held, [("xfeat", _public)])


_PLACES = {"skip": "skip1.1", "fusion": "block_fusion", "reliability": "heatmap_head", "detector": "keypoint_head"}
_INNER = {"conv": "layer.0", "norm": "layer.1"}


def _public(own: str) -> str:
    """`block1.0.norm.running_var` -> `block1.0.layer.1.running_var`; `fusion.2.bias` -> `block_fusion.2.bias`."""
    block, *inner = own.split(".")
    return ".".join([_PLACES.get(block, block), *(_INNER.get(part, part) for part in inner)])
