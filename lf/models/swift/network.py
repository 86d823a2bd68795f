"""Swift: networks with a score for every pixel, for precise positions with few operations.

Nothing is computed at full resolution. The score is computed at 1/2, with four numbers for four pixels; the decoder
unfolds them, because the Edge TPU cannot. Coarse features are upsampled by doubling and added, not resized bilinearly.
Strided kernels have 4x4 pixels, so that an output is centred on its input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class Swift(nn.Module):
    """(B, 1, H, W) in [0, 1], H and W multiples of 16 -> raw score (B, 4, H/2, W/2), descriptor (B, depth, H/4, W/4).

    Args:
        widths: channels at 1/2, 1/4, 1/8 and 1/16.
        convs: 3x3 convolutions there, after the strided one.
        score: channels of the score branch.
        depth: numbers per descriptor.
    """

    def __init__(self, widths: Sequence[int], convs: Sequence[int], score: int, depth: int) -> None:
        super().__init__()
        inputs = (1, *widths)
        self.stages = nn.ModuleList(
            nn.Sequential(_block(before, own, stride=2), *(_block(own, own) for _ in range(count)))
            for before, own, count in zip(inputs, widths, convs, strict=False)
        )
        middle = widths[2]
        self.lift = nn.Conv2d(widths[3], middle, 1)
        self.coarse = _block(middle, middle, kernel=1)
        self.fine = nn.Conv2d(widths[1], middle, 1)
        self.descriptor = nn.Sequential(_block(middle, middle), nn.Conv2d(middle, depth, 1))
        self.context = nn.Conv2d(middle, score, 1)
        self.detail = nn.Conv2d(widths[0], score, 1)
        self.score = nn.Sequential(
            nn.ReLU(inplace=True), _block(score, score), _block(score, score), nn.Conv2d(score, 4, 3, padding=1)
        )
        first: Any = self.stages[0]
        first[0][0].weight.data -= first[0][0].weight.data.mean((1, 2, 3), keepdim=True)  # ignores brightness

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        half = self.stages[0](image)
        quarter = self.stages[1](half)
        eighth = self.stages[2](quarter)
        sixteenth = self.stages[3](eighth)
        coarse = self.coarse(F.relu(eighth + _double(self.lift(sixteenth))))
        mixed = F.relu(self.fine(quarter) + _double(coarse))
        score = self.score(self.detail(half) + _double(self.context(mixed)))
        return score, self.descriptor(mixed)


def build(
    widths: Sequence[int] = (16, 32, 64, 64), convs: Sequence[int] = (1, 1, 2, 2), score: int = 16, depth: int = 64
) -> nn.Module:
    """The network with fresh weights; the defaults are the row `swift`."""
    return Swift(widths, convs, score, depth)


def adopt(state: dict[str, Tensor]) -> tuple[str, dict[str, Any]] | None:
    """No public checkpoint of these networks exists outside lf."""
    return None


def _block(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    size = 4 if stride == 2 else kernel
    conv = nn.Conv2d(inputs, outputs, size, stride, (size - 1) // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="nearest")
