"""Training pairs of R2D2: two views, and the position of each pixel of the first in the second.

Image 1 is the training image at a random size. Image 2 is the training image tilted, at another random size, with noise
and other colours. A window of the same content is cut from both, the best of several trials, and resized to the
training size (arXiv 1906.06195, section 4.1, and the published code). The views are planned as homographies in float64
on the CPU. Each view is then sampled in one step, from the pyramid level of the training image with the resolution of
image 1 or 2.

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

LEVELS = 3  # of the pyramid: images at 1, 1/2 and 1/4
SCALES = (0.2, 5.0)  # a trial is rejected if the scales of its views differ more
CELLS = 16  # cells along a side of the grid that measures the coverage of the second window
PROBES = 48  # points along a side of the first window that score a trial


class Pair(NamedTuple):
    """Views (B, C, H, W) in [0, 1], and `aflow` (B, 2, H, W): x, y in the second view, NaN outside."""

    first: Tensor
    second: Tensor
    aflow: Tensor


@dataclass(frozen=True)
class Changes:
    """Settings of the differences between the images of a pair.

    Attributes:
        shorter: least and largest shorter side of an image, px (log-uniform).
        tilt: largest growth of one side of the image at each end, as a share of the side.
        noise: width of the uniform noise, in 8-bit levels.
        jitter: largest change of brightness, contrast, saturation and hue.
        trials: number of windows to try per pair.
    """

    shorter: tuple[float, float] = (256.0, 1024.0)
    tilt: float = 0.5
    noise: float = 25.0
    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.2, 0.1)
    trials: int = 5


class Draw(NamedTuple):
    """Random numbers of pairs (B, ...), so that a single pair can be planned."""

    shorter: Tensor  # (B, 2) px
    tilt: Tensor  # (B, 3, 3) from unit coordinates of the tilted image to those of the training image
    centres: Tensor  # (B, trials, 2) in [-0.5, 0.5]


class Plan(NamedTuple):
    """Homographies (B, 3, 3) from pixels of each view to pixels of the training image; pyramid levels (B,)."""

    first: Tensor
    second: Tensor
    levels: tuple[Tensor, Tensor]


def draw(dice: Dice, changes: Changes, size: tuple[int, int]) -> Draw:
    """Draw the random numbers of `synthetic` and `flow_pairs.views_of`. Views of (H, W) fit in every image.

    Raises:
        UsageError: the largest image is smaller than a view.
    """
    low, high = max(changes.shorter[0], *size), changes.shorter[1]
    if low > high:
        raise UsageError(
            f"a view of {size[0]}x{size[1]} px does not fit in images of {high:g} px; increase shorter or decrease size"
        )
    shorter = dice.uniform(math.log(low), math.log(high), 2).double().exp()
    tilt = tilts(dice.uniform(0, changes.tilt).double(), dice.integers(4))
    return Draw(shorter, tilt, dice.uniform(-0.5, 0.5, changes.trials, 2).double())


def tilts(amount: Tensor, side: Tensor) -> Tensor:
    """Return homographies (B, 3, 3) from a tilted image to the original image, in unit coordinates.

    One side of the image (`side` (B,), 0 is the left one) grows at both ends by the share `amount` (B,) of its length.
    Parts outside the frame are cut off, so the tilted image has no empty areas.
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
    """Return (B, 3, 3) float64 from unit coordinates to pixels of images with `width` (B,) and `height` (B,)."""
    zero, one = torch.zeros_like(width), torch.ones_like(width)
    rows = [width, zero, (width - 1) / 2, zero, height, (height - 1) / 2, zero, zero, one]
    return torch.stack(rows, -1).double().view(-1, 3, 3)


def plan(drawn: Draw, side: int, size: tuple[int, int]) -> tuple[Plan, Tensor]:
    """Plan views of square training images of `side` px; also return (B, 3, 3) from the first view to the second."""
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

    In the image with the lower local resolution, a window has as many pixels as a view; in the other image it covers
    the same content. The score of a trial is the smaller of two shares: of probes of the first window that fall into
    the second window, and of the CELLS x CELLS cells of the second window that contain a probe. It is 0 for a scale
    outside SCALES.

    Args:
        here: (B, trials, 2) centres, px of image 1.
        there: (B, trials, 2) centres, px of image 2.
        scale: (B, trials) pixels of image 2 per pixel of image 1.
        images: (B, 2, 2) width and height of both images.
        size: (H, W) of a view.
        follow: maps points (B, trials, N, 2) of image 1 to image 2; NaN for points without a partner.

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
    """Score trials (B, trials) from places of probes (B, trials, N, 2) in the second window, in units of its sides."""
    inside = ((hits >= 0) & (hits < 1)).all(-1)
    cell = (hits.nan_to_num(0).clamp(0, 1 - 1e-9) * CELLS).long()
    covered = torch.zeros(*hits.shape[:2], CELLS * CELLS, dtype=torch.float64)
    covered.scatter_reduce_(2, cell[..., 1] * CELLS + cell[..., 0], inside.double(), "amax")
    return torch.minimum(inside.double().mean(2), covered.mean(2))


def look(pictures: Tensor, homography: Tensor, level: Tensor, size: tuple[int, int]) -> Tensor:
    """Render views (B, C, H, W) of images (B, C, h, w), reduced to the resolution 2 ** -level (B,).

    Args:
        pictures: in [0, 1], on the training device.
        homography: (B, 3, 3) from pixels of a view to pixels of its image.
        level: pyramid level; below 0 the image itself; other values blend the two nearest levels.
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
    """Return the pixels (1, H * W, 2) of a view, x then y, row by row."""
    y, x = torch.meshgrid(*(torch.arange(s, dtype=torch.float32, device=device) for s in size), indexing="ij")
    return torch.stack([x, y], -1).view(1, -1, 2)


def within(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Convert points (B, H * W, 2) of the second view to aflow (B, 2, H, W), NaN outside the view."""
    last = points.new_tensor([size[1] - 1, size[0] - 1])
    inside = ((points >= 0) & (points <= last)).all(-1, keepdim=True)
    return torch.where(inside, points, torch.nan).mT.reshape(-1, 2, *size)


def synthetic(pictures: Tensor, drawn: Draw, size: tuple[int, int]) -> Pair:
    """Make pairs of views of square images (B, C, P, P) with exact flow, before noise and colour."""
    made, between = plan(drawn, pictures.shape[-1], size)
    first = look(pictures, made.first, made.levels[0], size)
    second = look(pictures, made.second, made.levels[1], size)
    between = (between / between[:, 2:, 2:]).to(pictures.device, torch.float32)
    points = grid(size, pictures.device).expand(len(pictures), -1, -1)
    return Pair(first, second, within(random_views.warp_points(points, between), size))


def spoil(second: Tensor, dice: Dice, changes: Changes) -> Tensor:
    """Add noise and colour changes to the second views (B, C, H, W)."""
    noise = (dice.rand(*second.shape[1:]) - 0.5) * (changes.noise / 255)
    return colour.jitter((second + noise).clamp(0, 1), dice.uniform(-1, 1, 4), changes.jitter)
