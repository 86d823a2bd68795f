"""Draw score maps: a greyscale image beside the values of the network in colours."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from lf.core import Array
from lf.extraction.extractor import Extractor
from lf.models import Model
from lf.models.decode import heatmap, unfold

RANGE = (1.0, 99.5)  # percentiles of the darkest and the brightest colour
CLASSES = 65  # of a detector with cells of 8x8 px


def draw(extractor: Extractor, image: Array) -> Array | None:
    """Draw an image, uint8 (H, W) or (H, W, 3), and its score map: uint8 RGB (h, 2 w, 3); None without a score map."""
    shown = extractor.fit(image)
    maps = {name: values[0] for name, values in extractor.session.run(extractor.tensor(shown)).items()}
    heat = score_map(extractor.model, maps)
    if heat is None:
        return None
    low, high = np.percentile(heat, RANGE)
    levels = np.clip((heat - low) / max(float(high - low), 1e-12) * 255, 0, 255).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY) if shown.ndim == 3 else shown
    left = cv2.resize(grey[: heat.shape[0], : heat.shape[1]], heat.shape[::-1], interpolation=cv2.INTER_AREA)
    return np.concatenate([cv2.cvtColor(left, cv2.COLOR_GRAY2RGB), coloured], axis=1)


def score_map(model: Model, maps: Mapping[str, Array]) -> Array | None:
    """Return the score of every pixel (H, W): the probability for detectors with classes, otherwise the logit."""
    if "detector" in maps and len(maps["detector"]) == CLASSES:
        return heatmap(maps["detector"])
    if "score" not in maps:
        return None
    return unfold(np.ascontiguousarray(maps["score"]), model.heads["score"][1])
