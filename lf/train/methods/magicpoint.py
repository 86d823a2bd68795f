"""Train MagicPoint, SuperPoint's detector, on synthetic shapes (arXiv 1712.07629, section 4).

As published, a shape is first changed photometrically, then seen through a random homography.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, distributed, nn

from lf.core import BadInput
from lf.data.drawn import synthetic_shapes
from lf.models import MODELS
from lf.train import Recipe
from lf.train.losses.detector_losses import DETECTOR_LOSSES, choose, labels, valid_cells
from lf.train.pictures import Pictures
from lf.train.sample import Sample, single
from lf.train.views import random_views, superpoint_views
from lf.train.views.random_views import Dice

SOURCE = "shapes"  # the first part of the names of drawn shapes; the second is the seed
WARP = superpoint_views.WARPS["magicpoint"]
PHOTOMETRY = superpoint_views.PHOTOMETRIES["magicpoint"]


class Method:
    """Detector trained on drawn shapes. Settings:

    detector_loss: a row of DETECTOR_LOSSES.
    corner_labels: `soft` spreads a point over the pixels round it; `drawn` picks one pixel per cell, as the paper does.
    """

    extra: nn.Module | None = None
    images = 1  # per pair of the batch

    def __init__(self, recipe: Recipe, pictures: Pictures, device: torch.device) -> None:
        """Compute the corners of the shapes from their seeds.

        Raises:
            BadInput: an image is not a drawn shape.
        """
        self.recipe = recipe
        self.device = device
        self.pictures = pictures
        self.detector = list(MODELS[recipe.model].heads).index("detector")
        self.square = (recipe.picture_size, recipe.picture_size)
        self.points = _points([crop.name for crop in pictures.crops], self.square).to(device)

    def state(self) -> dict[str, Tensor]:
        """Return an empty state: the shapes follow from their seeds."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing: there is no state."""

    def begin_step(self, step: int, network: nn.Module) -> None:
        """Do nothing: steps need no preparation."""

    def loss(self, network: nn.Module, dice: Dice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of the views, and its parts for the log. A "pair" of the batch is one view here."""
        view, points, valid = self._views(dice)
        target = labels(points, self.recipe.size)
        if self.recipe.settings["corner_labels"] == "drawn":
            target = choose(target, dice.rand(*target.shape[2:]))
        dice.data_ready()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            maps = network(view.contiguous(memory_format=torch.channels_last))
        logits = maps[self.detector].float()
        loss = DETECTOR_LOSSES[self.recipe.settings["detector_loss"]](logits, target, valid).mean()
        with torch.no_grad():
            found = _found(logits, target, valid)
        if distributed.is_available() and distributed.is_initialized():  # all weights need a gradient
            loss = loss + 0 * torch.stack([m.float().mean() for i, m in enumerate(maps) if i != self.detector]).sum()
        return loss, {"detector": loss.detach(), "found": found}

    def sample(self, dice: Dice) -> list[Sample]:
        """Return the views of a step for display."""
        view, points, _ = self._views(dice)
        return single(view, points)

    def _views(self, dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
        """Return views (B, 1, H, W), corners (B, N, 3) x, y, 1 or 0, and a mask (B, h, w) of cells inside the image."""
        size = self.recipe.size
        chosen = dice.integers(len(self.pictures))
        homography = self._window(dice) @ superpoint_views.sample(dice, size, WARP)
        pictures = superpoint_views.photometric(self.pictures.take(chosen), dice, PHOTOMETRY)
        view, inside = random_views.render(pictures, homography, size)
        valid = valid_cells(superpoint_views.shrink(inside, WARP.margin))
        points = random_views.project(self.points[chosen.to(self.device)], homography.inverse(), size)
        return view, points, valid

    def _window(self, dice: Dice) -> Tensor:
        """Return (pairs, 3, 3) from pixels of a view of (H, W) to pixels of its square: shifts by whole pixels."""
        window = torch.eye(3, dtype=torch.float64).repeat(dice.pairs, 1, 1)
        for axis, side in enumerate(reversed(self.recipe.size)):
            window[:, axis, 2] = dice.integers(max(1, self.recipe.picture_size - side + 1))
        return window


def _points(names: list[str], size: tuple[int, int]) -> Tensor:
    """Return the corners of all shapes (N, K, 3): x, y, 1, padded with zeros."""
    found = []
    for name in names:
        source, _, seed = name.partition("/")
        if source != SOURCE or not seed.isdigit():
            raise BadInput(
                f"magicpoint learns from drawn shapes, whose corners are known, not from {name}; type: `photos=shapes`"
            )
        found.append(synthetic_shapes.points(int(seed), size))
    padded = np.zeros((len(found), max(1, *map(len, found)), 3), np.float32)
    for row, points in zip(padded, found, strict=True):
        row[: len(points), :2], row[: len(points), 2] = points, 1
    return torch.from_numpy(padded)


def _found(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return the share of cells with a corner in which the most likely class is a pixel of the corner."""
    corner = valid & (target[:, 64] < 0.5)
    hit = target.gather(1, logits.argmax(1, keepdim=True))[:, 0] > 0
    return (hit & corner).sum() / corner.sum().clamp(min=1)
