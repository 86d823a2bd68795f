"""Homographic adaptation (arXiv 1712.07629, section 5): corners found in many views of a photo.

The photo is resized to about the area of `size` and keeps its proportions; its sides become multiples
of what the network needs. Labels are in pixels of the ORIGINAL photo, pixel centres at integers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.core import Array, Artifact, BadModel, UsageError
from lf.data import homography as geometry
from lf.models import MODELS, checkpoint, decode, peaks
from lf.train.views import random_views, superpoint_views

BATCH = 10  # views at a time; the last bits of a label depend on it
WARP = superpoint_views.WARPS["adaptation"]


@dataclass(frozen=True)
class Settings:
    """Settings of labelling. The defaults are the published values.

    Attributes:
        warps: views per photo; the first is the photo itself.
        size: (H, W), px. A photo is resized to about this area, and keeps its proportions.
        threshold: smallest mean probability of a label.
        nms_radius: px of the network's image.
        border: px of the network's image within which there is no label.
        top_k: largest number of labels of a photo.
        seed: seed of the homographies, combined with the photo's sha256.
        bf16: run the network in bfloat16.
    """

    warps: int = 100
    size: tuple[int, int] = (240, 320)
    threshold: float = 0.015
    nms_radius: int = 4
    border: int = 4
    top_k: int = 600
    seed: int = 0
    bf16: bool = False


def supported() -> list[str]:
    """Return the rows of MODELS that can label: networks with a detector of 65 classes per cell."""
    return [name for name, row in MODELS.items() if row.heads.get("detector") == (65, decode.CELL) and row.module]


class Labeller:
    """Finds labels in photos with one network."""

    def __init__(self, artifact: Artifact, settings: Settings, device: torch.device) -> None:
        """Load the network, in evaluation mode.

        Raises:
            UsageError: it has no detector of 65 classes, or a setting is out of range.
        """
        row = artifact.card.model
        if row not in supported():
            raise UsageError(f"{row} has no detector of 65 classes per cell; lf label takes: {', '.join(supported())}")
        if min(settings.warps, settings.top_k, *settings.size) < 1 or not 0 < settings.threshold < 1:
            raise UsageError("lf label needs warps and sides above 0 and a threshold between 0 and 1")
        self.model, self.path = MODELS[row], artifact.path
        self.place = list(self.model.heads).index("detector")
        self.settings = settings
        self.device = device
        self.network: nn.Module = checkpoint.network(artifact).to(device)

    def __call__(self, photo: Array, digest: str) -> Array:
        """Label a photo (H, W, 3) uint8 RGB with this sha256: points (N, 3) float32 x, y, score, best first.

        Raises:
            BadModel: a map is not finite.
        """
        settings = self.settings
        size = _fit(photo.shape[:2], settings.size, self.model.multiple)
        smaller = size[0] * size[1] < photo.shape[0] * photo.shape[1]
        image = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if self.model.channels == 1 else image
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].to(self.device).float() / 255
        seed = int(hashlib.sha256(f"{settings.seed} {digest}".encode()).hexdigest()[:15], 16)
        heat = self.adapt(picture, seed).cpu().numpy()
        if not np.isfinite(heat).all():
            raise BadModel.not_finite("the detector map", self.path)
        index = peaks.nms(heat, settings.threshold, settings.nms_radius)
        at = np.stack([index % size[1], index // size[1]], 1).astype(np.float32)
        border, last = settings.border, np.array(size[::-1]) - 1
        index = index[((at >= border) & (at <= last - border)).all(1)][: settings.top_k]
        at = np.stack([index % size[1], index // size[1]], 1).astype(np.float32)
        moved = geometry.warp_points(decode.refine(heat, at), geometry.resize_matrix(size, photo.shape[:2]))
        return np.column_stack([moved, heat.reshape(-1)[index]]).astype(np.float32)

    @torch.inference_mode()
    def adapt(self, picture: Tensor, seed: int) -> Tensor:
        """Return the mean heat map (H, W) of an image (1, C, H, W) over all views: sum of heats / sum of masks."""
        size = (picture.shape[2], picture.shape[3])
        draws = _Draws(self.settings.warps, seed)
        homographies = superpoint_views.sample(draws, size, WARP)
        homographies[0] = torch.eye(3)
        total = torch.zeros(2, *size, device=self.device)
        for start in range(0, len(homographies), BATCH):
            some = homographies[start : start + BATCH]
            view, inside = random_views.render(picture.expand(len(some), -1, -1, -1), some, size)
            shown = inside[:, None].float()
            both = torch.cat([self.heat(view) * shown, shown], 1)
            back, covered = random_views.render(both, some.inverse(), size)
            total += (back * covered[:, None]).sum(0)
        return total[0] / total[1].clamp(min=1e-6)

    def heat(self, view: Tensor) -> Tensor:
        """Return the probability of a point at each pixel (B, 1, H, W) of views (B, C, H, W)."""
        view = view.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            logits = self.network(view)[self.place]
        return F.pixel_shuffle(logits.float().softmax(1)[:, :-1], decode.CELL)


class _Draws:
    """Random numbers of one photo; see `lf.train.views.superpoint_views.Draws`."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.rng = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand((self.count, *shape), generator=self.rng) * (high - low) + low

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, (self.count, *shape), generator=self.rng)


def _fit(size: tuple[int, ...], wanted: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return a size (H, W) with about the area of `wanted` and about the proportions of `size`."""
    scale = (wanted[0] * wanted[1] / (size[0] * size[1])) ** 0.5
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in size)
    return height, width
