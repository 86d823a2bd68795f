"""Samples of a training step for `lf data show`: `Method.sample(dice) -> list[Sample]`.

It is optional: a method without it can train, but `lf data show` cannot show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lf.core import Array
from lf.data import contact_sheets


@dataclass(frozen=True)
class Sample:
    """The view or the pair of views that a step makes of one image.

    Attributes:
        views: one or two, uint8 (H, W, 3) RGB each.
        labels: labels of each view (N, 3): x, y in px, score; score 0 does not count. None if the method has no labels.
        flow: (H, W, 2) float32, position in the second view of each pixel of the first, x then y; NaN outside. None for
            a single view.
        masks: classes of each view (H, W) uint8, `lf.data.masks.VOID` for ignored pixels. None if the method learns no
            classes.
    """

    views: tuple[Array, ...]
    labels: tuple[Array, ...] | None = None
    flow: Array | None = None
    masks: tuple[Array, ...] | None = None


def single(views: Tensor, labels: Tensor) -> list[Sample]:
    """Make samples of views (B, C, H, W) in [0, 1] with labels (B, N, 3)."""
    return [Sample((_picture(view),), (_array(found),)) for view, found in zip(views, labels, strict=True)]


def pairs(
    views: Tensor,
    labels: Tensor | None = None,
    *,
    homography: Tensor | None = None,
    inside: Tensor | None = None,
    aflow: Tensor | None = None,
    masks: Tensor | None = None,
) -> list[Sample]:
    """Make samples of pairs of views; first views come before second views.

    Args:
        views: (2 B, C, H, W) in [0, 1].
        labels: (2 B, N, 3) x, y, score.
        homography: (B, 3, 3) from pixels of the first to pixels of the second view.
        inside: (2 B, H, W) bool, pixels inside the image; others have no flow. None means all.
        aflow: (B, 2, H, W), instead of `homography` and `inside`: x, y in the second view, NaN outside.
        masks: (2 B, H, W) classes.
    """
    count, size = len(views) // 2, (views.shape[-2], views.shape[-1])
    made = []
    for n in range(count):
        if homography is not None:
            flow = contact_sheets.flow(_array(homography[n].double()), size, size)
            if inside is not None:
                flow[~_array(inside[n])] = np.nan
        else:
            assert aflow is not None, "one of the two"
            flow = _array(aflow[n]).transpose(1, 2, 0)
        both = (n, count + n)
        found = None if labels is None else tuple(_array(labels[i]) for i in both)
        classes = None if masks is None else tuple(_array(masks[i]).astype(np.uint8) for i in both)
        made.append(Sample(tuple(_picture(views[i]) for i in both), found, flow, classes))
    return made


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().numpy()
    return array


def _picture(view: Tensor) -> Array:
    """Convert a view (C, H, W) in [0, 1] to uint8 (H, W, 3) RGB."""
    levels = (_array(view.float()).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels
