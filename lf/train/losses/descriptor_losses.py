"""DESCRIPTOR_LOSSES of SuperPoint: losses between the descriptors of two views.

A loss takes a `Pair` and keyword settings and returns (B,) float32, one number per pair of views. Similarities are dot
products of unit descriptors, between any cell of the first view and any cell of the second: (B, h w, h w).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lf.models.decode import CELL
from lf.train.views import random_views

MATCH, OTHER = 1.0, 0.2  # similarity that a match must reach, and that no other pair must exceed: the paper's margins
MATCH_WEIGHT = 250.0  # of a match in the dense loss: lambda_d of the paper
RADIUS = 8.0  # px: cells that warp this near match in the dense loss


@dataclass(frozen=True)
class Pair:
    """The descriptors of two views and what is known about them.

    Attributes:
        first: (B, D, h, w) descriptors of the cells of the first view, of any length.
        second: the same of the second view.
        homography: (B, 3, 3) from pixels of the first view to pixels of the second.
        valid: (B, h, w) bool of the first view: cells that show the image.
        valid_second: the same of the second view.
        centres: True: cell i stands for pixel 8 i + 3.5 and is read at i, as in `lf.models.wren.decode.describe_wren`.
            False: cell i stands for pixel 8 i and is read at i (n - 1) / n, as in the published decoder of SuperPoint.
    """

    first: Tensor
    second: Tensor
    homography: Tensor
    valid: Tensor
    valid_second: Tensor
    centres: bool

    def descriptors(self) -> tuple[Tensor, Tensor]:
        """Return the descriptors of both views, (B, h w, D): normalised, read at every cell, not normalised again."""
        return self._read(self.first), self._read(self.second)

    def _read(self, descriptor: Tensor) -> Tensor:
        unit = F.normalize(descriptor.float(), dim=1)
        if not self.centres:
            height, width = unit.shape[2:]
            unit = _shrink(height, unit) @ unit @ _shrink(width, unit).T
        return unit.flatten(2).transpose(1, 2)

    def warped(self) -> tuple[Tensor, Tensor]:
        """Warp the cells of the first view into the second.

        Returns:
            Warped cells (B, h w, 2), and the cells of the second view (h w, 2) to compare them with; x, y in px.
        """
        height, width = self.first.shape[2:]
        device = self.homography.device
        y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
        pixels = torch.stack([x, y], -1).reshape(-1, 2).double() * CELL + self.offset
        return random_views.warp_points(pixels.expand(len(self.first), -1, -1), self.homography.double()), pixels

    @property
    def offset(self) -> float:
        """Pixel that cell 0 stands for."""
        return (CELL - 1) / 2 if self.centres else 0.0


def _shrink(count: int, like: Tensor) -> Tensor:
    """Return the matrix (count, count) that reads `count` values at i (count - 1) / count, bilinearly."""
    cell = torch.arange(count, dtype=like.dtype, device=like.device)
    at = cell * (count - 1) / count
    return (1 - (at[:, None] - cell).abs()).clamp(min=0)


def sparse(pair: Pair, rand: Callable[..., Tensor], *, matches: int = 1000, negatives: int = 100) -> Tensor:
    """Hinge loss over a sample of matching cells, with random cells as negatives of each.

    A cell matches if its warped pixel, rounded to a cell, is inside the second view. If there are more than `matches`
    of them, a random sample is used; if fewer, each is used once. Every match is compared with `negatives` random
    cells. A random cell that is within one cell of the partner is moved by half the view, with wrap-around.

    Loss: mean of max(0, MATCH - s) over matches, plus sum of max(0, s - OTHER) / (number above 0 + 1) over negatives.

    Args:
        pair: the descriptors.
        rand: shape -> (B, *shape) uniform numbers in [0, 1), on the device of the descriptors.
        matches: largest number of matches per pair.
        negatives: wrong partners per match.
    """
    height, width = pair.first.shape[2:]
    count = height * width
    warped, _ = pair.warped()
    cell = ((warped - pair.offset) / CELL).round()
    limit = torch.tensor([width, height], device=cell.device)
    inside = ((cell >= 0) & (cell < limit)).all(-1)
    cell = torch.where(inside[..., None], cell, 0).long()
    partner = cell[..., 1] * width + cell[..., 0]
    usable = inside & pair.valid.flatten(1) & pair.valid_second.flatten(1).gather(1, partner)
    chosen = (rand(count) + usable).topk(min(matches, count), dim=1).indices
    usable, partner = usable.gather(1, chosen), partner.gather(1, chosen)

    one, two = pair.descriptors()
    one = one.gather(1, chosen[..., None].expand(-1, -1, one.shape[2]))
    similarity = one @ two.transpose(1, 2)  # (B, matches, h w)
    close = (MATCH - similarity.gather(2, partner[..., None])[..., 0]).clamp(min=0)
    positive = (close * usable).sum(1) / usable.sum(1).clamp(min=1)

    drawn = (rand(partner.shape[1], negatives) * count).long().clamp(max=count - 1)
    x, y = drawn % width, drawn // width
    near = torch.maximum((x - partner[..., None] % width).abs(), (y - partner[..., None] // width).abs()) <= 1
    moved = (y + height // 2) % height * width + (x + width // 2) % width
    # how often each cell was drawn: a dense count, because indexed sums of gradients have no fixed order on a GPU
    times = torch.zeros(similarity.shape, dtype=torch.int32, device=similarity.device)
    times.scatter_add_(2, torch.where(near, moved, drawn), torch.ones_like(drawn, dtype=torch.int32))
    times = times * usable[..., None]
    excess = (similarity - OTHER).clamp(min=0)
    negative = (times * excess).sum((1, 2)) / ((times * (excess > 0)).sum((1, 2)) + 1)
    return positive + negative


def dense(pair: Pair, rand: Callable[..., Tensor]) -> Tensor:
    """Hinge loss over all pairs of valid cells, mean: eqs. 5 and 6 of arXiv 1712.07629.

    Args:
        pair: the descriptors.
        rand: not used; nothing here is random.
    """
    warped, pixels = pair.warped()
    same = torch.cdist(warped, pixels.expand_as(warped), compute_mode="donot_use_mm_for_euclid_dist") <= RADIUS
    one, two = pair.descriptors()
    similarity = one @ two.transpose(1, 2)
    attract = MATCH_WEIGHT * (MATCH - similarity).clamp(min=0)
    repel = (similarity - OTHER).clamp(min=0)
    valid = pair.valid.flatten(1)[:, :, None] & pair.valid_second.flatten(1)[:, None, :]
    return (torch.where(same, attract, repel) * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


DESCRIPTOR_LOSSES: dict[str, Callable[..., Tensor]] = {"sparse": sparse, "dense": dense}
