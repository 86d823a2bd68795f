"""Correspondences of a pair of views: which enter a step, and the dual-softmax loss over their descriptors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def choose(valid: Tensor, random: Tensor, count: int) -> Tensor:
    """Indices (B, M) of `count` random members of each row of `valid` (B, N), others only where a row has too few.

    `random` (B, N) is uniform in [0, 1). M = min(count, N); count 0 means all.
    """
    size = valid.shape[1]
    return (random + valid.float()).topk(min(count, size) if count else size, dim=1).indices


def dual_softmax(
    one: Tensor, two: Tensor, at: tuple[Tensor, Tensor], valid: Tensor, near: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the softmax over rows and over columns of the similarities of M correspondences.

    Args:
        one: unit descriptors (B, M, D) of the first view.
        two: those of their partners in the second view.
        at: positions (B, M, 2) in the first and in the second view, pixels.
        valid: (B, M), which correspondences count; the others are no negatives either.
        near: two correspondences closer than this in either view are not each other's negatives, pixels.
        temperature: similarities are divided by it.

    Returns:
        The mean loss of each pair (B,), and which correspondences are mutual nearest neighbours (B, M).
    """
    similarity = one @ two.transpose(1, 2) / temperature
    with torch.no_grad():
        close = (_distance(at[0]) < near) | (_distance(at[1]) < near)
        close &= ~torch.eye(close.shape[1], dtype=torch.bool, device=close.device)
    similarity = similarity.masked_fill(close | ~valid[:, :, None] | ~valid[:, None, :], -1e4)
    target = torch.arange(similarity.shape[1], device=similarity.device).expand(len(similarity), -1)
    rows = F.cross_entropy(similarity.transpose(1, 2), target, reduction="none")
    columns = F.cross_entropy(similarity, target, reduction="none")
    hit = (similarity.argmax(2) == target) & (similarity.argmax(1) == target) & valid
    return mean_over((rows + columns) / 2, valid), hit


def mean_over(value: Tensor, valid: Tensor) -> Tensor:
    """The mean over the valid entries of each row, (B, M) -> (B,); 0 for a row without any."""
    return torch.where(valid, value, 0.0).sum(1) / valid.sum(1).clamp(min=1)


def _distance(points: Tensor) -> Tensor:
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
