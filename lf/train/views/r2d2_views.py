"""Training pairs of R2D2: two views, and the position of each pixel of the first in the second.

Image 1 is the picture at a random size; image 2 is it seen at a tilt, with noise, at another random size and in other
colours. From both a window of the same content is cut, the best of several trials, and brought to the training size
(arXiv 1906.06195, section 4.1, and the published code). All of this is planned as homographies in float64 on the CPU;
a view is then sampled from the picture in one step, from the level of its pyramid that has the image's resolution.

"Unit" coordinates run from -0.5 to 0.5 between the outer edges of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lf.core import UsageError
from lf.train.views import colour, random_views
from lf.train.views.random_views import Dice

LEVELS = 3  # of the pyramid: pictures at 1, 1/2 and 1/4
SCALES = (0.2, 5.0)  # a trial whose views differ more in scale is no good
CELLS = 16  # of the grid on which the coverage of the second window is counted
PROBES = 48  # points along a side of the first window at which a trial is judged


class Pair(NamedTuple):
    """Views (B, C, H, W) in [0, 1], and `aflow` (B, 2, H, W): x, y in the second view, NaN outside of it."""

    first: Tensor
    second: Tensor
    aflow: Tensor


@dataclass(frozen=True)
class Changes:
    """How the images of a pair may differ.

    Attributes:
        shorter: least and largest shorter side of an image, px (log-uniform).
        tilt: largest growth of one side of the picture at both its ends, as a share of the side.
        noise: width of the uniform noise, in 8-bit levels.
        jitter: largest change of brightness, contrast, saturation and hue.
        trials: windows that are tried per pair.
    """

    shorter: tuple[float, float] = (256.0, 1024.0)
    tilt: float = 0.5
    noise: float = 25.0
    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.2, 0.1)
    trials: int = 5


class Draw(NamedTuple):
    """The random numbers of some pairs (B, ...), so that one pair can be planned alone."""

    shorter: Tensor  # (B, 2) px
    tilt: Tensor  # (B, 3, 3) unit coordinates of the tilted image -> of the picture
    centres: Tensor  # (B, trials, 2) in [-0.5, 0.5]


class Plan(NamedTuple):
    """Homographies (B, 3, 3) from pixels of either view to those of its picture; pyramid levels (B,)."""

    first: Tensor
    second: Tensor
    levels: tuple[Tensor, Tensor]


def draw(dice: Dice, changes: Changes, size: tuple[int, int]) -> Draw:
    """Draw what `synthetic` and `flow_pairs.views_of` need; a view of (H, W) fits in every image.

    Raises:
        UsageError: the largest image is smaller than a view.
    """
    low, high = max(changes.shorter[0], *size), changes.shorter[1]
    if low > high:
        raise UsageError(
            f"a view of {size[0]}x{size[1]} px does not fit in images of {high:g} px; set shorter, or size"
        )
    shorter = dice.uniform(math.log(low), math.log(high), 2).double().exp()
    tilt = tilts(dice.uniform(0, changes.tilt).double(), dice.integers(4))
    return Draw(shorter, tilt, dice.uniform(-0.5, 0.5, changes.trials, 2).double())


def tilts(amount: Tensor, side: Tensor) -> Tensor:
    """Homographies (B, 3, 3) from a tilted image to the picture, in unit coordinates.

    One side (B,) of the picture, counted from the left one, grows at both ends by `amount` (B,) of its length; what
    leaves the frame is cut off, so the tilted image is full.
    """
    corners = amount.new_tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]).expand(len(amount), 4, 2)
    growth = amount.new_tensor([[0.0, -1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    left = random_views.four_point(corners + amount[:, None, None] * growth, corners)
    angle = side.double() * (math.pi / 2)
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one], -1)
    turn = turn.view(-1, 3, 3)
    return turn @ left @ turn.mT


def unit(width: Tensor, height: Tensor) -> Tensor:
    """(B, 3, 3) float64 from unit coordinates to pixels of images (B,) wide and high."""
    zero, one = torch.zeros_like(width), torch.ones_like(width)
    rows = [width, zero, (width - 1) / 2, zero, height, (height - 1) / 2, zero, zero, one]
    return torch.stack(rows, -1).double().view(-1, 3, 3)


def plan(drawn: Draw, side: int, size: tuple[int, int]) -> tuple[Plan, Tensor]:
    """Plan views of square pictures of `side` px; also (B, 3, 3) from the first view to the second."""
    one, two = drawn.shorter.unbind(1)
    full = torch.full_like(one, side)
    first = unit(full, full) @ unit(one, one).inverse()
    second = unit(full, full) @ drawn.tilt @ unit(two, two).inverse()
    onward = second.inverse() @ first  # image 1 -> image 2
    there = random_views.warp_points(drawn.centres, unit(two, two))
    here = random_views.warp_points(there, onward.inverse())
    weight = here @ onward[:, 2, :2, None] + onward[:, 2:, 2:]
    scale = (onward.det()[:, None] / weight[..., 0] ** 3).abs().sqrt()

    def follow(points: Tensor) -> Tensor:
        return random_views.warp_points(points.flatten(1, 2), onward).view_as(points)

    crops = windows(here, there, scale, drawn.shorter.unsqueeze(2).expand(-1, -1, 2), size, follow)
    levels = ((side / one).log2(), (side / torch.minimum(one, two)).log2())  # image 2 is made of image 1
    made = Plan(first @ crops[0], second @ crops[1], levels)
    return made, crops[1].inverse() @ onward @ crops[0]


def windows(
    here: Tensor,
    there: Tensor,
    scale: Tensor,
    images: Tensor,
    size: tuple[int, int],
    follow: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Try windows around corresponding centres, and keep the best trial of each pair.

    A window has the pixels of a view in the image with the lower resolution there, and covers the same content in the
    other. A trial scores the smaller of two shares: of probes in the first window that fall into the second, and of
    the second window's CELLS x CELLS cells that are hit. A scale outside SCALES scores nothing.

    Args:
        here: (B, trials, 2) centres, px of image 1.
        there: the same of image 2.
        scale: (B, trials) pixels of image 2 per pixel of image 1.
        images: (B, 2, 2) width and height of both images.
        size: (H, W) of a view.
        follow: points (B, trials, N, 2) of image 1 -> of image 2; NaN is nowhere.

    Returns:
        (B, 3, 3) from pixels of the views to pixels of image 1, and of image 2.
    """
    whole = torch.tensor([size[1], size[0]], dtype=torch.float64)
    seen = scale.clamp(*SCALES)[..., None]
    extents = (whole / seen.clamp(min=1), whole * seen.clamp(max=1))  # (B, trials, 2)
    starts = []
    for centre, extent, image in zip((here, there), extents, images.unbind(1), strict=True):
        start = torch.minimum(centre - extent / 2, image[:, None] - 0.5 - extent)
        starts.append(start.clamp(min=-0.5))
    axis = (torch.arange(PROBES, dtype=torch.float64) + 0.5) / PROBES
    probes = torch.cartesian_prod(axis, axis) * extents[0][:, :, None] + starts[0][:, :, None]
    hits = (follow(probes) - starts[1][:, :, None]) / extents[1][:, :, None]  # (B, trials, N, 2), inside: [0, 1)
    score = _score(hits)
    score = torch.where((scale > SCALES[0]) & (scale < SCALES[1]), score, -1.0)
    best = score.argmax(1)[:, None, None].expand(-1, 1, 2)
    chosen = []
    for start, extent in zip(starts, extents, strict=True):
        ratio = (extent.gather(1, best)[:, 0]) / whole  # (B, 2) image pixels per view pixel
        corner = start.gather(1, best)[:, 0] + ratio / 2
        crop = torch.diag_embed(F.pad(ratio, (0, 1), value=1.0))
        crop[:, :2, 2] = corner
        chosen.append(crop)
    return chosen[0], chosen[1]


def _score(hits: Tensor) -> Tensor:
    """(B, trials, N, 2) places in the second window, in its sides -> (B, trials)."""
    inside = ((hits >= 0) & (hits < 1)).all(-1)
    cell = (hits.nan_to_num(0).clamp(0, 1 - 1e-9) * CELLS).long()
    covered = torch.zeros(*hits.shape[:2], CELLS * CELLS, dtype=torch.float64)
    covered.scatter_reduce_(2, cell[..., 1] * CELLS + cell[..., 0], inside.double(), "amax")
    return torch.minimum(inside.double().mean(2), covered.mean(2))


def look(pictures: Tensor, homography: Tensor, level: Tensor, size: tuple[int, int]) -> Tensor:
    """Views (B, C, H, W) of pictures (B, C, h, w) as an image of resolution 2 ** -level (B,) of the picture shows them.

    Args:
        pictures: in [0, 1], on the training device.
        homography: (B, 3, 3) from pixels of a view to those of its picture.
        level: below 0 the picture itself; between whole levels both are mixed.
        size: (H, W).
    """
    level = level.clamp(0, LEVELS - 1)
    view = pictures.new_zeros(*pictures.shape[:2], *size)
    for depth in range(LEVELS):
        weight = (1 - (level - depth).abs()).clamp(min=0)
        if depth:
            pictures = F.avg_pool2d(pictures, 2)
        if weight.any():
            shrink = torch.diag(torch.tensor([0.5**depth, 0.5**depth, 1.0], dtype=torch.float64))
            shrink[:2, 2] = 0.5 ** (depth + 1) - 0.5  # (x + 0.5) / 2 ** depth - 0.5
            part = random_views.render(pictures, shrink @ homography, size)[0]
            view += part * weight.to(view)[:, None, None, None]
    return view


def grid(size: tuple[int, int], device: torch.device) -> Tensor:
    """Pixels (1, H * W, 2) of a view, x then y, row by row."""
    y, x = torch.meshgrid(*(torch.arange(s, dtype=torch.float32, device=device) for s in size), indexing="ij")
    return torch.stack([x, y], -1).view(1, -1, 2)


def within(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Points (B, H * W, 2) of the second view -> aflow (B, 2, H, W), NaN outside of it."""
    last = points.new_tensor([size[1] - 1, size[0] - 1])
    inside = ((points >= 0) & (points <= last)).all(-1, keepdim=True)
    return torch.where(inside, points, torch.nan).mT.reshape(-1, 2, *size)


def synthetic(pictures: Tensor, drawn: Draw, size: tuple[int, int]) -> Pair:
    """Pairs of square pictures (B, C, P, P) with exact flow, before noise and colour."""
    made, between = plan(drawn, pictures.shape[-1], size)
    first = look(pictures, made.first, made.levels[0], size)
    second = look(pictures, made.second, made.levels[1], size)
    between = (between / between[:, 2:, 2:]).to(pictures.device, torch.float32)
    points = grid(size, pictures.device).expand(len(pictures), -1, -1)
    return Pair(first, second, within(random_views.warp_points(points, between), size))


def spoil(second: Tensor, dice: Dice, changes: Changes) -> Tensor:
    """Noise and other colours for the second views (B, C, H, W)."""
    noise = (dice.rand(*second.shape[1:]) - 0.5) * (changes.noise / 255)
    return colour.jitter((second + noise).clamp(0, 1), dice.uniform(-1, 1, 4), changes.jitter)
