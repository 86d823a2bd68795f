"""Extraction at several scales: the published pyramid of a network, and one for every other network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from lf.core import Array, BadInput, Features, UsageError
from lf.extraction.clock import Clock

if TYPE_CHECKING:
    from lf.extraction.extractor import Extractor

NAME = "pyramid"  # name of this extraction
STEP = 2**0.5  # between two levels
SMALLEST = 0.25  # scale of the last level: two views may differ by a factor of 4


def check_pyramid(extractor: Extractor) -> None:
    """Raise UsageError if an extractor cannot use a pyramid.

    Raises:
        UsageError: the file has the decoder in its graph or a fixed size, or the points come from another detector, or
            a segmentation or a size was requested.
    """
    card, asked = extractor.artifact.card, f"`extraction={NAME}`: "
    where = str(extractor.artifact.path)
    if card.features:
        raise UsageError(f"{asked}{where} contains its decoder; start from the file that it was made from")
    if card.size is not None:
        raise UsageError(f"{asked}{where} takes {card.size[0]}x{card.size[1]} only; export it again without `size`")
    if extractor.model.module is None:
        raise UsageError(f"{asked}{card.model} has its own pyramid; leave it out")
    for given, name in ((extractor.keypoints, "keypoints"), (extractor.resize, "size")):
        if given:
            raise UsageError(f"{asked}it has scales of its own; leave `{name}` out")
    if extractor.segmentation:
        raise UsageError(f"{asked}a segmentation has one scale; leave one of the two out")


def scaled(extractor: Extractor, image: Array, clock: Clock) -> Features:
    """Extract keypoints of an image at scales 1, 2^-0.5, 0.5, 2^-1.5 and 0.25, best first.

    Every level is made from the image itself by area averaging; keypoints are mapped back half-pixel exact. Levels
    smaller than 8 cells of the network are left out. Scores of all levels compete.

    Returns:
        Features whose scales are the pixels of the image that one pixel of their level covers.

    Raises:
        BadInput: the image is too small for the network.
        BadModel: see `Extractor.__call__`.
    """
    height, width = image.shape[:2]
    found, scale = list[Features](), 1.0
    least = 8 * extractor.model.multiple
    while scale >= SMALLEST - 1e-9:
        shape = round(width * scale), round(height * scale)
        if scale < 1 and min(shape) < least:
            break
        with clock.phase("preprocess"):
            level = image if scale == 1 else cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
        seen = extractor.once(level, clock)
        factor = np.array([width / shape[0], height / shape[1]], np.float32)
        places = (seen.keypoints + np.float32(0.5)) * factor - np.float32(0.5)
        sizes = np.full(len(seen), 1 / scale, np.float32)
        found.append(Features(places, seen.scores, seen.descriptors, (width, height), sizes))
        scale /= STEP
    return joined(found, (width, height)).top(None)


def joined(found: list[Features], size: tuple[int, int]) -> Features:
    """Concatenate the features of all levels of an image of `size` (W, H), level by level.

    Raises:
        BadInput: there is no level.
    """
    if not found:
        raise BadInput(f"an image of {size[0]}x{size[1]} is too small for any level of the pyramid")
    return Features(
        np.concatenate([f.keypoints for f in found]),
        np.concatenate([f.scores for f in found]),
        np.concatenate([f.descriptors for f in found]),
        size,
        np.concatenate([f.scales for f in found if f.scales is not None]),
    )
