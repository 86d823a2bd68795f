"""Decode the keypoints of OpenCV's detectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array
from lf.models.decode import Decoded, head, unit


def points(maps: Mapping[str, Array], *, top_k: int | None = None) -> Decoded:
    """Read the point list of a baseline: points (4 + D, 1, N), rows x px, y px, size px, score, then the descriptor."""
    rows = head(maps, "points")[:, 0].T
    best = np.argsort(-rows[:, 3], kind="stable")[:top_k]
    return rows[best, :2], rows[best, 3], unit(rows[best, 4:])
