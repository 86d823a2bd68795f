"""Random views of images in batches on the training device: homographies, rendering, photometric changes.

Pixel centres are integers; a homography maps (x, y) of a view to (x, y) of its image.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Spread:
    """Settings of the differences between random views.

    Attributes:
        scale: smallest and largest size of a view's pixel, in target pixels (log-uniform).
        rotation: degrees, standard deviation.
        tilt: largest displacement of each corner, as a share of the view's side (uniform).
        shift: side of the square for the view's centre, as a share of the target's side (uniform).
    """

    scale: tuple[float, float]
    rotation: float
    tilt: float
    shift: float


PLACE = Spread(scale=(0.6, 1.6), rotation=25.0, tilt=0.05, shift=0.4)  # position of a pair in its image
RELATION = Spread(scale=(0.55, 1.8), rotation=25.0, tilt=0.22, shift=0.3)  # of the second view in the first


class Dice:
    """Random numbers of one step, determined by (seed, step).

    They are drawn for the whole batch, and each process keeps those of its own pairs, so that several processes
    together train on the same views as one. Small draws come from the CPU's generator and are the same on every device.
    `rand` and `noise` are for maps and come from the device's generator.
    """

    def __init__(self, seed: int, step: int, batch: int, device: torch.device, own: slice | None = None) -> None:
        """Store the run's seed, the step, the number of pairs of the batch, and the slice of this process."""
        self.own = own or slice(0, batch)
        self.batch = batch
        self.pairs = len(range(batch)[self.own])
        self.device = device
        self._small = torch.Generator().manual_seed(seed * 1_000_003 + step)
        self._large = torch.Generator(device).manual_seed(seed * 1_000_003 + step + (1 << 40))
        self.ready: float | torch.cuda.Event | None = None

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw (pairs, *shape) float32, uniform in [low, high), on the CPU."""
        return (torch.rand((self.batch, *shape), generator=self._small) * (high - low) + low)[self.own]

    def normal(self, *shape: int) -> Tensor:
        """Draw (pairs, *shape) float32, standard normal, on the CPU."""
        return torch.randn((self.batch, *shape), generator=self._small)[self.own]

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw (pairs, *shape) int64 from 0 to high - 1 on the CPU."""
        return torch.randint(high, (self.batch, *shape), generator=self._small)[self.own]

    def rand(self, *shape: int) -> Tensor:
        """Draw (pairs, *shape) float32, uniform in [0, 1), on the device."""
        return torch.rand((self.batch, *shape), generator=self._large, device=self.device)[self.own]

    def noise(self, *shape: int) -> Tensor:
        """Draw (pairs, *shape) float32, standard normal, on the device."""
        return torch.randn((self.batch, *shape), generator=self._large, device=self.device)[self.own]

    def data_ready(self) -> None:
        """Mark that the views are ready. The loop reports the share of time before this mark."""
        self.ready = mark(self.device)


def mark(device: torch.device) -> float | torch.cuda.Event:
    """Return the current time on the clock of the device."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def sample(dice: Dice, size: tuple[int, int], target: tuple[int, int], spread: Spread) -> Tensor:
    """Draw (pairs, 3, 3) float64 homographies from a view of (H, W) pixels into a target of (H, W), on the CPU.

    Distances are shares of the view's shorter side, so that a wide view covers more of the target.
    """
    low, high = (math.log(s) for s in spread.scale)
    height, width = size
    short = min(size) - 1
    side = short * dice.uniform(low, high, 1, 1).exp()
    angle = dice.normal() * math.radians(spread.rotation)
    cos, sin = angle.cos(), angle.sin()
    half = torch.tensor([(width - 1) / short / 2, (height - 1) / short / 2])
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * half
    corners = corners + dice.uniform(-spread.tilt, spread.tilt, 4, 2)
    corners = corners @ torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1) * side
    last = torch.tensor([target[1] - 1.0, target[0] - 1.0])
    centre = last / 2 + dice.uniform(-0.5, 0.5, 1, 2) * spread.shift * min(target)
    right, bottom = width - 1.0, height - 1.0
    source = torch.tensor([[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]]).expand(dice.pairs, 4, 2)
    return four_point(source.double(), (corners + centre).double())


def four_point(source: Tensor, target: Tensor) -> Tensor:
    """Return the homographies (B, 3, 3) that map four points (B, 4, 2) to four others, by the 8x8 linear system."""
    x, y = source[..., 0], source[..., 1]
    u, v = target[..., 0], target[..., 1]
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1)
    solution = torch.linalg.solve(torch.cat([rows_u, rows_v], 1), torch.cat([u, v], 1))
    return torch.cat([solution, torch.ones_like(solution[:, :1])], 1).reshape(-1, 3, 3)


def warp_points(points: Tensor, homography: Tensor) -> Tensor:
    """Map points (B, N, 2) through homographies (B, 3, 3): (B, N, 2)."""
    mapped = points @ homography[:, :, :2].transpose(1, 2) + homography[:, None, :, 2]
    return mapped[..., :2] / mapped[..., 2:].clamp(min=1e-6)


def project(points: Tensor, homography: Tensor, size: tuple[int, int]) -> Tensor:
    """Map points (B, N, 3) x, y, score through (B, 3, 3) into views of (H, W). Points outside get the score 0."""
    at = warp_points(points[..., :2].double(), homography.to(points.device)).float()
    limit = torch.tensor([size[1] - 0.5, size[0] - 0.5], device=points.device)
    seen = ((at > -0.5) & (at < limit)).all(-1)
    return torch.cat([at, torch.where(seen, points[..., 2], 0.0)[..., None]], -1)


def render(pictures: Tensor, homography: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Render views (B, C, H, W) of images (B, C, h, w) in [0, 1], and a mask (B, H, W) of pixels inside the image.

    Args:
        pictures: on the training device.
        homography: (B, 3, 3) from pixels of a view to pixels of its image.
        size: (H, W) of a view.
    """
    at, last, inside = _sources(pictures, homography, size)
    view = F.grid_sample(pictures, at / last * 2 - 1, mode="bilinear", padding_mode="reflection", align_corners=True)
    return view, inside


def render_classes(masks: Tensor, homography: Tensor, size: tuple[int, int], outside: int) -> Tensor:
    """Render views (B, H, W) of masks (B, h, w): the class of the nearest pixel, or `outside`; see `render`."""
    at, _, inside = _sources(masks, homography, size)
    x, y = at.round().long().unbind(-1)
    index = (y * masks.shape[-1] + x).where(inside, 0)
    found = masks.flatten(1).gather(1, index.flatten(1)).view(inside.shape)
    return found.where(inside, outside)


def _sources(pictures: Tensor, homography: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return positions (B, H, W, 2) of the pixels of views in their images, the last pixel, and a mask of inside."""
    homography = homography.to(pictures.device, torch.float32)
    height, width = size
    y = torch.arange(height, dtype=torch.float32, device=pictures.device)
    x = torch.arange(width, dtype=torch.float32, device=pictures.device)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2)
    at = warp_points(grid.expand(len(pictures), -1, -1), homography).reshape(-1, height, width, 2)
    last = torch.tensor([pictures.shape[-1] - 1, pictures.shape[-2] - 1], device=pictures.device)
    return at, last, ((at >= 0) & (at <= last)).all(-1)


def render_smooth(pictures: Tensor, homography: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Render as `render`, but sample a view that is coarser than its image from a reduced image, without aliasing."""
    height, width = size
    middle = homography @ torch.tensor([(width - 1) / 2, (height - 1) / 2, 1.0], dtype=homography.dtype)
    covered = torch.linalg.det(homography).abs() / middle[:, 2].abs().clamp(min=1e-6) ** 3  # px of the image, area
    levels = (covered.log2() / 2).round().clamp(0, 3).long()
    view = pictures.new_empty((*pictures.shape[:2], *size))
    inside = torch.empty((len(pictures), *size), dtype=torch.bool, device=pictures.device)
    for level in levels.unique().tolist():
        index = (levels == level).nonzero()[:, 0]
        shrink = 2**level
        smaller = torch.tensor([[1.0, 0.0, -(shrink - 1) / 2], [0.0, 1.0, -(shrink - 1) / 2], [0.0, 0.0, shrink]])
        chosen = pictures[index.to(pictures.device)]
        if level:
            chosen = F.interpolate(chosen, scale_factor=1 / shrink, mode="area")
        made = render(chosen, smaller.to(homography.dtype) @ homography[index], size)
        view[index.to(pictures.device)], inside[index.to(pictures.device)] = made
    return view, inside


def photometric(view: Tensor, dice: Dice, strength: float = 1.0) -> Tensor:
    """Change (pairs, C, H, W) in [0, 1]: blur, gamma, contrast, brightness, shading, noise; then round to 8 bit.

    `strength` scales the changes of light and noise, but not the blur.
    """
    channels, height, width = view.shape[1:]

    def draw(low: float, high: float) -> Tensor:
        return dice.uniform(low, high, 1, 1, 1).to(view.device)

    blurred = F.avg_pool2d(F.pad(view, (1, 1, 1, 1), mode="replicate"), 3, 1)
    view = torch.lerp(view, blurred, draw(-0.6, 1.0).clamp(min=-0.35))  # below zero sharpens
    view = view.clamp(0, 1) ** (strength * draw(-0.5, 0.5)).exp()
    view = (view - 0.5) * draw(0.45, 1.4) ** strength + 0.5 + strength * draw(-0.2, 0.2)
    coarse = dice.uniform(-1, 1, 1, 4, 4).to(view.device)
    shade = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    view = view * (1 + shade * draw(0.0, 0.45) * strength)
    view = view + dice.noise(channels, height, width) * draw(-0.02, 0.05).clamp(min=0) * strength
    return (view.clamp(0, 1) * 255).round() / 255
