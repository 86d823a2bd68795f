"""ONNX files as other tools export them, made from the shipped superpoint-small: SuperPoint as people deploy it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from lf.models import checkpoint
from lf.models.resolve import resolve

WEIGHTS = "superpoint-small"
SIZE = (120, 160)


@cache
def network(name: str = WEIGHTS) -> nn.Module:
    return checkpoint.network(resolve(name))


class PyTorchSuperPoint(nn.Module):
    """pytorch-superpoint: a dictionary of semi, raw, and desc, of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        semi, desc = self.net(image)
        return {"semi": semi, "desc": desc / torch.norm(desc, p=2, dim=1).unsqueeze(1)}


class MagicLeap(PyTorchSuperPoint):
    """The demo: a tuple of the same, here of pixels from 0 to 255."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        semi, desc = self.net(image / 255)
        return semi, desc / torch.norm(desc, p=2, dim=1).unsqueeze(1)


class Dense(PyTorchSuperPoint):
    """rpautrat's: scores of every pixel, and descriptors with the channels last."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        semi, desc = self.net(image)
        scores = torch.softmax(semi, 1)[:, :-1]
        batch, _, rows, columns = scores.shape
        scores = scores.permute(0, 2, 3, 1).reshape(batch, rows, columns, 8, 8)
        scores = scores.permute(0, 1, 3, 2, 4).reshape(batch, rows * 8, columns * 8)
        return scores, nn.functional.normalize(desc, p=2.0, dim=1).permute(0, 2, 3, 1)


class OpenSuperPoint(nn.Module):
    """rpautrat's own order, conv, ReLU, norm, small and with random weights; a norm cannot be folded there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        block = lambda i, o, k=3: nn.Sequential(nn.Conv2d(i, o, k, 1, k // 2), nn.ReLU(), nn.BatchNorm2d(o))  # noqa: E731
        self.trunk = nn.Sequential(*(nn.Sequential(block(i, 16), nn.MaxPool2d(2)) for i in (1, 16, 16)))
        self.detector = nn.Sequential(block(16, 32), nn.Conv2d(32, 65, 1))
        self.descriptor = nn.Sequential(block(16, 32), nn.Conv2d(32, 256, 1))
        for norm in (each for each in self.modules() if isinstance(each, nn.BatchNorm2d)):
            norm.running_mean.uniform_(0, 0.1)
            norm.running_var.uniform_(0.01, 0.02)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(image)
        return self.detector(features), self.descriptor(features)


class Extractor(Dense):
    """LightGlue-ONNX's: decode inside, keypoints as integers; `slots` pads or cuts, None leaves N free."""

    def __init__(self, slots: int | None = None, threshold: float = 0.01) -> None:
        super().__init__()
        self.slots, self.threshold = slots, threshold

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, desc = super().forward(image)
        highest = nn.functional.max_pool2d(scores[:, None], 9, 1, 4)[:, 0]
        scores = torch.where(scores == highest, scores, torch.zeros_like(scores))[0]
        if self.slots is None:
            y, x = torch.where(scores > self.threshold)
            found = scores[y, x]
        else:
            found, index = scores.reshape(-1).topk(self.slots)
            y, x = index // scores.shape[1], index % scores.shape[1]
            found = torch.where(found > self.threshold, found, torch.zeros_like(found))
        points = torch.stack([x, y], 1)
        size = torch.tensor([scores.shape[1], scores.shape[0]])
        at = (points.float() + 0.5) / size * 2 - 1
        sampled = nn.functional.grid_sample(desc.permute(0, 3, 1, 2), at[None, None], align_corners=False)
        sampled = nn.functional.normalize(sampled.reshape(1, 256, -1), dim=1).transpose(1, 2)
        if self.slots is not None:
            used = found > 0
            points = torch.where(used[:, None], points, torch.full_like(points, -1))
        return points[None], found[None], sampled


def export(
    module: nn.Module,
    path: Path,
    names: list[str],
    size: tuple[int, int] = SIZE,
    free: bool = False,
    opset: int = 17,
    channels: int = 1,
    image: str = "image",
    varying: bool = False,
) -> Path:
    """Write what `torch.onnx.export` of the older kind, which these tools use, makes of a module."""
    axes = {image: {0: "batch", 2: "h", 3: "w"}} if free else {}
    if varying:
        axes |= {name: {1: "n"} for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.rand(1, channels, *size),),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=[image],
            output_names=names,
            dynamic_axes=axes,
        )
    return path


class Arrange(nn.Module):
    """Another network with its outputs as `change` arranges them, fed with what `prepare` makes of the input."""

    def __init__(self, net: nn.Module, change: Callable[..., object], prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change, self.prepare = net, change, prepare

    def forward(self, image: Tensor) -> object:
        made = self.net(self.prepare(image))
        return self.change(*(made.values() if isinstance(made, dict) else made))
