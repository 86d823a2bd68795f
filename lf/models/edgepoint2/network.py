"""EdgePoint2 (arXiv 2504.17280): networks of 27 to 155 thousand parameters, a score for every pixel from 1/2.

The input is whitened grey, prepared on the host: see `lf.models.edgepoint2.picture`. The score is computed at 1/2, with
four numbers for four pixels; the decoder unfolds them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.models import MODELS
from lf.models.match import Adopted, State, match

GROUP = 16  # input channels of each filter of the descriptor's grouped 3x3 convolution


class EdgePoint2(nn.Module):
    """(B, 1, H, W) normalised grey, multiples of 32 -> raw score (B, 4, H/2, W/2), descriptor (B, depth, H/4, W/4).

    Args:
        widths: channels of the first convolution, then at 1/2, 1/8 and 1/32; the last three sum to a multiple of 16.
        score: channels of the score branch.
        depth: numbers per descriptor.
    """

    def __init__(self, widths: Sequence[int], score: int, depth: int) -> None:
        super().__init__()
        first, half, eighth, coarse = widths
        total = half + eighth + coarse
        self.stem = nn.Sequential(OrderedDict(a=_unit(1, first, 4, stride=2), b=_unit(first, half)))
        self.fine = _Residual(half, half)
        self.eighth = _Residual(half, eighth)
        self.coarse = _Residual(eighth, coarse)
        self.votes = nn.ModuleList(nn.Conv2d(each, score, 1) for each in (half, eighth, coarse))
        self.score = nn.Sequential(
            OrderedDict(
                a=nn.Conv2d(score, score, 3, padding=1),
                relu_a=nn.ReLU(inplace=True),
                b=nn.Conv2d(score, score, 3, padding=1),
                relu_b=nn.ReLU(inplace=True),
                c=nn.Conv2d(score, 4, 3, padding=1),
            )
        )
        self.descriptor = nn.Sequential(
            OrderedDict(
                a=nn.Conv2d(total, total, 1), b=_unit(total, total, groups=total // GROUP), c=nn.Conv2d(total, depth, 1)
            )
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        half = self.fine(self.stem(image))
        quarter = F.avg_pool2d(half, 2)
        eighth = self.eighth(F.avg_pool2d(quarter, 2))
        coarse = self.coarse(F.avg_pool2d(eighth, 4))
        votes = [vote(each) for vote, each in zip(self.votes, (half, eighth, coarse), strict=True)]
        score = self.score(votes[0] + _grown(votes[1], 4) + _grown(votes[2], 16))
        return score, self.descriptor(torch.cat([quarter, _grown(eighth, 2), _grown(coarse, 8)], 1))


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the channels change."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.a = _unit(inputs, outputs)
        self.b = _unit(outputs, outputs, relu=False)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.b(self.a(features)) + self.skip(features))


def _unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, 1, groups=groups, bias=False)
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs))
    if relu:
        parts["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(parts)


def _grown(features: Tensor, times: int) -> Tensor:
    return F.interpolate(features, scale_factor=times, mode="bilinear", align_corners=False)


def build(widths: Sequence[int], score: int, depth: int) -> nn.Module:
    """The network with fresh weights."""
    return EdgePoint2(widths, score, depth)


def adopt(state: State) -> Adopted | None:
    """Recognise a public `.pth` by its keys, and its configuration by its shapes.

    Raises:
        BadInput: the family is clear, but a tensor is missing or has another shape.
    """
    return match(state, [(name, _public) for name, row in MODELS.items() if row.family == "edgepoint2"])


_PLACES = {"stem.a": "block1.0", "stem.b": "block1.1", "fine": "block1.2", "eighth": "block2", "coarse": "block3"}
_INNER = {"conv": "layer.0", "norm": "layer.1", "a.conv": "layer.0", "a.norm": "layer.1"}
_INNER |= {"b.conv": "layer.3", "b.norm": "layer.4", "skip": "skip"}
_HEADS = {
    **{f"votes.{index}": f"conv{index + 1}" for index in range(3)},
    **{"score.a": "score_head.0", "score.b": "score_head.2", "score.c": "score_head.4"},
    **{"descriptor.a": "desc_head.0", "descriptor.c": "desc_head.2"},
    **{"descriptor.b.conv": "desc_head.1.layer.0", "descriptor.b.norm": "desc_head.1.layer.1"},
}


def _public(own: str) -> str:
    """`eighth.b.norm.weight` -> `block2.layer.4.weight`; `score.b.bias` -> `score_head.2.bias`."""
    module, _, leaf = own.rpartition(".")
    if module in _HEADS:
        return f"{_HEADS[module]}.{leaf}"
    place = next(place for place in _PLACES if module.startswith(f"{place}."))
    return f"{_PLACES[place]}.{_INNER[module.removeprefix(f'{place}.')]}.{leaf}"
