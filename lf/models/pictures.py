"""Building blocks that prepare images for networks. numpy only."""

from __future__ import annotations

import numpy as np

from lf.core import Array

EPSILON = 1e-5  # added to a variance before its root


def padded(picture: Array, multiple: int) -> Array:
    """Pad (H, W, 3) floats with black at the right and the bottom to multiples of `multiple` px: (3, h, w) float32."""
    room = [(0, -side % multiple) for side in picture.shape[:2]]
    return np.pad(np.moveaxis(picture, 2, 0).astype(np.float32), [(0, 0), *room])


def mean_grey(picture: Array) -> Array:
    """Convert (H, W, 3) floats to (H, W) float32: the mean of the three colours, not luma."""
    grey: Array = picture.sum(2, dtype=np.float32) / np.float32(picture.shape[2])
    return grey


def whiten(plane: Array) -> Array:
    """Normalise (H, W) to mean 0 and standard deviation 1 over the whole image; a flat image becomes 0."""
    centred = plane - plane.mean(dtype=np.float64)
    variance = np.square(centred, dtype=np.float64).mean()
    return np.asarray(centred / np.sqrt(variance + EPSILON), np.float32)


def stretch(plane: Array, size: tuple[int, int], corners: bool = True) -> Array:
    """Resize (H, W) to `size` (h, w), bilinearly, without smoothing.

    With `corners`, the centres of the corner pixels are aligned; otherwise, the areas of both images.
    """
    for axis, wanted in enumerate(size):
        if plane.shape[axis] == wanted:
            continue
        last = plane.shape[axis] - 1
        if corners:
            at = np.linspace(0, last, wanted) if wanted > 1 else np.zeros(1)
        else:
            at = np.clip((np.arange(wanted) + 0.5) * (plane.shape[axis] / wanted) - 0.5, 0, last)
        low = np.minimum(at.astype(np.intp), max(0, last - 1))
        share = (at - low).astype(np.float32)[(slice(None), *(None,) * (1 - axis))]
        near, far = plane.take(low, axis), plane.take(np.minimum(low + 1, last), axis)
        plane = near + (far - near) * share
    return plane
