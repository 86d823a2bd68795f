"""Losses of dense score maps: the shape of a peak in a window, and its height.

A softmax over cells does not learn the shape of a peak across the edges of cells. Here each label has its own window at
a random offset, so that the pixels beside a peak learn their scores relative to it; sub-pixel positions depend on them.
The heat map trains the height of peaks, which a window does not see.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

REACH = 4  # px; a window has 9x9 pixels
SHIFT = 2  # px; largest distance of the middle of a window from its label, along either axis
SHARP = 0.7  # px, standard deviation of the position in a window
WIDE, SPOT = 0.9, 3  # px, of a spot of the heat map: standard deviation, and where it ends


def window(logits: Tensor, view: Tensor, points: Tensor, shift: Tensor) -> Tensor:
    """Return the cross-entropy (V,) between a softmax over the window of each label and a Gaussian at its true place.

    Args:
        logits: (B, H, W).
        view: (V,) int64, index of the view of each label, 0 to B - 1.
        points: (V, 2) x, y of the labels, px.
        shift: (V, 2) int64, of the window's middle from the pixel of its label.
    """
    height, width = logits.shape[1:]
    last = torch.tensor([width - 1, height - 1], device=logits.device)
    middle = (points.round().long() + shift).clamp(min=REACH).minimum(last - REACH)
    pixels = middle[:, None] + _square(REACH, logits.device)  # (V, 81, 2)
    read = logits.flatten().take((view[:, None] * height + pixels[..., 1]) * width + pixels[..., 0])
    target = (_squares(pixels, points) / (-2 * SHARP**2)).softmax(1)
    return -(target * read.log_softmax(1)).sum(1)


def heat(view: Tensor, points: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the maximum at every pixel (B, H, W) of Gaussians at labels (V, 2) px with weights (V,) in [0, 1]."""
    _, height, width = shape
    pixels = points.round().long()[:, None] + _square(SPOT, points.device)
    spots = (_squares(pixels, points) / (-2 * WIDE**2)).exp() * weight[:, None]
    last = torch.tensor([width - 1, height - 1], device=points.device)
    inside = ((pixels >= 0) & (pixels <= last)).all(2)
    index = ((view[:, None] * height + pixels[..., 1]) * width + pixels[..., 0])[inside]
    return (
        torch.zeros(shape, device=points.device).flatten().scatter_reduce(0, index, spots[inside], "amax").view(shape)
    )


def height(logits: Tensor, target: Tensor, seen: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of logits (B, H, W) over the pixels of the mask `seen` (B, H, W)."""
    every = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (every * seen).sum() / seen.sum().clamp(min=1)


def leading(points: Tensor, size: tuple[int, int], radius: int) -> Tensor:
    """Return a mask (B, N) of labels (B, N, 3) x, y, score above 0 that are the best of the square of `radius` px."""
    height, width = size
    score = points[..., 2]
    last = torch.tensor([width - 1, height - 1], device=points.device)
    pixel = points[..., :2].round().long().clamp(min=0).minimum(last)
    pixel = pixel[..., 1] * width + pixel[..., 0]
    best = torch.zeros(len(points), height * width, device=points.device).scatter_reduce(1, pixel, score, "amax")
    best = F.max_pool2d(best.view(-1, 1, height, width), (1, 2 * radius + 1), 1, (0, radius))
    best = F.max_pool2d(best, (2 * radius + 1, 1), 1, (radius, 0))
    return (score > 0) & (score >= best.flatten(1).gather(1, pixel))


def _square(reach: int, device: torch.device) -> Tensor:
    """Return the offsets (n, 2) x, y of the pixels around a pixel, row by row."""
    span = torch.arange(-reach, reach + 1, device=device)
    y, x = torch.meshgrid(span, span, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def _squares(pixels: Tensor, points: Tensor) -> Tensor:
    """Return the squared distances (V, n) of pixels (V, n, 2) from their label (V, 2)."""
    return (pixels - points[:, None]).square().sum(2)
