"""Teacher: a network whose keypoints and descriptors are a target for a student."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lf.core import Array, UsageError
from lf.models import MODELS, checkpoint
from lf.models.resolve import resolve


class Teacher:
    """A network, given by the user, that finds and describes points. It is never trained and never part of the result.

    Attributes:
        weights: {"model", "origin", "sha256", "licence"} of its checkpoint, for the card of the student.
    """

    def __init__(self, name: str, size: tuple[int, int], device: torch.device) -> None:
        """Load the checkpoint `name`, a file or shipped weights, for views of `size` (H, W) px.

        Raises:
            UsageError: it cannot describe given points, or cannot take views of that size.
            BadInput: see `lf.models.checkpoint.load`.
        """
        artifact = resolve(name)
        self.row = MODELS[artifact.card.model]
        if self.row.describe is None:
            raise UsageError(f"recipe: teacher={name}: {artifact.card.model} describes no given points; see: lf models")
        self.name, self.model = name, artifact.card.model
        self._check_size(size, f"size={size[0]}x{size[1]}")
        self.device = device
        self.network = checkpoint.network(artifact).to(device)
        self.weights = {"model": artifact.card.model, **checkpoint.load(artifact.path)[2]}

    @torch.no_grad()
    def describe(self, views: Tensor, points: Tensor) -> Tensor:
        """Unit descriptors (B, N, D) at `points` (B, N, 2) px of `views` (B, C, H, W) in [0, 1], C of 1 or 3."""
        places = points.float().cpu().numpy()
        found = [
            self.row.describe(maps, at)  # type: ignore[misc]
            for maps, at in zip(self._maps(views), places, strict=True)
        ]
        return torch.from_numpy(np.stack(found)).to(self.device)

    @torch.no_grad()
    def find(self, picture: Tensor, top_k: int) -> tuple[Array, Array]:
        """Return keypoints (N, 2) px and scores (N,), best first, of an image (1, C, H, W) in [0, 1].

        Points are moved to the maxima of parabolas through the scores where the row can do so (`refine`).

        Raises:
            UsageError: the network cannot take images of that size.
        """
        height, width = picture.shape[2:]
        self._check_size((height, width), f"picture_size={height}")
        (maps,) = self._maps(picture)
        exact = {"refine": "quadratic"} if "refine" in self.row.settings else {}
        points, scores, _ = self.row.decode(maps, **{**self.row.settings, **exact, "top_k": top_k})
        return points, scores

    def _check_size(self, size: tuple[int, int], setting: str) -> None:
        """Refuse a size (H, W) that the network cannot take: resized, the image would have its points elsewhere."""
        if any(side % self.row.multiple for side in size):
            raise UsageError(
                f"recipe: teacher={self.name}: {self.model} needs views of multiples of {self.row.multiple} px; "
                f"the recipe has {setting}"
            )

    def _maps(self, views: Tensor) -> list[dict[str, Array]]:
        """Return the raw maps of each view."""
        outputs = [output.float().cpu().numpy() for output in self.network(self._prepared(views))]
        return [dict(zip(self.row.heads, each, strict=True)) for each in zip(*outputs, strict=True)]

    def _prepared(self, views: Tensor) -> Tensor:
        """Convert views to the channels of the teacher, (B, C, H, W)."""
        if prepare := self.row.prepare:
            pictures = views.expand(-1, 3, -1, -1).movedim(1, 3).cpu().numpy()
            return torch.from_numpy(np.stack([prepare(each) for each in pictures])).to(self.device)
        if self.row.colours == views.shape[1]:
            return views
        return views.expand(-1, 3, -1, -1) if self.row.colours == 3 else views.mean(1, keepdim=True)


def similarity_loss(learned: Tensor, taught: Tensor, valid: Tensor) -> Tensor:
    """Mean squared difference of the cosine similarities of all pairs of valid points, as in EdgePoint2.

    Descriptors may have different lengths, because only similarities are compared (arXiv 2504.17280).

    Args:
        learned: unit descriptors (B, N, D) of the student.
        taught: unit descriptors (B, N, E) of the teacher, at the same points.
        valid: (B, N) bool, points that count.
    """
    both = (valid[:, :, None] & valid[:, None, :]).float()
    error = (learned @ learned.transpose(1, 2) - taught @ taught.transpose(1, 2)).square()
    return (error * both).sum() / both.sum().clamp(min=1)
