"""ALIKED (arXiv 2304.03608): four residual stages at 1/1 to 1/32, the last two with deformable convolutions.

The descriptor head samples the mixed features at places that differ for each keypoint. So the network ends before the
mix, and the decoder computes the rest: see `lf.models.aliked.describe`. The weights of that head are outputs, like the
maps, so that every file contains them and every engine returns them.
"""

from __future__ import annotations

import hashlib
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
PLAIN = 2  # stages before the first deformable one
VOTE = 8  # channels of the sum of stages for the score
TAPS = 9  # of a 3x3 convolution, row by row

# of the public files
JOINT = "score_head.0.weight"  # reads all stages together
DEFORMED = "regular_conv.weight"
PROJECT, AGGREGATE, OFFSET = "desc_head.sf_conv.weight", "desc_head.agg_weights", "desc_head.offset_conv"
OFFSETS = (".0.weight", ".0.bias", ".2.weight", ".2.bias")
FIRST = "block1.conv1.weight"
# sha256 of FIRST in aliked-n16rot.pth, which has the shapes of aliked-n16.pth
ROTATED = "e4a78616671c54022be62deb6c042445b69b316514cc9d245eb4923a42c7b8c3"


class Aliked(nn.Module):
    """(1, 3, H, W) RGB in [0, 1], multiples of 32 -> the heads of its row.

    The first 1x1 layer of the score is applied to each stage before upsampling. It is linear, so the sum is the same,
    and no wide map at full size is needed.

    Args:
        widths: channels of the stages; the last is the length of a descriptor.
        samples: number of samples of a keypoint.
    """

    def __init__(self, widths: Sequence[int], samples: int) -> None:
        super().__init__()
        depth = widths[-1]
        inputs = (3, *widths)
        self.stages = nn.ModuleList(
            _Stage(before, own, shortcut=index > 0, deformable=index >= PLAIN)
            for index, (before, own) in enumerate(zip(inputs, widths, strict=False))
        )
        self.quarters = nn.ModuleList(nn.Conv2d(own, depth // 4, 1, bias=False) for own in widths)
        self.votes = nn.ModuleList(nn.Conv2d(depth // 4, VOTE, 1, bias=False) for _ in widths)
        sides = zip("abc", (VOTE, 4, 4), (4, 4, 1), strict=True)
        self.score = nn.ModuleDict({name: nn.Conv2d(a, b, 3, padding=1, bias=False) for name, a, b in sides})
        shapes = {  # see `lf.models.aliked.describe`
            "offset": (2 * samples, 1, TAPS * depth + 1 + 2 * samples + 1),
            "project": (depth, 1, depth),
            "descriptor": (depth, samples, depth),
        }
        self.head = nn.ParameterDict({name: nn.Parameter(torch.empty(shape)) for name, shape in shapes.items()})
        for weights in self.head.values():
            nn.init.kaiming_uniform_(weights, a=5**0.5)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        features, parts = image, []
        for stage, quarter, pool in zip(self.stages, self.quarters, POOLS, strict=True):
            features = stage(F.avg_pool2d(features, pool) if pool > 1 else features)
            parts.append(F.selu(quarter(features)))
        score = self.votes[0](parts[0])
        for vote, part, scale in zip(self.votes[1:], parts[1:], SCALES[1:], strict=True):
            score = score + F.interpolate(vote(part), scale_factor=scale, mode="bilinear", align_corners=True)
        for layer in self.score.values():
            score = layer(F.selu(score))
        weights = [self.head[name][None] for name in ("offset", "project", "descriptor")]
        return score, *parts, *(weights if torch.is_grad_enabled() else (each.detach() for each in weights))


class _Stage(nn.Module):
    """Two 3x3 convolutions, `deformable` or not, beside a 1x1 one if there is a `shortcut`."""

    def __init__(self, inputs: int, outputs: int, shortcut: bool, deformable: bool) -> None:
        super().__init__()
        kind = _Deformable if deformable else _plain
        self.a, self.b = _unit(kind(inputs, outputs), outputs), _unit(kind(outputs, outputs), outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.b(F.selu(self.a(x)))
        return F.selu(inner if self.shortcut is None else inner + self.shortcut(x))


class _Deformable(nn.Module):
    """A deformable 3x3 convolution: a convolution gives the places of nine taps, GridSample reads them, a 1x1 mixes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(inputs, 2 * TAPS, 3, padding=1)  # dy and dx of each tap
        self.taps = nn.Conv2d(TAPS * inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        reach = torch.sym_max(height, width) / 4  # type: ignore[no-untyped-call]
        moved = self.offset(x).clamp(-reach, reach)
        row, column = (torch.arange(side, dtype=x.dtype, device=x.device) for side in (height, width))
        tap = torch.arange(TAPS, device=x.device)[:, None, None]
        v = (moved[:, 0::2] + (row[:, None] + (tap // 3 - 1)) + 0.5) * (2 / height) - 1
        u = (moved[:, 1::2] + (column + (tap % 3 - 1)) + 0.5) * (2 / width) - 1
        grid = torch.cat([each.reshape(batch, TAPS * height, width, 1) for each in (u, v)], 3)
        sampled = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        found: Tensor = self.taps(sampled.reshape(batch, channels * TAPS, height, width))
        return found


def _plain(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def _unit(conv: nn.Module, outputs: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs)))


def build(widths: Sequence[int], samples: int) -> nn.Module:
    """The network with fresh weights."""
    return Aliked(widths, samples)


def adopt(state: Mapping[str, Any]) -> Adopted | None:
    """Recognise a public `.pth` by its keys and shapes, and the weights trained with rotations by a tensor.

    Raises:
        BadInput: the family is clear, but a tensor is missing or has another shape.
    """
    turned = any(name.endswith(FIRST) and _digest(value) == ROTATED for name, value in state.items())
    other = "aliked-n16" if turned else "aliked-n16rot"
    rows = [name for name, row in MODELS.items() if row.family == "aliked" and name != other]
    return match(_ours(state), [(name, _public) for name in rows])


def _digest(value: Any) -> str:
    numbers = isinstance(value, Tensor) and value.dtype == torch.float32
    return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest() if numbers else ""


def _ours(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public tensors in our shapes under their public names; tensors of other shapes do not change."""
    found: dict[str, Any] = {}
    offsets: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        whole = isinstance(value, Tensor)
        if name.endswith(JOINT) and whole and value.ndim == 4 and value.shape[1] % len(SCALES) == 0:
            found |= {f"{name}[{index}]": part for index, part in enumerate(value.chunk(len(SCALES), 1))}
        elif name.endswith(DEFORMED) and whole and value.shape[2:] == (3, 3):
            found[name] = value.reshape(len(value), -1, 1, 1)
        elif name.endswith(PROJECT) and whole and value.shape[2:] == (1, 1):
            found[name] = value.reshape(len(value), 1, -1)
        elif name.endswith(AGGREGATE) and whole and value.ndim == 3:
            found[name] = value.permute(2, 0, 1)  # number of the descriptor, sample, input
        elif whole and (part := next((part for part in OFFSETS if name.endswith(OFFSET + part)), "")):
            offsets.setdefault(name.removesuffix(part), {})[part] = value
        else:
            found[name] = value
    for name, parts in offsets.items():
        rows = {len(part) for part in parts.values() if part.ndim}
        if len(parts) == len(OFFSETS) and len(rows) == 1:
            found[name] = torch.cat([parts[part].reshape(*rows, 1, -1) for part in OFFSETS], 2)
        else:
            found |= {name + part: value for part, value in parts.items()}
    return found


_INNER = {"conv": "conv", "norm": "bn"}
_DEFORMABLE = {"offset": "offset_conv", "taps": "regular_conv"}
_HEAD = {"offset": OFFSET, "project": PROJECT, "descriptor": AGGREGATE}
_SCORE = {"a": "2", "b": "4", "c": "6"}


def _public(own: str) -> str:
    """`stages.2.a.conv.taps.weight` -> `block3.conv1.regular_conv.weight`; `quarters.0.weight` -> `conv1.weight`."""
    kind, at, *rest = own.split(".")
    if kind == "head":
        return _HEAD[at]
    if kind == "score":
        return f"score_head.{_SCORE[at]}.{rest[0]}"
    if kind == "votes":
        return f"{JOINT}[{at}]"
    place = int(at) + 1
    if kind == "quarters":
        return f"conv{place}.{rest[0]}"
    unit, *inner = rest
    if unit == "shortcut":
        return f"block{place}.downsample.{inner[0]}"
    layer = f"{_INNER[inner[0]]}{'ab'.index(unit) + 1}"
    return ".".join([f"block{place}", layer, *(_DEFORMABLE.get(word, word) for word in inner[1:])])
