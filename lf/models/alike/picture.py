"""Prepare an image for ALIKE on the host, as published."""

from __future__ import annotations

from lf.core import Array
from lf.models.pictures import padded

MULTIPLE = 32  # px


def prepare(picture: Array) -> Array:
    """(H, W, 3) RGB in [0, 1] -> (3, h, w) float32, black at the right and the bottom up to multiples of 32."""
    return padded(picture, MULTIPLE)
