"""Draw masks: colours over the greyscale image, a legend, and warped labelled images.

uint8 RGB, OpenCV only. Colours are those of the label set, of which each class has one. Pixels that are left out stay
grey, and are darker.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from lf.core import Array
from lf.data import homography
from lf.data.contact_sheets import FONT, INK, WIDTH, Panel, drawable
from lf.data.masks import VOID, Labelled, LabelSet, resize_mask, warp_mask

ALPHA = 0.5  # opacity of a class over the image
DARK = 0.6  # brightness of the image without a class
SQUARE, ROW, GAP = 16, 26, 22  # px of the legend
LEFT_OUT = "left out"


def overlay(image: Array, mask: Array, palette: Array, alpha: float = ALPHA) -> Array:
    """Draw the colours of a mask over the grey image.

    Args:
        image: uint8 (H, W) or (H, W, 3) RGB.
        mask: (h, w) uint8; resized to the image.
        palette: (256, 3) uint8 RGB by id.
        alpha: opacity of the colours.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    mask = resize_mask(mask, (grey.shape[0], grey.shape[1]))
    below = grey[..., None].astype(np.float64)
    blended = (1 - alpha) * below + alpha * palette[mask].astype(np.float64)
    return np.asarray(np.rint(np.where((mask == VOID)[..., None], below * DARK, blended)).astype(np.uint8))


def legend(classes: LabelSet, ids: Iterable[int], width: int = WIDTH, palette: Array | None = None) -> Array:
    """Draw a strip (h, width, 3) with a square and the name of each class of `ids`, in as many rows as needed.

    `palette` (256, 3) replaces that of the label set.
    """
    palette = classes.palette if palette is None else palette
    entries = [(classes.names[n], palette[n]) for n in sorted({*ids} - {VOID}) if n < len(classes)]
    if VOID in ids:
        entries.append((LEFT_OUT, np.full(3, round(128 * DARK), np.uint8)))
    placed, x, y = [], 0, 0
    for name, colour in entries:
        text = drawable(name)
        long = SQUARE + 6 + cv2.getTextSize(text, FONT, 0.5, 1)[0][0]
        if x and x + long > width:
            x, y = 0, y + ROW
        placed.append((x, y, text, colour))
        x += long + GAP
    strip = np.full((y + ROW + 4, width, 3), 255, np.uint8)
    for left, top, text, colour in placed:
        strip[top + 4 : top + 4 + SQUARE, left : left + SQUARE] = colour
        cv2.rectangle(strip, (left, top + 4), (left + SQUARE - 1, top + 3 + SQUARE), INK, 1)
        cv2.putText(strip, text, (left + SQUARE + 6, top + 17), FONT, 0.5, INK, 1, cv2.LINE_AA)
    return strip


def seen(masks: Iterable[Array]) -> set[int]:
    """Return the ids that occur in masks."""
    return {n for mask in masks for n in np.flatnonzero(np.bincount(mask.ravel(), minlength=1)).tolist()}


def share(mask: Array) -> str:
    """Format the number of classes of a mask and its share of ignored pixels, for captions."""
    count = len(seen([mask]) - {VOID})
    return f"{count} class{'es' * (count != 1)}, {(mask == VOID).mean():.0%} left out"


def warped(items: Sequence[Labelled], seed: int = 0) -> tuple[list[Panel], list[Array]]:
    """Make four panels of each labelled image: image, mask, both under one random homography; also return all masks."""
    panels, masks = list[Panel](), list[Array]()
    for index, item in enumerate(items):
        image, mask = item.load()
        size = image.shape[0], image.shape[1]
        mask = resize_mask(mask, size)
        matrix = homography.sample(np.random.default_rng([seed, index]), size)
        moved = homography.warp_image(image, matrix, size), warp_mask(mask, matrix, size)
        palette, name = item.classes.palette, item.image.key
        panels += [
            Panel(image, f"{name}"),
            Panel(overlay(image, mask, palette), f"{name}: {share(mask)}"),
            Panel(moved[0], f"{name} warped"),
            Panel(overlay(*moved, palette), f"{name} warped: {share(moved[1])}"),
        ]
        masks += [mask, moved[1]]
    return panels, masks


def masked(views: Sequence[Array], masks: Sequence[Array], classes: LabelSet, name: str) -> list[Panel]:
    """Make a panel of the classes of each view of a pair; masks are (H, W) uint8 of the views' size."""
    return [
        Panel(overlay(view, mask, classes.palette), f"{name} {which}, {share(mask)}")
        for view, mask, which in zip(views, masks, ("first", "second"), strict=True)
    ]


def beside(image: Array, truth: Array, predicted: Array, classes: LabelSet) -> tuple[list[Panel], Array]:
    """Make three panels, truth, prediction and their differences, and their legend.

    Args:
        image: uint8 (H, W, 3) RGB.
        truth: (h, w) uint8.
        predicted: (h, w) uint8, of the size of the truth.
        classes: the label set.
    """
    wrong = np.where(truth == VOID, VOID, truth != predicted).astype(np.uint8)
    error = float((truth != predicted)[truth != VOID].mean()) if (truth != VOID).any() else 0.0
    errors = np.full((256, 3), 0, np.uint8)
    errors[:2] = (242, 242, 242), (230, 159, 0)  # right is white, wrong is orange
    panels = [
        Panel(overlay(image, truth, classes.palette), f"truth: {share(truth)}"),
        Panel(overlay(image, predicted, classes.palette), f"prediction: {share(predicted)}"),
        Panel(overlay(image, wrong, errors), f"orange: wrong, {error:.1%} of the counted pixels"),
    ]
    return panels, legend(classes, seen([truth, predicted]))
