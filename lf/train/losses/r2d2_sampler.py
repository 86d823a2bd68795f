"""Negatives of R2D2's reliability loss: pixels around the truth, and pixels of the batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lf.train.losses.r2d2_losses import TINY, pick, valid

RIGHT = 3.0  # px; a candidate within this distance of the truth is a right answer
WRONG = (5.0, 7.0)  # px; radii of a ring of wrong answers; far answers are wrong outside its inner radius
BORDER = 16  # px; no query is nearer to an edge
DENSITY = 64  # pixels per query, and per far answer


class Ranked(NamedTuple):
    """Similarities of N queries per pair to their right answer and to M wrong answers (-inf: no answer)."""

    positive: Tensor  # (B, N)
    others: Tensor  # (B, N, M)
    reliability: Tensor  # (B, N), mean of the query and its right answer
    known: Tensor  # (B, N) bool, the query has a partner


def disc(low: float, high: float) -> Tensor:
    """Return the integer offsets (K, 2), x then y, at distances from `low` to `high` px."""
    reach = int(high)
    axis = torch.arange(-reach, reach + 1)
    grid = torch.cartesian_prod(axis, axis)
    radius = grid.float().norm(dim=1)
    return grid[(radius >= low) & (radius <= high)]


def queries(size: tuple[int, int]) -> int:
    """Return the number of queries in a view of (H, W) px: 400 at 192 x 192."""
    return max(1, (size[0] - 2 * BORDER) * (size[1] - 2 * BORDER) // DENSITY)


def rank(
    descriptors: tuple[Tensor, Tensor], reliability: tuple[Tensor, Tensor], aflow: Tensor, asked: Tensor, far: Tensor
) -> Ranked:
    """Compare pixels of the first view with candidates of the second (arXiv 1906.06195, section 3.3).

    The right answer is the most similar pixel within 3 px of the truth. Wrong answers are a ring of 5 to 7 px around
    the truth, and pixels of the second views of all pairs of this process, unless they lie within 5 px of the truth.

    Args:
        descriptors: of both views, (B, D, H, W), of any length.
        reliability: of both views, (B, 1, H, W) in [0, 1].
        aflow: (B, 2, H, W), see `lf.train.losses.r2d2_losses`.
        asked: (B, N, 2) int64 pixels of the first view, x then y.
        far: (B, M, 2) int64 pixels of the second view: the wrong answers of all pairs.
    """
    height, width = aflow.shape[-2:]
    last = torch.tensor([width - 1, height - 1], device=aflow.device)
    known = pick(valid(aflow), asked)[..., 0]
    truth = pick(aflow, asked).nan_to_num(0).round().long()  # (B, N, 2)
    query = F.normalize(pick(descriptors[0], asked), dim=-1, eps=TINY)
    lengths = descriptors[1].norm(dim=1, keepdim=True).clamp(min=TINY)  # cheaper than normalising the whole map
    with torch.no_grad():
        around, inside = _around(truth, disc(0, RIGHT), last)
        similar = _dot(pick(descriptors[1], around), query) / pick(lengths, around)[..., 0]
        best = similar.masked_fill(~inside, -torch.inf).argmax(-1)[..., None, None].expand(-1, -1, 1, 2)
        answer = around.gather(2, best)  # (B, N, 1, 2)
    ring, inside = _around(truth, disc(*WRONG), last)
    near = torch.cat([answer, ring], 2)  # (B, N, 1 + K, 2)
    places = torch.cat([near.flatten(1, 2), far], 1)  # one read: the gradient of each read is a whole map
    rows, length = pick(descriptors[1], places), pick(lengths, places)[..., 0]
    split, shape = near.shape[1] * near.shape[2], near.shape[:3]
    similar = _dot(rows[:, :split].view(*shape, -1), query) / length[:, :split].view(shape)
    distractors = _distract(rows[:, split:], length[:, split:], query, truth, far)
    others = torch.cat([similar[..., 1:].masked_fill(~inside, -torch.inf), distractors], -1)
    trust = (pick(reliability[0], asked) + pick(reliability[1], answer[:, :, 0]))[..., 0] / 2
    return Ranked(similar[..., 0], others, trust, known)


def _around(truth: Tensor, offsets: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels (B, N, K, 2) around the truth, clamped to the view, and whether they were inside (B, N, K) bool."""
    points = truth[:, :, None] + offsets.to(truth.device)
    clamped = points.clamp(min=torch.zeros_like(last), max=last)
    return clamped, (points == clamped).all(-1)


def _dot(candidates: Tensor, query: Tensor) -> Tensor:
    return (candidates @ query[..., None])[..., 0]


def _distract(candidates: Tensor, length: Tensor, query: Tensor, truth: Tensor, far: Tensor) -> Tensor:
    """Return similarities (B, N, B * M) to far pixels of all pairs."""
    batch, count = query.shape[:2]
    similar = query.flatten(0, 1) @ candidates.flatten(0, 1).T / length.flatten()
    similar = similar.view(batch, count, batch, -1)
    gap = (truth[:, :, None] - far[:, None]).float().norm(dim=-1)  # (B, N, M)
    own = torch.eye(batch, dtype=torch.bool, device=far.device)[:, None, :, None]
    return similar.masked_fill(own & (gap < WRONG[0])[:, :, None], -torch.inf).flatten(2)
