"""Gain of the form of an export and of 8 bits: `python -m scripts.compare_exports CHECKPOINT QUANTIZED.onnx`.

Three files of one network take turns, in one process, on one image: the published forward as it stands (dense
normalisation, squares by power, softmax of two, points and descriptors sampled in the graph), our float export, and
the quantized file. Milliseconds are the processor's with one thread, the clock's with more; ratios are within a turn.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.benchmarks.report.tables import markdown
from lf.core import Artifact, Card, UsageError
from lf.formats import model_file
from lf.models.resolve import resolve
from scripts import turns

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZE = (240, 320)  # H, W
REPEATS = 40


def superpoint(net: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """The forward of arXiv 1712.07629's published network: descriptors normalised everywhere."""
    detector, descriptor = net(image)
    return detector, descriptor / descriptor.norm(p=2, dim=1, keepdim=True)


def r2d2(net: Any, image: Tensor) -> tuple[Tensor, ...]:
    """The forward of arXiv 1906.06195's: normalised descriptors, squares by power, softmax of two, x / (1 + x)."""
    import torch.nn.functional as F

    x = net.layers((image - net.mean) / net.std)
    if net.fast:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    repeatable = F.softplus(net.repeatability(x**2))
    return F.normalize(x, p=2, dim=1), F.softmax(net.reliability(x**2), 1)[:, 1:2], repeatable / (1 + repeatable)


def kp2d(net: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """The forward of arXiv 1912.10615's: points decoded, descriptors of every cell sampled and normalised."""
    import torch
    import torch.nn.functional as F

    score, shift, feat = net(image)
    rows, columns = score.shape[2:]
    cell = image.shape[2] // rows
    border = F.pad(torch.ones(1, 1, rows - 2, columns - 2), (1, 1, 1, 1))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corners = torch.stack([x, y])[None].float() * cell
    points = corners + (cell - 1) / 2 + shift.tanh() * (cell - 1)
    points = torch.stack([points[:, 0].clamp(0, image.shape[3] - 1), points[:, 1].clamp(0, image.shape[2] - 1)], -1)
    share = points / torch.tensor([(image.shape[3] - 1) / 2, (image.shape[2] - 1) / 2]) - 1
    sampled = F.grid_sample(feat, share, align_corners=True)
    return score.sigmoid() * border, points, sampled / sampled.norm(p=2, dim=1, keepdim=True)


FORWARDS: dict[str, Callable[[Any, Tensor], tuple[Tensor, ...]]] = {
    "superpoint": superpoint,
    "r2d2": r2d2,
    "kp2d": kp2d,
}


def published(checkpoint: Artifact, out: Path, size: tuple[int, int] = SIZE) -> Artifact:
    """Export the published forward of a checkpoint unchanged to an ONNX file of fixed size (H, W).

    Raises:
        UsageError: not a checkpoint of a family in FORWARDS.
    """
    import warnings

    import torch

    from lf.models import MODELS
    from lf.models import checkpoint as weights

    row = MODELS[checkpoint.card.model]
    if row.family not in FORWARDS or checkpoint.path.suffix == ".onnx":
        raise UsageError(f"{checkpoint.path}: expected a checkpoint of one of these families: {', '.join(FORWARDS)}")
    net, forward = weights.network(checkpoint), FORWARDS[row.family]

    class Published(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            return forward(self.net, image)

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses packages that nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Published().eval(), (torch.zeros(1, row.channels, *size),), dynamo=True, opset_version=18, verbose=False
        )
    assert program is not None
    return model_file.save(out, program.model_proto.SerializeToString(), Card(row.family, {}, (row.channels, *size)))


def compare(checkpoint: Path, exported: Path, quantized: Sequence[Path], threads: int, repeats: int = REPEATS) -> str:
    """The table: a row per file, milliseconds, and how many times the published export's speed it has."""
    parent = resolve(str(checkpoint))
    with tempfile.TemporaryDirectory(prefix="lf-exports-") as folder:
        ours = [model_file.load(path) for path in (exported, *quantized)]
        size = next((artifact.card.size for artifact in ours if artifact.card.size), SIZE)
        artifacts = [published(parent, Path(folder, "published.onnx"), size), *ours]
        picture = np.random.default_rng(0).random((1, artifacts[0].card.input[0], *size), np.float32)
        taken = turns.measure(artifacts, [picture] * len(artifacts), threads, repeats)
    rows = []
    for name, column in zip(("as published", *(artifact.path.name for artifact in ours)), taken.T, strict=True):
        of_published, of_ours = (turns.times(taken[:, reference], column) for reference in (0, 1))
        rows.append([name, f"{np.median(column):.1f}", of_published, of_ours])
    return markdown([f"{size[0]}x{size[1]}", "ms", "times as published", "times our float export"], rows)


def main(words: Sequence[str], given: Mapping[str, str]) -> str:
    """The table."""
    checkpoint, exported, *quantized = map(Path, words)
    return compare(checkpoint, exported, quantized, turns.number(given, "threads", 1))


if __name__ == "__main__":
    turns.command("compare_exports CHECKPOINT EXPORTED.onnx [QUANTIZED.onnx ...] [--threads=1]", 2, None, main)
