"""Read the outputs of files whose graph contains the decoder."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import FEATURES, Array, LfError
from lf.models.decode import Decoded


def features(maps: Mapping[str, Array], *, top_k: int | None = None) -> Decoded:
    """Read the outputs of a file with the decoder in its graph: keypoints (K, 2), scores (K,), descriptors (K, D).

    Unused slots have the score 0. The result is sorted, best first.

    Raises:
        LfError: an output is missing or has another shape.
    """
    if lost := [name for name in FEATURES if name not in maps]:
        raise LfError(f"the network gives no {lost[0]}, only {', '.join(maps)}; is the file what its card says?")
    points, scores, descriptors = (np.asarray(maps[name], np.float32) for name in FEATURES)
    if scores.ndim != 1 or points.shape != (len(scores), 2) or descriptors.shape[:-1] != scores.shape:
        raise LfError(
            f"features of shapes {points.shape}, {scores.shape}, {descriptors.shape}; expected (K, 2), (K,), (K, D)"
        )
    used = np.flatnonzero(scores != 0)
    best = np.argsort(-np.nan_to_num(scores[used], nan=np.inf), kind="stable")  # NaN sorts first, so that it is noticed
    used = used[best][:top_k]
    return points[used], scores[used], descriptors[used]
