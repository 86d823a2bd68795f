"""Pictures of matches: two images side by side, a line per match, coloured by its error under the true homography."""

from __future__ import annotations

import cv2
import numpy as np

from lf.benchmarks.matching import mutual
from lf.core import Array, Features
from lf.data.homography import warp_points

RIGHT, WRONG = (0, 114, 178), (230, 159, 0)  # RGB, blue and orange of the Okabe-Ito palette: safe for colour-blind eyes
CORRECT = 3.0  # px


def matches(
    images: tuple[Array, Array],
    features: tuple[Features, Features],
    homography: Array | None,
    title: str,
    height: int = 480,
) -> Array:
    """Draw the mutual nearest neighbours of two images; uint8 (height + caption, W, 3) RGB.

    With a homography (3, 3) first -> second: blue lines lie within 3 px of the truth, orange ones do not.
    """
    first, second = features
    i, j = mutual(first.descriptors, second.descriptors, "dot")
    start, end = first.keypoints[i], second.keypoints[j]
    right = np.ones(len(i), bool)
    if homography is not None:
        right = np.linalg.norm(warp_points(start, homography) - end, axis=1) <= CORRECT
    scales = [height / image.shape[0] for image in images]
    panels = [_panel(image, found, scale) for image, found, scale in zip(images, features, scales, strict=True)]
    canvas = np.concatenate([panels[0], np.full((height, 8, 3), 255, np.uint8), panels[1]], axis=1)
    offset = panels[0].shape[1] + 8
    for good in (False, True):  # right ones on top
        chosen = right == good
        _lines(canvas, start[chosen] * scales[0], end[chosen] * scales[1] + (offset, 0), RIGHT if good else WRONG)
    text = (
        f"{len(i)} matches" if homography is None else f"{int(right.sum())} of {len(i)} matches within {CORRECT:g} px"
    )
    return np.concatenate([_caption(f"{title}: {text}", canvas.shape[1]), canvas])


def _panel(image: Array, found: Features, scale: float) -> Array:
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    panel = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    panel = cv2.cvtColor(panel, cv2.COLOR_GRAY2RGB) if panel.ndim == 2 else panel
    panel = cv2.addWeighted(panel, 0.75, np.full_like(panel, 255), 0.25, 0)  # paler, so that lines stand out
    for x, y in np.round(found.keypoints * scale).astype(int).tolist():
        cv2.circle(panel, (x, y), 2, (60, 60, 60), 1, cv2.LINE_AA)
    return np.asarray(panel)


def _lines(canvas: Array, start: Array, end: Array, colour: tuple[int, int, int]) -> None:
    for (x0, y0), (x1, y1) in zip(
        np.round(start).astype(int).tolist(), np.round(end).astype(int).tolist(), strict=True
    ):
        cv2.line(canvas, (x0, y0), (x1, y1), colour, 1, cv2.LINE_AA)


def _caption(text: str, width: int) -> Array:
    bar = np.full((36, width, 3), 255, np.uint8)
    cv2.putText(bar, text, (10, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (30, 30, 30), 1, cv2.LINE_AA)
    return bar
