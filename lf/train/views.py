"""Random views of pictures, batched on the training device: homographies, rendering, photometric changes.

Pixel centres are integers; a homography maps (x, y) of a view to (x, y) of its picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Spread:
    """How far random views may differ.

    Attributes:
        scale: smallest and largest size of a view's pixel, in target pixels (log-uniform).
        rotation: degrees, standard deviation.
        tilt: largest displacement of each corner, as a share of the view's side (uniform).
        shift: the view's centre lies in a square of this share of the target's side (uniform).
    """

    scale: tuple[float, float]
    rotation: float
    tilt: float
    shift: float


PLACE = Spread(scale=(0.6, 1.6), rotation=25.0, tilt=0.05, shift=0.4)  # where in its picture a pair looks
RELATION = Spread(scale=(0.55, 1.8), rotation=25.0, tilt=0.22, shift=0.3)  # how the second view differs from the first


def uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    """Uniform numbers from the CPU generator, so that every device sees the same ones."""
    return torch.rand(shape, generator=rng) * (high - low) + low


def sample(count: int, size: int, target: int, spread: Spread, rng: torch.Generator) -> Tensor:
    """Draw (count, 3, 3) float64 homographies from a (size x size) view into a (target x target) image."""
    low, high = (math.log(s) for s in spread.scale)
    side = size * uniform((count, 1, 1), low, high, rng).exp()
    angle = torch.randn((count,), generator=rng) * math.radians(spread.rotation)
    cos, sin = angle.cos(), angle.sin()
    square = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    corners = square + uniform((count, 4, 2), -spread.tilt, spread.tilt, rng)
    corners = corners @ torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1) * side
    centre = (target - 1) / 2 + uniform((count, 1, 2), -0.5, 0.5, rng) * spread.shift * target
    edge = float(size - 1)
    source = torch.tensor([[0.0, 0.0], [edge, 0.0], [edge, edge], [0.0, edge]]).expand(count, 4, 2)
    return four_point(source.double(), (corners + centre).double())


def four_point(source: Tensor, target: Tensor) -> Tensor:
    """The homographies (B, 3, 3) that take four points (B, 4, 2) to four others, by the 8x8 linear system."""
    x, y = source[..., 0], source[..., 1]
    u, v = target[..., 0], target[..., 1]
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1)
    solution = torch.linalg.solve(torch.cat([rows_u, rows_v], 1), torch.cat([u, v], 1))
    return torch.cat([solution, torch.ones_like(solution[:, :1])], 1).reshape(-1, 3, 3)


def warp_points(points: Tensor, homography: Tensor) -> Tensor:
    """(B, N, 2) through (B, 3, 3) -> (B, N, 2)."""
    mapped = points @ homography[:, :, :2].transpose(1, 2) + homography[:, None, :, 2]
    return mapped[..., :2] / mapped[..., 2:].clamp(min=1e-6)


def render(pictures: Tensor, homography: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Views (B, 1, size, size) of pictures (B, 1, P, P) in [0, 1], and a mask (B, size, size): inside the picture."""
    homography = homography.float()
    axis = torch.arange(size, dtype=torch.float32, device=pictures.device)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(1, -1, 2)
    at = warp_points(grid.expand(len(pictures), -1, -1), homography).reshape(-1, size, size, 2)
    edge = pictures.shape[-1] - 1
    inside = ((at >= 0) & (at <= edge)).all(-1)
    view = F.grid_sample(pictures, at / edge * 2 - 1, mode="bilinear", padding_mode="reflection", align_corners=True)
    return view, inside


def photometric(view: Tensor, rng: torch.Generator) -> Tensor:
    """Change (B, 1, S, S) in [0, 1]: blur, gamma, contrast, brightness, shading, noise; then round to 8 bit."""
    count, _, size, _ = view.shape

    def draw(low: float, high: float) -> Tensor:
        return uniform((count, 1, 1, 1), low, high, rng).to(view.device)

    blurred = F.avg_pool2d(F.pad(view, (1, 1, 1, 1), mode="replicate"), 3, 1)
    view = torch.lerp(view, blurred, draw(-0.6, 1.0).clamp(min=-0.35))  # below zero sharpens
    view = view.clamp(0, 1) ** draw(-0.5, 0.5).exp()
    view = (view - 0.5) * draw(0.45, 1.4) + 0.5 + draw(-0.2, 0.2)
    coarse = uniform((count, 1, 4, 4), -1, 1, rng).to(view.device)
    shade = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    view = view * (1 + shade * draw(0.0, 0.45))
    noise = torch.randn((count, 1, size, size), generator=rng).to(view.device)
    view = view + noise * draw(-0.02, 0.05).clamp(min=0)
    return (view.clamp(0, 1) * 255).round() / 255
