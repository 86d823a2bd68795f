"""Losses of KP2D (arXiv 1912.10615, section 3): one value per pair, (B,).

Points are x, y in pixels; N is the number of cells, M that of inner cells (all but the outermost ring). Gradients do
not flow through the places where a map is sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.train.losses.correspondence import mean_over
from lf.train.views import random_views

NEAR = 4.0  # px: a point closer than this to a warped point is its match; negatives are farther away in x or in y
MARGIN = 0.2  # of the triplet loss
FEWEST = 20  # least number of correspondences of a pair in the triplet loss
INLIERS = 10  # a batch with at most this many right matches has no IO loss


@dataclass(frozen=True)
class Points:
    """Output of the network for the cells of a batch of views.

    Attributes:
        score: (B, h, w) probabilities, 0 in the outermost ring of cells.
        at: (B, N, 2) x, y in px, inside the view; cells in row-major order.
        feat: (B, D, h', w') un-normalised.
        cell: side of a cell, px.
        size: (H, W) of the view, px.
        aligned: `align_corners` for sampling `feat`, as in `lf.models.kp2d.decode.describe_kp2d`.
    """

    score: Tensor
    at: Tensor
    feat: Tensor
    cell: int
    size: tuple[int, int]
    aligned: bool

    def inner(self) -> Tensor:
        """Indices (M,) of the cells that are not in the outermost ring."""
        return _ring(self.score).logical_not().flatten().nonzero()[:, 0]

    def describe(self, points: Tensor) -> Tensor:
        """Unit descriptors (B, K, D) at points (B, K, 2) px."""
        return F.normalize(self._read(self.feat, points), dim=2)

    def score_at(self, points: Tensor) -> Tensor:
        """Scores (B, K) at points (B, K, 2) px, bilinear between the cells."""
        return self._read(self.score[:, None], points)[..., 0]

    def share(self, points: Tensor) -> Tensor:
        """Convert pixels (..., 2) to normalised coordinates of the view, in [-1, 1]."""
        return points / points.new_tensor([self.size[1] - 1, self.size[0] - 1]) * 2 - 1

    def _read(self, values: Tensor, points: Tensor) -> Tensor:
        grid = self.share(points.detach())[:, None]
        read = F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=self.aligned)
        return read[:, :, 0].transpose(1, 2)


def decode(score: Tensor, shift: Tensor, feat: Tensor, size: tuple[int, int], cross: bool, aligned: bool) -> Points:
    """Decode raw heads (B, 1, h, w), (B, 2, h, w), (B, D, h', w') of views of (H, W) px; see `lf.models.kp2d`.

    With `cross` a point may leave its cell, by up to half a cell.
    """
    rows, columns = score.shape[2:]
    cell = size[0] // rows
    y, x = torch.meshgrid(*(torch.arange(n, device=score.device) for n in (rows, columns)), indexing="ij")
    middle = (cell - 1) / 2
    at = torch.stack([x, y]) * cell + middle + shift.tanh() * (middle * (2 if cross else 1))
    at = torch.minimum(at.clamp(min=0), at.new_tensor([size[1] - 1, size[0] - 1]).view(2, 1, 1))
    probability = score[:, 0].sigmoid()
    probability = probability.masked_fill(_ring(probability), 0.0)
    return Points(probability, at.flatten(2).transpose(1, 2), feat, cell, size, aligned)


def _ring(score: Tensor) -> Tensor:
    """Return a mask (h, w) of the outermost ring of cells."""
    ring = torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device)
    ring[1:-1, 1:-1] = False
    return ring


@dataclass(frozen=True)
class Match:
    """Inner cells of the sources, and the target points nearest to their warped points.

    Attributes:
        cells: (M,) indices of inner cells of the source.
        warped: (B, M, 2) their points in the target, px.
        partner: (B, M) the target cell with the nearest point.
        distance: (B, M) px to it.
        inside: (B, M) bool, the warped point is inside the target.
        valid: (B, M) bool, inside and closer than 4 px.
    """

    cells: Tensor
    warped: Tensor
    partner: Tensor
    distance: Tensor
    inside: Tensor
    valid: Tensor


def associate(source: Points, target: Points, homography: Tensor) -> Match:
    """Find the nearest target point of every inner source cell, with homographies (B, 3, 3) from source to target.

    A point cannot be farther than a cell from its centre, so only cells around the warped point are compared; a
    nearest point 4 px away or more may be missed, and is never valid.
    """
    cells = source.inner()
    warped = random_views.warp_points(source.at[:, cells], homography)
    rows, columns = target.score.shape[1:]
    with torch.no_grad():
        last = warped.new_tensor([target.size[1] - 1, target.size[0] - 1])
        inside = ((warped >= 0) & (warped <= last)).all(-1)
        grid = torch.tensor([columns, rows], device=warped.device)
        home = (torch.minimum(warped.clamp(min=0), last) / target.cell).long().minimum(grid - 1)
        # largest distance in cells between a pixel and a point within 4 px, both off their cell centres
        reach = int((NEAR + (target.cell + 1) / 2 + target.cell - 1) / target.cell)
        step = torch.arange(-reach, reach + 1, device=warped.device)
        around = home[:, :, None] + torch.cartesian_prod(step, step)  # (B, M, K, 2)
        exists = ((around >= 0) & (around < grid)).all(-1)
        index = torch.where(exists, around[..., 1] * columns + around[..., 0], 0)
        near = gather(target.at, index.flatten(1)).view(*index.shape, 2)
        far = (near - warped[:, :, None]).square().sum(-1).masked_fill(~exists, torch.inf)
        partner = index.gather(2, far.argmin(2, keepdim=True))[..., 0]
    distance = torch.linalg.vector_norm(warped - gather(target.at, partner), dim=-1)
    return Match(cells, warped, partner, distance, inside, inside & (distance < NEAR))


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Gather rows of (B, N, D) at indices (B, K): (B, K, D)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def location(match: Match) -> Tensor:
    """Mean distance of the valid matches, px."""
    return mean_over(match.distance, match.valid)


def usp(source: Points, target: Points, match: Match) -> Tensor:
    """Mean of (score + score of the partner) * (distance - mean distance): it raises scores of repeatable points.

    As published, the distance has a gradient here, too; it is larger where scores are high.
    """
    scores = source.score.flatten(1)[:, match.cells] + target.score.flatten(1).gather(1, match.partner)
    return mean_over(scores * (match.distance - location(match)[:, None]), match.valid)


def consistency(source: Points, target: Points, match: Match) -> Tensor:
    """Twice the mean squared difference between a source score and the target score at the warped point."""
    difference = target.score_at(match.warped) - source.score.flatten(1)[:, match.cells]
    return 2 * mean_over(difference.square(), match.inside)


def triplet(one: Tensor, two: Tensor, at: Tensor, valid: Tensor) -> Tensor:
    """Triplet loss with the hardest negative, 0.2 farther than the positive; 0 for fewer than 20 correspondences.

    Distances are sqrt(2 - 2 cos).

    Args:
        one: unit descriptors (B, K, D) of points of the source.
        two: unit descriptors (B, K, D) of the target at the warped points.
        at: (B, K, 2) px, the warped points. A negative is more than 4 px away in x or y.
        valid: (B, K) bool: correspondences that count; the others are not used as negatives either.
    """
    with torch.no_grad():
        x, y = at.unbind(2)
        same = ((x[:, :, None] - x[:, None]).abs() <= NEAR) & ((y[:, :, None] - y[:, None]).abs() <= NEAR)
        similarity = (one @ two.transpose(1, 2)).masked_fill_(same | ~valid[:, None], -torch.inf)
        best, hardest = similarity.max(2)
    hinge = (apart(one, two) - apart(one, gather(two, hardest)) + MARGIN).clamp(min=0)
    valid = valid & best.isfinite()
    return mean_over(hinge, valid) * (valid.sum(1) >= FEWEST)


def apart(one: Tensor, two: Tensor) -> Tensor:
    """Distance sqrt(2 - 2 cos) of unit descriptors (..., D), with a finite gradient at 0."""
    return (2 - 2 * (one * two).sum(-1)).clamp(min=1e-6).sqrt()


def inlier(
    net: nn.Module, source: Points, target: Points, homography: Tensor, count: int, lowest: bool, batch: int
) -> Tensor:
    """Squared error of IO-Net. Its target is 1 for a match within 4 px and -1 for other matches.

    The published code sorts in the wrong direction and takes the cells with the LOWEST scores (`lowest`). It omits the
    loss if the whole batch has 10 right matches or fewer. Here each pair is omitted by its share of these 10, so that
    a batch can be divided among processes.

    Args:
        net: (B, 5, K) -> (B, K).
        source: points of one view.
        target: points of the other view.
        homography: (B, 3, 3) from source to target.
        count: K, number of cells of each view to match by descriptors, those with the highest scores.
        lowest: take the cells with the lowest scores instead.
        batch: number of pairs of the batch over all processes.
    """
    one, first = _best(source, count, lowest)
    two, second = _best(target, count, lowest)
    partner = (one.detach() @ two.detach().transpose(1, 2)).argmax(2)
    matched = gather(second, partner)
    rows = [source.share(first), target.share(matched), apart(one, gather(two, partner))[..., None]]
    error = torch.linalg.vector_norm(random_views.warp_points(first, homography) - matched, dim=-1)
    right = error.detach() < NEAR
    judged = net(torch.cat(rows, 2).transpose(1, 2))
    squared = (judged - torch.where(right, 1.0, -1.0)).square().mean(1)
    counted: Tensor = squared * (right.sum(1) * batch > INLIERS)
    return counted


def _best(points: Points, count: int, lowest: bool) -> tuple[Tensor, Tensor]:
    """Descriptors (B, K, D) and points (B, K, 2) of the cells with the highest scores, or the lowest."""
    score = points.score.detach().flatten(1)
    index = score.topk(min(count, score.shape[1]), dim=1, largest=not lowest).indices
    at = gather(points.at, index)
    return points.describe(at), at
