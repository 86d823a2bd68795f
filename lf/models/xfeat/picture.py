"""Prepare an image for XFeat on the host, as published."""

from __future__ import annotations

from lf.core import Array
from lf.models.pictures import mean_grey, stretch, whiten

MULTIPLE = 32  # px


def prepare(picture: Array) -> Array:
    """(H, W, 3) RGB in [0, 1] -> (1, h, w) float32: stretched to multiples of 32 below, mean grey, whitened."""
    height, width = (side - side % MULTIPLE for side in picture.shape[:2])
    return whiten(stretch(mean_grey(picture), (height, width), corners=False))[None]
