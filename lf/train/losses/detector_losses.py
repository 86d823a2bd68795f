"""DETECTOR_LOSSES: losses between maps of 65 classes per 8x8 cell and their labels.

Classes 0-63 are the pixels of a cell, row by row, 64 is "no point here" (arXiv 1712.07629, section 3.4). A loss takes
logits (B, 65, h, w), target (B, 65, h, w) whose channels sum to 1, valid (B, h, w) bool or float, and returns (B,)
float32: the mean over the valid cells of each image, 0 where an image has none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lf.models.decode import CELL

DUSTBIN = 64
FAINTEST = 1 / 255  # a cell with less mass than this is empty: published labels have 8 bits
ONE = 1 << 24  # mass is summed as integers, so that the order of the points changes no bit

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def labels(points: Tensor, size: tuple[int, int], rest: bool = False) -> Tensor:
    """Soft labels of points: each splats its weight over the four pixels round it, bilinearly.

    Args:
        points: (B, N, 3) x, y in pixels, pixel centres at integers, and a weight in [0, 1]; 0 = no point.
        size: (H, W) of the image, multiples of 8.
        rest: True keeps weights: the last channel is 1 minus the mass of the cell. False normalises cells with points.

    Returns:
        (B, 65, H / 8, W / 8) float32. A cell's channels sum to 1; the last is 1 where a cell has no mass, else 0.
    """
    height, width = size
    xy = points[..., :2].float().nan_to_num(-1.0)
    x, y = xy[..., 0].clamp(-1, width), xy[..., 1].clamp(-1, height)
    left, top = x.floor(), y.floor()
    mass = torch.zeros(len(points), (height + 3) * (width + 3), dtype=torch.long, device=points.device)  # padded
    for dx in (0, 1):
        for dy in (0, 1):
            share = (1 - (x - left - dx).abs()) * (1 - (y - top - dy).abs()) * points[..., 2].float()
            at = (top + dy + 1) * (width + 3) + left + dx + 1
            mass.scatter_add_(1, at.long(), (share * ONE).round().long())
    image = mass.view(-1, 1, height + 3, width + 3)[:, :, 1:-2, 1:-2]
    cells = _unfold(image).float() / ONE
    total = cells.sum(1, keepdim=True)
    if rest:
        return torch.cat([cells / total.clamp(min=1), (1 - total).clamp(min=0)], 1)
    full = total >= FAINTEST
    return torch.cat([torch.where(full, cells / total.clamp(min=FAINTEST), 0.0), (~full).float()], 1)


def choose(target: Tensor, uniform: Tensor) -> Tensor:
    """Draw one class of every cell, with its share as probability: the paper's random choice among several points.

    Args:
        target: (B, 65, h, w) as from `labels`.
        uniform: (B, h, w) random numbers in [0, 1).

    Returns:
        (B, 65, h, w) float32 with a single 1 per cell, where the target is above 0.
    """
    reached = target.double().cumsum(1)
    threshold = uniform.double()[:, None] * reached[:, -1:]
    drawn = (reached <= threshold).sum(1).clamp(max=DUSTBIN)
    return F.one_hot(drawn, DUSTBIN + 1).permute(0, 3, 1, 2).float()


def valid_cells(inside: Tensor) -> Tensor:
    """Return a mask (B, h, w) of cells with all 64 pixels inside the image, from `inside` (B, H, W) bool."""
    return _unfold(inside[:, None]).all(1)


def _unfold(image: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, 64, H / 8, W / 8) of any type: space to depth."""
    batch, _, height, width = image.shape
    cells = image.reshape(batch, height // CELL, CELL, width // CELL, CELL).permute(0, 2, 4, 1, 3)
    return cells.reshape(batch, CELL * CELL, height // CELL, width // CELL)


def categorical(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy over the 65 classes (eq. 3, arXiv 1712.07629), with soft labels."""
    return _mean(-(target * logits.float().log_softmax(1)).sum(1), valid)


def binary(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy of the softmax, summed over the classes: `categorical` plus -(1 - y) log(1 - p)."""
    z = logits.float()
    log_p = z.log_softmax(1)
    # 1 - p of the most likely class is 0 in float32; the sum of the other classes is not
    top = z.argmax(1, keepdim=True)
    others = z.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True) - z.logsumexp(1, keepdim=True)
    log_not_p = torch.log1p(-log_p.scatter(1, top, -1.0).exp()).scatter(1, top, others)
    return _mean(-(target * log_p + (1 - target) * log_not_p).sum(1), valid)


def l2(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean square of logits minus labels, over classes and valid cells; no softmax."""
    return _mean((logits.float() - target).square().mean(1), valid)


def _mean(loss: Tensor, valid: Tensor) -> Tensor:
    """Mean (B,) of (B, h, w) over the valid cells of each image."""
    weight = valid.float()
    return (loss * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)


DETECTOR_LOSSES: dict[str, Loss] = {"categorical": categorical, "binary": binary, "l2": l2}
