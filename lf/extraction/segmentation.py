"""Class of every pixel from the logits of a network."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lf.core import Array, Artifact, Card, Segmentation, UsageError
from lf.data.masks.png import write_palette
from lf.models import NETWORKS, SEGMENTATION
from lf.models.decode import head

if TYPE_CHECKING:
    from lf.extraction.extractor import Extractor

SUFFIX = ".seg.png"  # after the name of an image
TURN = 0.618  # share of the colour circle between two classes without a colour


def refuse_without(artifact: Artifact) -> None:
    """Raise UsageError if a file gives no segmentation."""
    if SEGMENTATION in artifact.card.outputs:
        return
    if artifact.card.features:
        raise UsageError(f"{artifact.path}: contains its decoder, and no segmentation; use the file it was made from")
    known = ", ".join(name for name, row in NETWORKS.items() if row.per_class)
    raise UsageError(f"{artifact.path}: {artifact.card.model} has no segmentation; expected a file of {known}")


def read(
    maps: Mapping[str, Array], shown: tuple[int, ...], image: tuple[int, ...], size: tuple[int, ...]
) -> Segmentation:
    """Read the segmentation from raw maps.

    Args:
        maps: {head: (c, h, w)}.
        shown: (H, W) of the network's input; smaller than `image` if that was cropped.
        image: (H, W) of the image before cropping, after resizing.
        size: (H, W) of the original image.

    Raises:
        LfError: there is no segmentation.
        BadModel: a value is not finite.
    """
    covered = [round(side * whole / fitted) for side, whole, fitted in zip(shown, size, image, strict=True)]
    return Segmentation(head(maps, SEGMENTATION), (covered[0], covered[1]))


def look(extractor: Extractor, image: Array) -> Segmentation:
    """Compute only the segmentation of an image, without keypoints; see `Extractor.__call__`."""
    fitted = extractor.fit(image)
    tensor = extractor.tensor(fitted)
    maps = {name: value[0] for name, value in extractor.session.run(tensor).items()}
    return read(maps, tensor.shape[2:], fitted.shape[:2], image.shape[:2])


def classes(found: Segmentation, size: tuple[int, int]) -> Array:
    """Return the class (H, W) uint8 of every pixel of an image of `size`, see `decide`.

    Cropped pixels, less than a cell at the right and the bottom, get the class of the nearest pixel of the network's
    input.

    Raises:
        UsageError: more classes than fit into 8 bits.
    """
    if len(found.logits) > 1 << 8:
        raise UsageError(f"{len(found.logits)} classes; expected at most 256 for an 8-bit mask")
    height, width = found.covers
    return np.pad(decide(found.logits, found.covers), ((0, size[0] - height), (0, size[1] - width)), "edge")


def decide(logits: Array, size: tuple[int, int]) -> Array:
    """Return the class (H, W) uint8 of every pixel: arg-max of bilinearly resized logits (C, h, w), areas aligned."""
    best = np.full(size, -np.inf, np.float32)
    chosen = np.zeros(size, np.uint8)
    for index, plane in enumerate(logits):  # one class at a time: all classes of a large image would not fit in memory
        resized = cv2.resize(np.asarray(plane, np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        above = resized > best
        best[above], chosen[above] = resized[above], index
    return chosen


def palette(card: Card) -> Array:
    """Return colours (classes, 3) uint8 RGB: those of the card, or distinct hues if it names no classes."""
    if card.classes:
        return np.array([colour for _, colour in card.classes], np.uint8)
    hues = (TURN * n % 1 for n in range(card.outputs[SEGMENTATION][0]))
    return np.array([[round(255 * level) for level in colorsys.hsv_to_rgb(hue, 0.7, 0.9)] for hue in hues], np.uint8)


def write(path: Path, found: Segmentation, size: tuple[int, int], card: Card) -> None:
    """Write the class of every pixel of an image of `size` (H, W) as a PNG with the colours of classes as palette."""
    write_palette(path, classes(found, size), palette(card))
