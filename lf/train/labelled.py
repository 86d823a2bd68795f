"""Labelled images as training images: only segmentation recipes take `masks:` sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from lf.core import Array, UsageError
from lf.data.masks import PREFIX, VOID, Labelled, LabelSet, labelled, resize_mask
from lf.models import MODELS
from lf.train import Recipe

EXPECTED = "labelled images, such as `photos=masks:DIR` or `photos=masks:DIR@camvid11`"


def learns_classes(recipe: Recipe) -> bool:
    """Return whether the network of a recipe has a segmentation."""
    return bool(MODELS[recipe.model].per_class)


def label_set(recipe: Recipe, data: Sequence[str]) -> LabelSet | None:
    """Return the label set that all sources of a run share; None for a network without a segmentation.

    Raises:
        UsageError: a segmentation with sources without masks, masks for another network, or several label sets.
        BadInput: see `lf.data.masks.labelled`.
    """
    masked = [source for source in data if source.startswith(PREFIX)]
    if not learns_classes(recipe):
        if masked:
            raise UsageError(
                f"`photos={masked[0]}`: {recipe.model} has no segmentation head; give it the folder of the images"
            )
        return None
    if plain := [source for source in data if source not in masked]:
        raise UsageError(f"`photos={plain[0]}`: {recipe.model} learns from {EXPECTED}")
    found = [labelled(without_count(source)).classes for source in data]
    if other := next((each for each in found if each.classes != found[0].classes), None):
        one = found[0]
        raise UsageError(
            f"`photos={' '.join(data)}`: {len(one)} classes of {one.name} and {len(other)} of {other.name}; "
            "expected one label set, name it for each source: masks:DIR@SET"
        )
    return found[0]


def without_count(source: str) -> str:
    """Remove the count of a source: `masks:DIR:200` -> `masks:DIR`."""
    name, _, count = source.rpartition(":")
    return name if count.isdecimal() else source


def squares(recipe: Recipe, source: str, count: int) -> Iterator[tuple[Labelled, tuple[int, int, int], Array]]:
    """Yield up to `count` labelled images of a source, each padded to a square.

    The square is as wide as the longer side of the image, with the image in its middle. Beyond the image, pixels are
    mirrored and the mask is VOID.

    Yields:
        (labelled image, left, top and side of the square in its pixels, (P, P, 4) uint8: RGB and class).

    Raises:
        BadInput: a mask cannot be read, or belongs to another image.
    """
    items = labelled(source).items
    if len(items) > count:
        chosen = np.random.default_rng(recipe.seed).choice(len(items), count, replace=False)
        items = tuple(items[index] for index in sorted(chosen))
    for item in items:
        image, mask = item.load()
        height, width = image.shape[:2]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        rim = (top, side - height - top, left, side - width - left)
        padded = cv2.copyMakeBorder(image, *rim, cv2.BORDER_REFLECT)
        ids = cv2.copyMakeBorder(resize_mask(mask, (height, width)), *rim, cv2.BORDER_CONSTANT, value=VOID)
        how = cv2.INTER_AREA if side > recipe.picture_size else cv2.INTER_CUBIC
        square = cv2.resize(padded, (recipe.picture_size,) * 2, interpolation=how)
        yield item, (-left, -top, side), np.dstack([square, resize_mask(ids, (recipe.picture_size,) * 2)])
