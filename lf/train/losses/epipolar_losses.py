"""Descriptor losses from camera poses (PoSFeat, arXiv 2203.12993): line search, then a window.

A point of one view lies on an epipolar line of the other. The most similar place on that line, found without gradient,
is the anchor. The loss is the distance from the line to the expected match in a window around the anchor.

Pixels are (x, y), centres at integers. Normalised coordinates are those of `grid_sample`, -1 to 1; see `normalised`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-10  # lower bound of the variance and the deviation of an expectation


@dataclass(frozen=True)
class Search:
    """Settings of the search for matches.

    Attributes:
        size: (H, W) of a view, px.
        corners: True: the centres of the outermost pixels have the coordinates -1 and 1, as published. False: the
            outer edges of the image have.
        steps: number of points on a line, including both ends.
        window: half the side of the window, normalised. It has half as many points along an axis as it covers cells.
        noise: largest shift of an anchor, normalised.
        temperature: similarities are multiplied by it.
        mask: share of the shorter side; queries farther from their line than that do not count.
    """

    size: tuple[int, int]
    corners: bool = True
    steps: int = 100
    window: float = 0.1
    noise: float = 0.0707
    temperature: float = 60.0
    mask: float = 0.1


class Found(NamedTuple):
    """Matches of N points in the other view, (B, N) each: see `match`."""

    expected: Tensor  # (B, N, 2) px
    deviation: Tensor  # normalised, of both axes together
    distance: Tensor  # px, from the expected place to the line
    valid: Tensor  # bool: the line crosses the view, and the anchor lies in it


def normalised(points: Tensor, size: tuple[int, int], corners: bool) -> Tensor:
    """Convert pixels (..., 2) to normalised coordinates."""
    middle, half = _frame(points, size, corners)
    return (points - middle) / half


def pixels(places: Tensor, size: tuple[int, int], corners: bool) -> Tensor:
    """Convert normalised coordinates (..., 2) to pixels."""
    middle, half = _frame(places, size, corners)
    return places * half + middle


def _frame(like: Tensor, size: tuple[int, int], corners: bool) -> tuple[Tensor, Tensor]:
    side = like.new_tensor([size[1], size[0]])
    return (side - 1) / 2, (side - 1) / 2 if corners else side / 2


def read(maps: Tensor, places: Tensor, padding: str = "zeros") -> Tensor:
    """Sample maps (B, D, h, w) at normalised places (B, N, M, 2), bilinearly: (B, N, M, D)."""
    return F.grid_sample(maps, places, padding_mode=padding, align_corners=False).permute(0, 2, 3, 1)


def describe(maps: Tensor, points: Tensor, size: tuple[int, int], corners: bool) -> Tensor:
    """Sample raw maps (B, D, h, w) at pixels (B, N, 2): unit descriptors (B, N, D)."""
    return F.normalize(read(maps, normalised(points, size, corners)[:, :, None])[:, :, 0], dim=2)


def lines(points: Tensor, fundamental: Tensor) -> Tensor:
    """Return epipolar lines (B, N, 3), a x + b y + c = 0, of points (B, N, 2) of the other view, under F (B, 3, 3)."""
    found: Tensor = F.pad(points, (0, 1), value=1.0) @ fundamental.mT
    return found


def distances(points: Tensor, line: Tensor) -> Tensor:
    """Return the distances (...) in px from points (..., 2) to lines (..., 3)."""
    along = (F.pad(points, (0, 1), value=1.0) * line).sum(-1).abs()
    length: Tensor = torch.linalg.vector_norm(line[..., :2], dim=-1)
    return along / length.clamp(min=1e-8)


def clip(line: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Clip lines (B, N, 3) to a view of (H, W): their two ends (B, N, 2, 2) px, and whether they cross it (B, N) bool.

    Ends lie on the outermost pixels. A line through a corner meets more or fewer than two edges; it counts as missing
    the view.
    """
    last = line.new_tensor([size[1] - 1, size[0] - 1])
    a, b, c = line.unbind(-1)
    left, top = torch.zeros_like(a), torch.zeros_like(a)
    right, bottom = left + last[0], top + last[1]
    ends = [
        *(torch.stack([x, -(a * x + c) / b], -1) for x in (left, right)),
        *(torch.stack([-(b * y + c) / a, y], -1) for y in (top, bottom)),
    ]
    met = torch.stack(ends, 2)  # (B, N, 4, 2)
    inside = ((met >= 0) & (met <= last)).all(-1)  # False for nan and inf
    first = inside.int().sort(dim=2, descending=True, stable=True).indices[..., :2]
    chosen = met.gather(2, first[..., None].expand(-1, -1, -1, 2))
    valid = inside.sum(2) == 2
    return torch.where(valid[..., None, None], chosen, 0.0), valid


def queries(random: Tensor, size: tuple[int, int], cell: int) -> Tensor:
    """Choose one pixel (B, N, 2) in every whole cell of a view, by uniform `random` (B, N, 2) in [0, 1)."""
    rows, columns = size[0] // cell, size[1] // cell
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corner = torch.stack([x, y], -1).view(-1, 2).to(random.device) * cell
    return corner + (random * cell).floor().clamp(max=cell - 1)


@torch.no_grad()
def anchors(wanted: Tensor, maps: Tensor, line: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """Return the most similar places (B, N, 2), normalised, on lines (B, N, 3), and a mask of crossing lines (B, N).

    Args:
        wanted: unit descriptors (B, N, D).
        maps: (B, D, h, w) of the other view, of unit length at every place, times the temperature.
        line: of each query.
        search: the settings.
    """
    ends, valid = clip(line, search.size)
    start, end = normalised(ends, search.size, search.corners).unbind(2)
    share = torch.linspace(0, 1, search.steps, device=line.device)[:, None]
    places = start[:, :, None] + share * (end - start)[:, :, None]  # (B, N, steps, 2)
    alike = torch.einsum("bnd,bnmd->bnm", wanted, read(maps, places, "border"))
    best = alike.argmax(2)[..., None, None].expand(-1, -1, 1, 2)
    return places.gather(2, best)[:, :, 0], valid


def match(one: Tensor, two: Tensor, points: Tensor, fundamental: Tensor, search: Search, random: Tensor) -> Found:
    """Find points of one view in another.

    Args:
        one: raw descriptors (B, D, h, w) of the view of the points.
        two: those of the other view.
        points: (B, N, 2) px.
        fundamental: (B, 3, 3), points of the first -> lines of the second.
        search: the settings.
        random: (B, N, 2) in [-1, 1], shares of the noise.
    """
    wanted = describe(one, points, search.size, search.corners)
    maps = F.normalize(two, dim=1) * search.temperature
    line = lines(points, fundamental)
    anchor, crosses = anchors(wanted, maps, line, search)
    anchor = anchor + random * search.noise
    reach = [
        torch.linspace(-search.window, search.window, max(3, int(search.window * side)), device=two.device)
        for side in (two.shape[3], two.shape[2])
    ]
    y, x = torch.meshgrid(reach[1], reach[0], indexing="ij")
    places = anchor[:, :, None] + torch.stack([x, y], -1).view(-1, 2)
    share = torch.einsum("bnd,bnmd->bnm", wanted, read(maps, places)).softmax(2)[..., None]
    expected = (share * places).sum(2)
    variance = (share * places.square()).sum(2) - expected.square()
    deviation = variance.clamp(min=TINY).sqrt().sum(2)
    valid = crosses & (anchor.abs() <= 1).all(2)
    found = pixels(expected, search.size, search.corners)
    return Found(found, deviation, distances(found, line), valid)


def weights(found: Found, search: Search) -> Tensor:
    """Return the weight of each query (B, N), 1 on average: larger for certain matches, 0 far from the line."""
    kept = found.valid & (found.distance < search.mask * min(search.size))
    sure = 1 / found.deviation.detach().clamp(min=TINY)
    weight = sure / sure.mean() * kept
    return weight / (weight.mean() + 1e-8)


def description(found: Found, search: Search) -> Tensor:
    """Return the mean weighted distance of matches to their lines, px."""
    return (weights(found, search) * found.distance).mean()
