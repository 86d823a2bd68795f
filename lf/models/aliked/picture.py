"""Prepare an image for ALIKED on the host, as published."""

from __future__ import annotations

import numpy as np

from lf.core import Array

MULTIPLE = 32  # px


def prepare(picture: Array) -> Array:
    """(H, W, 3) RGB in [0, 1] -> (3, h, w) float32: its edges repeated on both sides up to multiples of 32."""
    room = [(before, -side % MULTIPLE - before) for side in picture.shape[:2] for before in [-side % MULTIPLE // 2]]
    return np.pad(np.moveaxis(picture, 2, 0).astype(np.float32), [(0, 0), *room], mode="edge")
