"""Labelled images as a dataset of benchmarks: one record per image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from lf.core import Array
from lf.data import Pair, Picture
from lf.data.masks import PREFIX, Labelled, labelled

KIND = "classes"


@dataclass(frozen=True)
class Unit(Pair):
    """A labelled image. Its second image is its mask in the colours of the label set, so its digest covers both."""

    labelled: Labelled

    @property
    def kind(self) -> str:
        """Kind of truth, `classes`."""
        return KIND


def open_units(where: str, limit: int | None = None) -> list[Unit]:
    """Open the labelled images of `masks:WHERE`, see `lf.data.masks.labelled`; each is its own sequence."""
    return [unit(item) for item in labelled(PREFIX + where, limit)]


def unit(item: Labelled) -> Unit:
    """Convert a labelled image to a unit of a benchmark."""
    mask = Picture(f"{item.image.key}/mask", partial(coloured, item), item.digest)
    return Unit(item.image.key, "mask", item.image, mask, np.eye(3), item)


def coloured(item: Labelled) -> Array:
    """Draw the mask (H, W, 3) RGB in the colours of its classes."""
    return np.asarray(item.classes.palette[item.mask()])
