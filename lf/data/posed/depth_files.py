"""Depth maps beside images: 16-bit PNG, metres x 256, 0 where unknown, in a folder with the suffix `_depth` (KITTI)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from lf.core import Array, BadInput, files
from lf.data import images

SUFFIX = "_depth"
UNITS = 256.0  # per metre
KEPT = 16  # number of maps in memory


def find(image: Path) -> Callable[[Array], Array] | None:
    """Return a function, points (N, 2) px -> depth (N,), for the map beside an image; None without a map."""
    path = image.parent.with_name(f"{image.parent.name}{SUFFIX}") / f"{image.stem}.png"
    return partial(_at, path) if path.is_file() else None


def _at(path: Path, points: Array) -> Array:
    """Return the depth (N,) of the pixels of points; 0 outside the map."""
    depth = _read(path)
    x, y = np.rint(np.nan_to_num(points, nan=-1.0)).astype(np.int64).T
    inside = (x >= 0) & (y >= 0) & (x < depth.shape[1]) & (y < depth.shape[0])
    return np.where(inside, depth[np.where(inside, y, 0), np.where(inside, x, 0)], 0.0)


@lru_cache(maxsize=KEPT)
def _read(path: Path) -> Array:
    data = np.frombuffer(files.read_bytes(path, "a depth map"), np.uint8)
    with images.unheard():
        depth = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if depth is None or depth.dtype != np.uint16 or depth.ndim != 2:
        raise BadInput(f"{path}: no depth map; expected a grey PNG of 16 bits, metres x {UNITS:g}, 0 where unknown")
    return np.asarray(depth / UNITS)
