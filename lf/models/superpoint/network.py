"""SuperPoint (arXiv 1712.07629): a VGG trunk at 1/8 resolution with a detector and a descriptor head."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from lf.models.match import Adopted, State, match


class SuperPoint(nn.Module):
    """(B, 1, H, W) in [0, 1], H and W multiples of 8 -> detector (B, 65, H/8, W/8), descriptor (B, 256, H/8, W/8), raw.

    Args:
        batch_norm: normalise after every convolution, the two output convolutions included.
        width: channels of the first two stages; the later ones are in proportion. The published network has 64.
    """

    def __init__(self, batch_norm: bool, width: int) -> None:
        super().__init__()
        self.stage1 = _two(1, width, width, batch_norm)
        self.stage2 = _two(width, width, width, batch_norm)
        self.stage3 = _two(width, 2 * width, 2 * width, batch_norm)
        self.stage4 = _two(2 * width, 2 * width, 2 * width, batch_norm)
        self.detector = _two(2 * width, 4 * width, 65, batch_norm, output=True)
        self.descriptor = _two(2 * width, 4 * width, 256, batch_norm, output=True)
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.stage1(image)
        for stage in (self.stage2, self.stage3, self.stage4):
            features = stage(self.pool(features))
        return self.detector(features), self.descriptor(features)


def _two(inputs: int, inner: int, outputs: int, batch_norm: bool, output: bool = False) -> nn.Sequential:
    """Two layers; the second of an output pair is 1x1 and has no ReLU."""
    a = _layer(nn.Conv2d(inputs, inner, 3, padding=1), batch_norm, relu=True)
    last = nn.Conv2d(inner, outputs, 1) if output else nn.Conv2d(inner, outputs, 3, padding=1)
    return nn.Sequential(OrderedDict(a=a, b=_layer(last, batch_norm, relu=not output)))


def _layer(conv: nn.Conv2d, batch_norm: bool, relu: bool) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if batch_norm:
        parts["norm"] = nn.BatchNorm2d(conv.out_channels)
    if relu:
        parts["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(parts)


def build(batch_norm: bool = False, width: int = 64) -> nn.Module:
    """The network with fresh weights."""
    return SuperPoint(batch_norm, width)


def adopt(state: State) -> Adopted | None:
    """Recognise the public state dict, and the two batch-norm naming schemes of pytorch-superpoint.

    Raises:
        BadInput: the family is clear, but a tensor is missing or has another shape.
    """
    return match(state, [("superpoint", _flat), ("superpoint-bn", _flat), ("superpoint-bn", _gauss2)])


def _flat(own: str) -> str:
    """`stage3.a.conv.weight` -> `conv3a.weight`; norms are `bn3a`, heads `convPa` (detector) and `convDa`."""
    block, half, part, leaf = own.split(".")
    place = {"detector": "P", "descriptor": "D"}.get(block, block.removeprefix("stage"))
    return f"{'conv' if part == 'conv' else 'bn'}{place}{half}.{leaf}"


def _gauss2(own: str) -> str:
    """`stage3.a.conv.weight` -> `down2.mpconv.1.conv.0.weight`, where conv, norm and ReLU are 0 1 2, then 3 4 5."""
    block, half, part, leaf = own.split(".")
    if not block.startswith("stage"):
        return _flat(own)
    number = int(block.removeprefix("stage"))
    parent = "inc.conv" if number == 1 else f"down{number - 1}.mpconv.1"
    index = {"a": 0, "b": 3}[half] + {"conv": 0, "norm": 1}[part]
    return f"{parent}.conv.{index}.{leaf}"
