"""Pairs of views of KP2D (arXiv 1912.10615, section 3.4), in batches.

Both views are rendered directly from the square, with one interpolation; the published code has three. A square with
at least twice the pixels of a view is first shrunk by an integer factor. Beyond its square, a view shows mirrored
pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lf.train.views import colour, random_views
from lf.train.views.random_views import Dice

ANGLES = 100  # equally spaced candidates, besides 0
CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
TURN, SHIFT, SCALE = 15.0, 0.1, 0.1  # of the target in its square: degrees, share of the view, change of factor
NOISE = 0.05  # standard deviation
KERNELS = torch.tensor([[0.0, 0, 16, 0, 0], [0, 0, 16, 0, 0], [0, 4, 8, 4, 0], [1, 4, 6, 4, 1]]) / 16  # none, 1, 3, 5


def pair(
    pictures: Tensor, dice: Dice, size: tuple[int, int], spread: tuple[float, float, float, float]
) -> tuple[Tensor, Tensor]:
    """Make two views of each square, before changes of colour, and their homographies.

    Args:
        pictures: (B, C, P, P) in [0, 1].
        dice: for B pairs.
        size: (H, W) of a view, px.
        spread: see `sample`.

    Returns:
        Views (2 B, C, H, W), first the targets, then the sources; and (B, 3, 3) float32 from pixels of a source to
        pixels of its target, on the device of the images.
    """
    factor = max(1, pictures.shape[-1] // max(size))
    pictures = F.avg_pool2d(pictures, factor) if factor > 1 else pictures
    target = place(dice, size, pictures.shape[-1])
    relation = sample(dice, size, spread)
    both = [random_views.render(pictures, homography, size)[0] for homography in (target, target @ relation)]
    return torch.cat(both), relation.to(pictures.device, torch.float32)


def sample(dice: Dice, size: tuple[int, int], spread: tuple[float, float, float, float]) -> Tensor:
    """Draw (pairs, 3, 3) float64 from pixels of a source to pixels of its target, on the CPU, as published.

    The corners of the source map to the corners of a patch inside the target. The patch is a centred rectangle that is
    changed to a trapezium by four displacements, scaled, shifted within the free border, and rotated by a random one of
    100 equally spaced angles at which it stays inside. Displacements and scale are normal, with half the amplitude as
    standard deviation, and clipped at the amplitude. (The published code draws 100 scales and takes one: one draw.)

    Args:
        dice: for the pairs.
        size: (H, W) of both views, px.
        spread: patch ratio, scaling amplitude, perspective amplitude, largest angle in degrees.
    """
    ratio, scaling, perspective, largest = spread
    height, width = size
    limit = torch.tensor([1.0, height / width], dtype=torch.float64)  # half the target, in units of its half width
    move = perspective / 2 * dice.normal(4).double().clamp(-1, 1)
    left, right, top, bottom = move.unbind(1)
    # one draw moves both ends of a side by opposite amounts: the side grows or shrinks about its middle
    moved = torch.stack([torch.stack(m, 1) for m in ((top, left), (top, right), (bottom, right), (bottom, left))], 1)
    patch = CORNERS * limit * ratio + moved * CORNERS * limit
    middle = patch.mean(1, keepdim=True)
    patch = middle + (patch - middle) * (1 + scaling / 2 * dice.normal(1, 1).double().clamp(-1, 1))
    free = -limit - patch.amin(1), limit - patch.amax(1)
    patch = patch + torch.lerp(*free, dice.uniform(0, 1, 2).double())[:, None]
    patch = _turned(patch, limit, math.radians(largest), dice.uniform(0, 1, ANGLES + 1))
    last = torch.tensor([width - 1.0, height - 1.0], dtype=torch.float64)
    corners = ((CORNERS + 1) / 2 * last).expand_as(patch)
    return random_views.four_point(corners, (patch / limit + 1) / 2 * last)


def _turned(patch: Tensor, limit: Tensor, largest: float, random: Tensor) -> Tensor:
    """Rotate patches (B, 4, 2) about their centres by a random one of the angles at which they stay within +-limit."""
    angle = torch.cat([torch.zeros(1), torch.linspace(-largest, largest, ANGLES)]).double()
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1)  # (A, 2, 2)
    middle = patch.mean(1, keepdim=True)
    turned = (patch - middle)[:, None] @ turn + middle[:, None]  # (B, A, 4, 2)
    valid = (turned.abs() <= limit).all(-1).all(-1)
    valid[:, 0] |= ~valid.any(1)
    chosen = (random + valid.float()).argmax(1)
    return turned[torch.arange(len(patch)), chosen]


def place(dice: Dice, size: tuple[int, int], side: int) -> Tensor:
    """Draw (pairs, 3, 3) float64 from pixels of the target to pixels of its square, on the CPU.

    The longer side of the view spans the square. The view is then mirrored along each axis with probability 1/2,
    rotated, shifted and scaled.
    """
    height, width = size
    scale = (side - 1) / (max(size) - 1) * dice.uniform(1 - SCALE, 1 + SCALE).double()
    angle = dice.uniform(-TURN, TURN).double() * math.pi / 180
    mirror = 1 - 2 * dice.integers(2, 2).double()
    shift = dice.uniform(-SHIFT, SHIFT, 2).double() * torch.tensor([width, height])
    cos, sin = angle.cos() * scale, angle.sin() * scale
    linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1) * mirror[:, None]
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    offset = (side - 1) / 2 + (linear @ (shift - middle)[..., None])[..., 0]
    homography = torch.zeros(dice.pairs, 3, 3, dtype=torch.float64)
    homography[:, :2, :2], homography[:, :2, 2], homography[:, 2, 2] = linear, offset, 1
    return homography


def augment(both: Tensor, dice: Dice, ranges: tuple[float, float, float, float]) -> Tensor:
    """Change the colours of RGB views (2 B, 3, H, W) in [0, 1].

    The same for both views of a pair, with probability 1/2 each: permuted channels; grey. Independently for each view:
    noise (probability 1/2), a binomial blur of 1, 3 or 5 px or none, and colour jitter.

    Args:
        both: first the targets, then the sources.
        dice: for B pairs.
        ranges: of brightness, contrast, saturation, hue; see `colour.jitter`.
    """
    order = torch.where(dice.uniform(0, 1, 1) < 0.5, dice.uniform(0, 1, 3).argsort(1), torch.arange(3))
    both = both[torch.arange(len(both), device=both.device)[:, None], torch.cat([order, order]).to(both.device)]
    plain = dice.uniform(0, 1, 1, 1, 1, 1).expand(-1, 2, -1, -1, -1) < 0.5
    both = torch.where(_both(plain, both), colour.grey(both), both)
    noise = _both(dice.noise(2, *both.shape[1:]), both)
    both = both + noise * (NOISE * (_both(dice.uniform(0, 1, 2, 1, 1, 1), both) < 0.5))
    both = _blur(both.clamp(0, 1), _both(KERNELS[dice.integers(len(KERNELS), 2)], both))
    return colour.jitter(both, _both(dice.uniform(-1, 1, 2, 4), both), ranges)


def _both(drawn: Tensor, like: Tensor) -> Tensor:
    """Reorder (B, 2, ...) to (2 B, ...): first the targets, then the sources."""
    return drawn.transpose(0, 1).flatten(0, 1).to(like.device)


def _blur(images: Tensor, kernel: Tensor) -> Tensor:
    """Blur images (B, C, H, W) with their own kernels (B, 5) along both axes, mirrored at the edges."""
    batch, channels, height, width = images.shape
    taps = kernel.repeat_interleave(channels, 0)[:, None]  # (B C, 1, 5)
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect").view(1, -1, height + 4, width + 4)
    rows = F.conv2d(padded, taps[..., None], groups=len(taps))
    return F.conv2d(rows, taps[:, :, None], groups=len(taps)).view(batch, channels, height, width).clamp(0, 1)
