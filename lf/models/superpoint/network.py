"""SuperPoint (arXiv 1712.07629): a VGG backbone at 1/8 resolution with a detector and a descriptor head."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from lf.models.match import Adopted, Misfit, State, match
from lf.models.row import SEGMENTATION
from lf.models.superpoint import segmentation

EPSILON = 1e-3  # of TensorFlow's batch normalisation


class SuperPoint(nn.Module):
    """(B, 1, H, W) in [0, 1], H and W multiples of 8 -> detector (B, 65, H/8, W/8), descriptor (B, 256, H/8, W/8), raw.

    With classes also logits of a segmentation, see `lf.models.superpoint.segmentation.Head`.

    Args:
        batch_norm: normalise after every convolution, the two output convolutions included.
        width: channels of the first two stages; the later ones are in proportion. The published network has 64.
        after: normalise after the ReLU instead of before it, with the eps of TensorFlow.
        classes: of the segmentation; 0 builds no head for it.
        refine: logits at stride 4 instead of 8.
    """

    def __init__(self, batch_norm: bool, width: int, after: bool, classes: int, refine: bool) -> None:
        super().__init__()

        def two(inputs: int, inner: int, outputs: int, output: bool = False) -> nn.Sequential:
            return _two(inputs, inner, outputs, batch_norm, output, after)

        self.stage1 = two(1, width, width)
        self.stage2 = two(width, width, width)
        self.stage3 = two(width, 2 * width, 2 * width)
        self.stage4 = two(2 * width, 2 * width, 2 * width)
        self.detector = two(2 * width, 4 * width, 65, output=True)
        self.descriptor = two(2 * width, 4 * width, 256, output=True)
        self.pool = nn.MaxPool2d(2)
        self.segmentation = segmentation.Head(2 * width, classes, refine) if classes else None

    def forward(self, image: Tensor, detach: bool = False) -> tuple[Tensor, ...]:
        """See the class; with `detach` the segmentation sends no gradient into the trunk."""
        skip = self.stage3(self.pool(self.stage2(self.pool(self.stage1(image)))))
        features = self.stage4(self.pool(skip))
        found = self.detector(features), self.descriptor(features)
        if self.segmentation is None:
            return found
        reads = (features.detach(), skip.detach()) if detach else (features, skip)
        return *found, self.segmentation(*reads)


class Scaled(nn.BatchNorm2d):
    """Batch normalisation without a convolution to fold it into: in evaluation, a product and a sum per channel."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> the same normalised."""
        if self.training or self.running_mean is None or self.running_var is None:
            return super().forward(features)
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        return features * scale[:, None, None] + shift[:, None, None]


def _two(inputs: int, inner: int, outputs: int, batch_norm: bool, output: bool, after: bool) -> nn.Sequential:
    """Two layers; the second of an output pair is 1x1 and has no ReLU."""
    a = _layer(nn.Conv2d(inputs, inner, 3, padding=1), batch_norm, True, after)
    last = nn.Conv2d(inner, outputs, 1) if output else nn.Conv2d(inner, outputs, 3, padding=1)
    return nn.Sequential(OrderedDict(a=a, b=_layer(last, batch_norm, not output, after)))


def _layer(conv: nn.Conv2d, batch_norm: bool, relu: bool, after: bool) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if batch_norm and not after:
        parts["norm"] = nn.BatchNorm2d(conv.out_channels)
    if relu:
        parts["relu"] = nn.ReLU(inplace=True)
    if batch_norm and after:
        parts["scaled"] = (Scaled if relu else nn.BatchNorm2d)(conv.out_channels, eps=EPSILON)
    return nn.Sequential(parts)


def build(
    batch_norm: bool = False, width: int = 64, after: bool = False, classes: int = 0, refine: bool = False
) -> nn.Module:
    """The network with fresh weights."""
    return SuperPoint(batch_norm, width, after, classes, refine)


def adopt(state: State) -> Adopted | None:
    """Recognise the public state dict, the naming schemes of pytorch-superpoint and its fork, and rpautrat's.

    Raises:
        BadInput: the family is clear, but a tensor is missing or has another shape.
    """
    if any(name.endswith("seg_aspp.blocks.0.1.weight") for name in state) and not any(
        name.endswith("seg_aspp.blocks.0.1.running_mean") for name in state
    ):
        raise Misfit(
            "checkpoint looks like superpoint-seg with group normalisation in its ASPP; expected batch normalisation, "
            "which can be folded and quantized; train one with: lf train superpoint-seg"
        )
    return match(
        state,
        [
            *(("superpoint", _flat), ("superpoint-bn", _flat), ("superpoint-bn", _gauss2), ("superpoint-open", _open)),
            *(("superpoint-seg", _fork), ("superpoint-seg-refine", _fork_refined)),
        ],
    )


def _fork(own: str) -> str:
    """The segmentation fork's name: `segmentation.out.bias` -> `seg_head.3.bias`; the rest as `_gauss2`."""
    block, _, rest = own.partition(".")
    if block != SEGMENTATION:
        return _gauss2(own)
    return f"seg_head.3.{rest.removeprefix('out.')}" if rest.startswith("out.") else segmentation.public(rest)


def _fork_refined(own: str) -> str:
    """The same of its later version: `segmentation.out.bias` -> `seg_head.bias`."""
    return own.replace("segmentation.out", "seg_head") if own.startswith("segmentation.out.") else _fork(own)


def _flat(own: str) -> str:
    """`stage3.a.conv.weight` -> `conv3a.weight`; norms are `bn3a`, heads `convPa` (detector) and `convDa`."""
    block, half, part, leaf = own.split(".")
    place = {"detector": "P", "descriptor": "D"}.get(block, block.removeprefix("stage"))
    return f"{'conv' if part == 'conv' else 'bn'}{place}{half}.{leaf}"


def _open(own: str) -> str:
    """`stage3.a.conv.weight` -> `backbone.2.0.conv.weight`, `detector.b.scaled.bias` -> `detector.1.bn.bias`."""
    block, half, part, leaf = own.split(".")
    place = f"backbone.{int(block[-1]) - 1}" if block.startswith("stage") else block
    return f"{place}.{'ab'.index(half)}.{'conv' if part == 'conv' else 'bn'}.{leaf}"


def _gauss2(own: str) -> str:
    """`stage3.a.conv.weight` -> `down2.mpconv.1.conv.0.weight`, where conv, norm and ReLU are 0 1 2, then 3 4 5."""
    block, half, part, leaf = own.split(".")
    if not block.startswith("stage"):
        return _flat(own)
    number = int(block.removeprefix("stage"))
    parent = "inc.conv" if number == 1 else f"down{number - 1}.mpconv.1"
    index = {"a": 0, "b": 3}[half] + {"conv": 0, "norm": 1}[part]
    return f"{parent}.conv.{index}.{leaf}"
