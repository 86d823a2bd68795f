"""Correspondences of a pair of views, and the dual-softmax loss over their descriptors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def choose(valid: Tensor, random: Tensor, count: int) -> Tensor:
    """Choose the indices (B, M) of `count` random valid members of each row of `valid` (B, N) bool.

    A row with fewer valid members than that gets others, too. `random` (B, N) is uniform in [0, 1).
    M = min(count, N); count 0 means all.
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
        valid: (B, M) bool: correspondences that count; the others are not used as negatives either.
        near: px; two correspondences closer than this in either view are not each other's negatives.
        temperature: similarities are divided by it.

    Returns:
        Mean loss of each pair (B,); mask of correspondences that are mutual nearest neighbours (B, M) bool.
    """
    loss, hit = _compare(one, two, _close(at, near), valid, temperature)
    return mean_over(loss, valid), hit


def batch_softmax(
    one: Tensor, two: Tensor, at: tuple[Tensor, Tensor], valid: Tensor, near: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Compute `dual_softmax` with the correspondences of all pairs as each other's negatives; one mean loss ()."""
    count = one.shape[1]
    pair, place = valid.nonzero().unbind(1)
    if not len(pair):
        return one.sum() * 0, torch.zeros_like(valid)
    with torch.no_grad():
        of_pairs = torch.zeros(len(valid) * count, len(valid) * count, dtype=torch.bool, device=one.device)
        for index, block in enumerate(_close(at, near)):
            of_pairs[index * count : (index + 1) * count, index * count : (index + 1) * count] = block
        flat = pair * count + place
        close = of_pairs[flat][:, flat][None]
    every = torch.ones(1, len(flat), dtype=torch.bool, device=one.device)
    loss, hit = _compare(one[pair, place][None], two[pair, place][None], close, every, temperature)
    found = torch.zeros_like(valid)
    found[pair, place] = hit[0]
    return mean_over(loss, every).mean(), found


def _close(at: tuple[Tensor, Tensor], near: float) -> Tensor:
    """Return a mask (B, M, M) of the pairs of correspondences that lie closer than `near` px in either view."""
    close = (_distance(at[0]) < near) | (_distance(at[1]) < near)
    return close & ~torch.eye(close.shape[1], dtype=torch.bool, device=close.device)


def _compare(one: Tensor, two: Tensor, close: Tensor, valid: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the loss of each correspondence (B, M) and a mask (B, M) of mutual nearest neighbours."""
    similarity = one @ two.transpose(1, 2) / temperature
    similarity = similarity.masked_fill(close | ~valid[:, :, None] | ~valid[:, None, :], -1e4)
    target = torch.arange(similarity.shape[1], device=similarity.device).expand(len(similarity), -1)
    rows = F.cross_entropy(similarity.transpose(1, 2), target, reduction="none")
    columns = F.cross_entropy(similarity, target, reduction="none")
    hit = (similarity.argmax(2) == target) & (similarity.argmax(1) == target) & valid
    return (rows + columns) / 2, hit


def mean_over(value: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over the valid entries of each row, (B, M) -> (B,); 0 for a row without valid entries."""
    return torch.where(valid, value, 0.0).sum(1) / valid.sum(1).clamp(min=1)


def _distance(points: Tensor) -> Tensor:
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
