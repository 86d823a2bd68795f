"""Distillation losses between the maps of a network and its teacher, one per kind of head.

Detector classes are compared by Kullback-Leibler divergence; descriptors by 1 - cosine, weighted by the teacher's
probability of a point; shifts of points by smooth L1 with the same weights; score maps by squared error divided by the
variance of the teacher's scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Maps = Mapping[str, Tensor]  # head -> (B, C, h, w)
POINTS = ("detector",), ("score",), ("reliability", "repeatability")  # heads that locate points
FLOOR = 0.1  # weight of a place without a point; a place with a point has this plus its probability
DESCRIPTORS = ("descriptor", "feat")


def total(learned: Maps, taught: Maps, descriptor_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of the losses over the heads of the teacher, and each loss for the log."""
    points = points_of(taught)
    parts = {head: LOSSES[head](learned[head], maps, points) for head, maps in taught.items()}
    weighted = [(descriptor_weight if head in DESCRIPTORS else 1.0) * part for head, part in parts.items()]
    return torch.stack(weighted).sum(), {head: part.detach() for head, part in parts.items()}


def points_of(maps: Maps) -> Tensor:
    """Return the probability of a point at each place (B, 1, h, w), from the heads in POINTS that the maps have."""
    if "detector" in maps:
        return 1 - maps["detector"].softmax(1)[:, -1:]  # the last class means: no point in this cell
    if "score" in maps:
        return maps["score"].sigmoid()
    positive = F.softplus(maps["repeatability"])
    return maps["reliability"].sigmoid() * positive / (1 + positive)


def _classes(learned: Tensor, taught: Tensor, points: Tensor) -> Tensor:
    return F.kl_div(learned.log_softmax(1), taught.log_softmax(1), reduction="none", log_target=True).sum(1).mean()


def _squared(learned: Tensor, taught: Tensor, points: Tensor) -> Tensor:
    return (learned - taught).square().mean() / taught.var().clamp(min=1e-6)


def _angle(learned: Tensor, taught: Tensor, points: Tensor) -> Tensor:
    return _weighted(1 - F.cosine_similarity(learned, taught, dim=1)[:, None], points)


def _shift(learned: Tensor, taught: Tensor, points: Tensor) -> Tensor:
    return _weighted(F.smooth_l1_loss(learned.tanh(), taught.tanh(), reduction="none", beta=0.1), points)


def _weighted(values: Tensor, points: Tensor) -> Tensor:
    """Return the mean of (B, C, H, W), weighted by the probability of a point (B, 1, h, w)."""
    weight = FLOOR + F.interpolate(points, values.shape[-2:], mode="nearest")
    return (values.mean(1, keepdim=True) * weight).sum() / weight.sum()


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {  # by the head, see MODELS
    "detector": _classes,
    "descriptor": _angle,
    "reliability": _squared,
    "repeatability": _squared,
    "score": _squared,
    "shift": _shift,
    "feat": _angle,
}
