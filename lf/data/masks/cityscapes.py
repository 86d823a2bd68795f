"""Cityscapes: leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png.

`cs19` is read from labelTrainIds if they exist, otherwise from labelIds; all other sets from labelIds.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput, pick
from lf.data import images
from lf.data.masks import Labels
from lf.data.masks.label_sets import FROM_CS34, LABEL_SETS
from lf.data.masks.png import read_ids
from lf.data.masks.readers import Source, collect, one_split

IMAGES, MASKS, ENDING = "leftImg8bit", "gtFine", "_leftImg8bit.png"


def find(folder: Path) -> Path | None:
    """Return the folder of images of a Cityscapes tree, its leftImg8bit, or a folder below that; otherwise None."""
    if IMAGES in folder.absolute().parts:
        return folder
    return folder / IMAGES if (folder / IMAGES).is_dir() else None


def read(folder: Path, wanted: str | None, limit: int | None) -> Labels:
    """Read the frames below a folder that have labels.

    Args:
        folder: leftImg8bit, or a folder below it.
        wanted: row of FROM_CS34; None is cs34.
        limit: number of first frames to keep.

    Raises:
        UsageError: a label set that Cityscapes has no table to, or several splits.
        BadInput: no frame with labels.
    """
    name = wanted or "cs34"
    pick(FROM_CS34, name, "label set for Cityscapes")
    if folder.name == IMAGES:
        (folder,) = one_split(folder, _splits(folder))
    frames = [path for path in images.list_images(folder) if path.name.endswith(ENDING)]
    if not frames:
        raise BadInput(f"{folder}: holds no frame; expected CITY/NAME{ENDING}")
    return collect(folder, frames, partial(_source, name=name), LABEL_SETS[name], limit)


def _splits(folder: Path) -> list[tuple[Path]]:
    return [(split,) for split in sorted(folder.iterdir()) if split.is_dir() and split.name[0] != "."] or [(folder,)]


def _source(path: Path, name: str) -> Source | None:
    parts = path.absolute().parts
    at = len(parts) - 1 - parts[::-1].index(IMAGES)
    stem = Path(*parts[:at], MASKS, *parts[at + 1 : -1]) / path.name.removesuffix(ENDING)
    labels, trained = (stem.with_name(f"{stem.name}_gtFine_{kind}.png") for kind in ("labelIds", "labelTrainIds"))
    if name == "cs19" and trained.is_file():
        return Source(trained, partial(read_ids, trained))
    return Source(labels, partial(_ids, labels, name), name) if labels.is_file() else None


def _ids(path: Path, name: str) -> Array:
    """Read ids and convert them to a label set; ids that Cityscapes does not have are refused."""
    return np.asarray(FROM_CS34[name][LABEL_SETS["cs34-fork"].masked(read_ids(path), path)])
