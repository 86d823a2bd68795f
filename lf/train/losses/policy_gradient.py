"""Policy-gradient loss of scores (DISK, arXiv 2006.13566, as in PoSFeat, 2203.12993).

Every cell proposes one of its pixels at random, and accepts or rejects it at random. Pairs of accepted points get a
reward if they agree with the cameras and a penalty if not, in proportion to the probability that their descriptors
match.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lf.train.losses.epipolar_losses import distances, lines

CELL = 8  # px, side of a cell
NEAR = 2.0  # px: a match is rewarded if each point is nearer than this to the epipolar line of the other
GOOD, BAD = 1.0, -0.25  # rewards
SHARP = 60.0  # similarities are multiplied by it


class Points(NamedTuple):
    """Points sampled by the N cells of a view, row by row."""

    at: Tensor  # (B, N, 2) px
    accepted: Tensor  # (B, N) bool
    logp: Tensor  # (B, N), of the proposal and of its acceptance


class Outcome(NamedTuple):
    """Sum of the loss over the pairs of the batch, and means over the pairs for the log."""

    loss: Tensor
    accepted: Tensor  # points per view
    correct: Tensor  # expected number of matches that are rewarded
    precision: Tensor  # of mutual nearest neighbours among accepted points


def cells(score: Tensor) -> Tensor:
    """Reshape scores (B, H, W) to (B, N, 64), the pixels of each cell row by row. Incomplete cells are left out."""
    height, width = (side // CELL * CELL for side in score.shape[1:])
    return F.pixel_unshuffle(score[:, None, :height, :width], CELL).flatten(2).mT


def propose(score: Tensor, gumbel: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Sample proposals (B, N), indices of pixels in their cells, and acceptances (B, N) bool.

    Args:
        score: (B, H, W), logits of proposals and of acceptances.
        gumbel: (B, N, 64) uniform in [0, 1).
        uniform: (B, N), likewise.
    """
    with torch.no_grad():
        logits = cells(score)
        noise = -(-gumbel.clamp(1e-9, 1 - 1e-7).log()).log()
        proposal = (logits + noise).argmax(2)
        chosen = logits.gather(2, proposal[..., None])[..., 0]
        return proposal, uniform < chosen.sigmoid()


def points(score: Tensor, proposal: Tensor, accepted: Tensor) -> Points:
    """Return positions and log-probabilities of the sampled points; gradients flow into the score map (B, H, W)."""
    logits = cells(score)
    chosen = logits.gather(2, proposal[..., None])[..., 0]
    logp = logits.log_softmax(2).gather(2, proposal[..., None])[..., 0]
    logp = logp + F.logsigmoid(torch.where(accepted, chosen, -chosen))
    columns = score.shape[2] // CELL
    cell = torch.arange(proposal.shape[1], device=score.device)
    x, y = cell % columns * CELL + proposal % CELL, cell // columns * CELL + proposal // CELL
    return Points(torch.stack([x, y], -1).float(), accepted, logp)


@torch.no_grad()
def rewards(one: Tensor, two: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Return rewards (N, M): GOOD if points (N, 2) and (M, 2) lie within NEAR of each other's line, BAD otherwise.

    Args:
        one: px, of the first view.
        two: px, of the second view.
        there: F (3, 3), points of the first -> lines of the second.
        back: F (3, 3), the other way.
    """
    ahead = distances(two[None], lines(one[None], there[None])[0][:, None])
    behind = distances(one[:, None], lines(two[None], back[None]))
    return torch.where((ahead < NEAR) & (behind < NEAR), GOOD, BAD)


def pair_loss(logp: tuple[Tensor, Tensor], reward: Tensor, match: Tensor, log_match: Tensor, penalty: float) -> Tensor:
    """The loss of the accepted points of one pair.

    Args:
        logp: (N,) and (M,) of the points of both views.
        reward: (N, M).
        match: (N, M), probability that two points match; no gradient.
        log_match: its logarithm.
        penalty: cost of each accepted point.
    """
    gain = reward * match * (log_match + logp[0][:, None] + logp[1][None])
    return -gain.sum() + penalty * (logp[0].sum() + logp[1].sum())


def detection(
    found: tuple[Points, Points],
    descriptors: tuple[Tensor, Tensor],
    fundamental: tuple[Tensor, Tensor],
    penalty: float = 0.001,
    sharp: float = SHARP,
) -> Outcome:
    """The loss of a batch.

    Args:
        found: the points sampled in both views.
        descriptors: unit (B, N, D) at those points; they get no gradient.
        fundamental: F (B, 3, 3) from the first to the second view, and back.
        penalty: see `pair_loss`.
        sharp: similarities are multiplied by it.
    """
    made = []
    for n in range(len(descriptors[0])):  # one pair at a time, because a matrix over all cells is large
        kept = tuple(each.accepted[n] for each in found)
        at = tuple(each.at[n][keep] for each, keep in zip(found, kept, strict=True))
        with torch.no_grad():
            alike = sharp * (descriptors[0][n] @ descriptors[1][n].T - 1)
            log_match = (alike.log_softmax(1) + alike.log_softmax(0))[kept[0]][:, kept[1]]
            reward = rewards(at[0], at[1], fundamental[0][n], fundamental[1][n])
            match = log_match.exp()
            good = reward > 0
            share = _precision(alike[kept[0]][:, kept[1]], good)
        logp = found[0].logp[n][kept[0]], found[1].logp[n][kept[1]]
        loss = pair_loss(logp, reward, match, log_match, penalty)
        counts = (torch.cat(kept).sum() / 2, (match * good).sum(), share)
        made.append((loss, *(value.float() for value in counts)))
    loss, accepted, correct, precision = (torch.stack(values) for values in zip(*made, strict=True))
    return Outcome(loss.sum(), accepted.mean(), correct.mean(), precision.mean())


def _precision(alike: Tensor, good: Tensor) -> Tensor:
    """The share of mutual nearest neighbours that are good; 0 where there are none."""
    if not alike.numel():
        return alike.new_zeros(())
    there, back = alike.argmax(1), alike.argmax(0)
    mutual = back[there] == torch.arange(len(there), device=there.device)
    right = good.gather(1, there[:, None])[:, 0]
    return (mutual & right).sum() / mutual.sum().clamp(min=1)
