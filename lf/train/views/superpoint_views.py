"""Views of SuperPoint as published: its sampler of homographies and photometric changes, in batches.

Sources: arXiv 1712.07629, section 5.2, and the settings of the published training code. Sizes are (H, W) pixels, pixel
centres at integers. All random numbers come from `Dice`, or from an object with the same methods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lf.train.views import random_views

ANGLES = 25  # equally spaced
SCALES = 5  # number of random factors, in addition to 1
ELLIPSES = 20
COARSE = 4  # shades are drawn at 1 / COARSE of the size, because their blur is wider than COARSE px


class Draws(Protocol):
    """Interface: the methods of `random_views.Dice` that a homography needs."""

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw (pairs, *shape), uniform in [low, high), on the CPU."""

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw (pairs, *shape) from 0 to high - 1, on the CPU."""


@dataclass(frozen=True)
class Warp:
    """Settings of random homographies; lengths are shares of the image's sides.

    Attributes:
        patch: side of the centred square before it is moved.
        scale: amplitude (two standard deviations) of the factors round 1.
        perspective: amplitudes of the corners' moves along x and y.
        angle: largest rotation, radians.
        overflow: the patch may leave the image by this much when it is shifted.
        margin: px by which the mask of pixels inside the image shrinks.
    """

    patch: float
    scale: float
    perspective: tuple[float, float]
    angle: float
    overflow: float = 0.0
    margin: int = 0


WARPS = {
    "magicpoint": Warp(patch=0.8, scale=0.2, perspective=(0.2, 0.2), angle=1.57, overflow=0.05, margin=2),
    "adaptation": Warp(patch=0.85, scale=0.2, perspective=(0.2, 0.2), angle=math.pi / 2),
    "joint": Warp(patch=0.85, scale=0.2, perspective=(0.2, 0.2), angle=1.57, margin=3),
}


def sample(draws: Draws, size: tuple[int, int], warp: Warp) -> Tensor:
    """Draw (pairs, 3, 3) float64 homographies from pixels of a view to pixels of an image of the same `size`.

    The corners of the view map to a patch of the image. The patch is a centred square of the unit square, changed by
    perspective, scaling, shift, and rotation about its centroid. Patches may leave the image. As published, all changes
    happen in the unit square, so a rotation also shears if the image is not square.
    """
    half = warp.patch / 2
    patch = torch.tensor([[-half, -half], [half, -half], [half, half], [-half, half]], dtype=torch.float64) + 0.5
    down = _normal(draws, 1) * warp.perspective[1] / 2
    left, right = (_normal(draws, 1) * warp.perspective[0] / 2 for _ in "lr")
    x = torch.cat([left, right, right, left], 1)
    y = torch.cat([down, -down, down, -down], 1)
    patch = patch + torch.stack([x, y], -1)
    patch = _about_centre(patch, _scale(draws, warp))
    free = torch.stack([patch.amin(1), 1 - patch.amax(1)], -1).clamp(min=0) + warp.overflow  # (pairs, 2, 2)
    share = draws.uniform(0, 1, 2).double()
    patch = patch + (share * free.sum(-1) - free[..., 0])[:, None]
    turn = torch.linspace(-warp.angle, warp.angle, ANGLES, dtype=torch.float64)[draws.integers(ANGLES)]
    cos, sin = turn.cos(), turn.sin()
    patch = _about_centre(patch, torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1))
    sides = torch.tensor([size[1], size[0]], dtype=torch.float64)
    unit = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    return random_views.four_point((unit * sides - 0.5).expand_as(patch), patch * sides - 0.5)


def _scale(draws: Draws, warp: Warp) -> Tensor:
    """Return (pairs, 2, 2), scalings by 1 or by one of several normally distributed factors."""
    factors = F.pad(1 + _normal(draws, SCALES) * warp.scale / 2, (1, 0), value=1.0)
    factor = factors.gather(1, draws.integers(SCALES + 1, 1))
    return factor[..., None] * torch.eye(2, dtype=torch.float64)


def _normal(draws: Draws, *shape: int) -> Tensor:
    """Draw standard normal numbers, float64, truncated at two standard deviations."""
    inside = math.erf(2 / math.sqrt(2))
    return torch.erfinv(draws.uniform(-1, 1, *shape).double() * inside) * math.sqrt(2)


def _about_centre(patch: Tensor, matrix: Tensor) -> Tensor:
    centre = patch.mean(1, keepdim=True)
    return (patch - centre) @ matrix + centre


def shrink(inside: Tensor, margin: int) -> Tensor:
    """Erode a mask (B, H, W) bool by `margin` px."""
    if not margin:
        return inside
    outside = (~inside)[:, None].float()
    return F.max_pool2d(outside, 2 * margin + 1, 1, margin)[:, 0] == 0


@dataclass(frozen=True)
class Photometry:
    """Settings of photometric changes; levels are 8-bit levels.

    Attributes:
        brightness: largest level added or subtracted.
        contrast: range of factors about the middle level.
        noise: largest standard deviation, levels.
        impulse: largest probability that a pixel becomes black or white.
        blur: px, length of the motion blur of half of the views.
        shade: range of shading, from the strongest lightening (negative) to the strongest darkening.
        softness: px, range of kernel sizes that blur the shades.
    """

    brightness: float
    contrast: tuple[float, float]
    noise: float
    impulse: float
    blur: int
    shade: tuple[float, float]
    softness: tuple[float, float]


PHOTOMETRIES = {
    "magicpoint": Photometry(75, (0.3, 1.8), 15, 0.0035, 7, (-0.5, 0.8), (50, 100)),
    "joint": Photometry(50, (0.5, 1.5), 10, 0.0035, 3, (-0.5, 0.5), (100, 150)),
}


def photometric(view: Tensor, dice: random_views.Dice, how: Photometry) -> Tensor:
    """Change (pairs, C, H, W) in [0, 1] in the published order, and round to 8 bits."""
    channels, height, width = view.shape[1:]

    def draw(low: float, high: float) -> Tensor:
        return dice.uniform(low, high, 1, 1, 1).to(view.device)

    view = (view + draw(-how.brightness, how.brightness) / 255).clamp(0, 1)
    view = ((view - 0.5) * draw(*how.contrast) + 0.5).clamp(0, 1)
    view = (view + dice.noise(channels, height, width) * draw(0, how.noise) / 255).clamp(0, 1)
    spoilt = draw(0, how.impulse)
    lot = dice.rand(1, height, width)
    view = torch.where(lot < spoilt, (lot < spoilt / 2).to(view), view)
    view = _motion_blur(view, dice, how.blur)
    view = view * (1 - _shades(dice, (height, width), how) * draw(*how.shade))
    return (view.clamp(0, 1) * 255).round() / 255


def _motion_blur(view: Tensor, dice: random_views.Dice, length: int) -> Tensor:
    """Blur half of the views (B, C, H, W) along a line of `length` px in a random direction."""
    count, channels, height, width = view.shape
    reach = length // 2
    angle = dice.uniform(0, math.pi, 1, 1)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    along = axis[None, None, :] * angle.cos() + axis[None, :, None] * angle.sin()
    across = axis[None, :, None] * angle.cos() - axis[None, None, :] * angle.sin()
    kernel = (1 - across.abs()).clamp(min=0) * (length / 2 + 0.5 - along.abs()).clamp(0, 1)
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    still = torch.zeros_like(kernel)
    still[:, reach, reach] = 1
    kernel = torch.where(dice.uniform(0, 1, 1, 1) < 0.5, kernel, still).to(view)[:, None]
    padded = F.pad(view, (reach,) * 4, mode="replicate").transpose(0, 1)
    return F.conv2d(padded, kernel, groups=count).transpose(0, 1).reshape(count, channels, height, width)


def _shades(dice: random_views.Dice, size: tuple[int, int], how: Photometry) -> Tensor:
    """Draw shades (pairs, 1, H, W) in [0, 1] on the device: the blurred union of ellipses."""
    height, width = (-(-side // COARSE) for side in size)
    axes = dice.uniform(0.2, 1, ELLIPSES, 2) * (min(size) / 4 / COARSE)
    rim = axes.amax(-1, keepdim=True)
    centre = rim + dice.uniform(0, 1, ELLIPSES, 2) * (torch.tensor([width, height]) - 2 * rim)
    angle = dice.uniform(0, math.pi, ELLIPSES)
    deviation = (0.3 * ((dice.uniform(*how.softness, 1, 1) - 1) / 2 - 1) + 0.8) / COARSE  # OpenCV's rule
    numbers = torch.cat([axes, centre, angle.cos()[..., None], angle.sin()[..., None]], -1).to(dice.device)
    a, b, x0, y0, cos, sin = numbers[..., None, None].unbind(2)  # each (pairs, ELLIPSES, 1, 1)
    x = torch.arange(width, device=dice.device) - x0
    y = torch.arange(height, device=dice.device)[:, None] - y0
    mask = (((x * cos + y * sin) / a).square() + ((y * cos - x * sin) / b).square() <= 1).any(1).float()
    deviation = deviation.to(dice.device)
    soft = _gauss(height, deviation) @ mask @ _gauss(width, deviation).transpose(1, 2)
    return F.interpolate(soft[:, None], size=size, mode="bilinear", align_corners=False)


def _gauss(count: int, deviation: Tensor) -> Tensor:
    """Return matrices (B, count, count) that blur `count` values; kernels are cut at the ends and normalised."""
    index = torch.arange(count, dtype=torch.float32, device=deviation.device)
    weight = torch.exp(-(index[:, None] - index).square() / (2 * deviation.square()))
    return weight / weight.sum(-1, keepdim=True)
