"""ALIKE (arXiv 2112.02906): four residual stages at 1/1 to 1/32, brought up to full size and mixed there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.models import MODELS
from lf.models.match import Adopted, match

POOLS = (1, 2, 4, 4)  # in front of each stage
SCALES = (1, 2, 8, 32)  # of each stage
JOINT = "convhead2.weight"  # in the public files: channels of the descriptor, and one for the score
PARTS = (f"{JOINT}[:-1]", f"{JOINT}[-1:]")


class Alike(nn.Module):
    """(B, 3, H, W) RGB in [0, 1], multiples of 32 -> raw score (B, 1, H, W) and descriptor (B, depth, H, W).

    Descriptor and score have separate convolutions with separate 8-bit scales; the public files have a joint one.

    Args:
        widths: channels of the stages.
        depth: length of a descriptor; each stage gives a quarter of it.
        deeper: one more 1x1 layer in front of the heads.
    """

    def __init__(self, widths: Sequence[int], depth: int, deeper: bool) -> None:
        super().__init__()
        inputs = (3, *widths)
        self.stages = nn.ModuleList(
            _Stage(before, own, shortcut=index > 0)
            for index, (before, own) in enumerate(zip(inputs, widths, strict=False))
        )
        self.quarters = nn.ModuleList(nn.Conv2d(own, depth // 4, 1, bias=False) for own in widths)
        self.mix = nn.Conv2d(depth, depth, 1, bias=False) if deeper else None
        self.score = nn.Conv2d(depth, 1, 1, bias=False)
        self.descriptor = nn.Conv2d(depth, depth, 1, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features, parts = image, []
        for stage, quarter, pool, scale in zip(self.stages, self.quarters, POOLS, SCALES, strict=True):
            features = stage(F.max_pool2d(features, pool) if pool > 1 else features)
            part = F.relu(quarter(features))
            if scale > 1:
                part = F.interpolate(part, scale_factor=scale, mode="bilinear", align_corners=True)
            parts.append(part)
        mixed = torch.cat(parts, 1)
        if self.mix is not None:
            mixed = F.relu(self.mix(mixed))
        return self.score(mixed), self.descriptor(mixed)


class _Stage(nn.Module):
    """Two 3x3 convolutions, beside a 1x1 one if there is a `shortcut`."""

    def __init__(self, inputs: int, outputs: int, shortcut: bool) -> None:
        super().__init__()
        self.a, self.b = _unit(inputs, outputs), _unit(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.b(F.relu(self.a(x)))
        return F.relu(inner if self.shortcut is None else inner + self.shortcut(x))


def _unit(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs)))


def build(widths: Sequence[int], depth: int, deeper: bool) -> nn.Module:
    """The network with fresh weights."""
    return Alike(widths, depth, deeper)


def adopt(state: Mapping[str, Any]) -> Adopted | None:
    """Recognise a public `.pth` by its keys and shapes.

    Raises:
        BadInput: the family is clear, but a tensor is missing or has another shape.
    """
    parted: dict[str, Any] = {}
    for name, value in state.items():
        if name.endswith(JOINT) and isinstance(value, Tensor) and value.ndim == 4:
            start = name.removesuffix(JOINT)
            parted |= {start + part: each for part, each in zip(PARTS, (value[:-1], value[-1:]), strict=True)}
        else:
            parted[name] = value
    return match(parted, [(name, _public) for name, row in MODELS.items() if row.family == "alike"])


_INNER = {"a.conv": "conv1", "a.norm": "bn1", "b.conv": "conv2", "b.norm": "bn2", "shortcut": "downsample"}
_HEADS = {"mix.weight": "convhead1.weight", "descriptor.weight": PARTS[0], "score.weight": PARTS[1]}


def _public(own: str) -> str:
    """`stages.1.a.norm.bias` -> `block2.bn1.bias`; `quarters.0.weight` -> `conv1.weight`."""
    if own in _HEADS:
        return _HEADS[own]
    kind, number, *rest = own.split(".")
    place = int(number) + 1
    if kind == "quarters":
        return f"conv{place}.{rest[0]}"
    return f"block{place}.{_INNER['.'.join(rest[:-1])]}.{rest[-1]}"
