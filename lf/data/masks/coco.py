"""COCO panoptic: train2017/NAME.jpg, panoptic_train2017/NAME.png and panoptic_train2017.json.

The PNG and the JSON are beside the images, or in `annotations` beside them; both layouts are common.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lf.core import Array, BadInput, files
from lf.data import images
from lf.data.masks import Labels
from lf.data.masks.label_sets import LABEL_SETS, category_class, unlabelled_class
from lf.data.masks.png import read_segments
from lf.data.masks.readers import Source, collect

MAX_JSON = 1 << 30  # bytes; that of the training split has 0.3 GB
WHAT = "a panoptic JSON of COCO: annotations with file_name and segments_info"

Segments = Mapping[int, int]  # segment id -> category id


class Split(NamedTuple):
    """A split of COCO: its images, its panoptic JSON, and the folder of its panoptic PNG files."""

    images: Path
    table: Path
    masks: Path


def find(folder: Path) -> list[Split]:
    """Find the split with its images in a folder, or the splits inside a folder."""
    own = _split(folder)
    if own:
        return [own]
    found = [_split(inner) for inner in sorted(folder.iterdir()) if inner.is_dir()]
    return [split for split in found if split]


def _split(folder: Path) -> Split | None:
    name, places = f"panoptic_{folder.name}", (folder.parent, folder.parent / "annotations")
    tables = [path for place in places if (path := place / f"{name}.json").is_file()]
    masks = [path for place in places if (path := place / name).is_dir()]
    return Split(folder, tables[0], masks[0]) if tables and masks else None


def read(split: Split, wanted: str | None, limit: int | None) -> Labels:
    """Read the images of a split that have a panoptic mask.

    Args:
        split: its folders and JSON.
        wanted: label set: `coco133`, or one that has a table from Cityscapes; None is cs34.
        limit: number of first images to keep.

    Raises:
        UsageError: a label set that COCO has no table to.
        BadInput: a file is damaged, or no image has a mask.
    """
    name = wanted or "cs34"
    classes, void = category_class(name), unlabelled_class(name)
    table = read_table(split.table)

    def source(path: Path) -> Source | None:
        mask = split.masks / f"{path.stem}.png"
        segments = table.get(mask.name)
        if segments is None or not mask.is_file():
            return None
        return Source(mask, partial(paint, mask, segments, classes, void), f"{name} {sorted(segments.items())}")

    return collect(split.images, images.list_images(split.images), source, LABEL_SETS[name], limit)


def paint(path: Path, segments: Segments, classes: Mapping[int, int], void: int) -> Array:
    """Read the ids (H, W) uint8 of a panoptic PNG; see `assign`.

    Raises:
        BadInput: the PNG cannot be read, or holds a segment that the JSON does not list.
    """
    return assign(read_segments(path), segments, classes, void, path)


def assign(found: Array, segments: Segments, classes: Mapping[int, int], void: int, path: Path) -> Array:
    """Convert segment ids (H, W) to class ids (H, W) uint8 by category; 0 becomes `void`.

    Raises:
        BadInput: the JSON does not list a segment of the file `path`.
    """
    ids, place = np.unique(found, return_inverse=True)
    known = {0: void} | {segment: classes[category] for segment, category in segments.items()}
    if strange := [segment for segment in ids.tolist() if segment not in known]:
        raise BadInput(
            f"{path}: holds segment {strange[0]}, which its JSON does not list; expected the JSON of this PNG"
        )
    painted = np.array([known[segment] for segment in ids.tolist()], np.uint8)
    return np.asarray(painted[place].reshape(found.shape))


def read_table(path: Path) -> dict[str, Segments]:
    """Read the segments of each panoptic PNG, by file name.

    Raises:
        BadInput: not a panoptic JSON, or a category is not one of COCO's 133.
    """
    data = files.read_json(path, WHAT, MAX_JSON)
    rows = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise BadInput(f"{path}: holds no list of annotations; expected {WHAT}")
    known = category_class("coco133")
    return dict(_annotation(path, row, n, known) for n, row in enumerate(rows))


def _annotation(path: Path, row: Any, index: int, known: Mapping[int, int]) -> tuple[str, Segments]:
    try:
        segments = {each["id"]: each["category_id"] for each in row["segments_info"]}
        name = row["file_name"]
        if not isinstance(name, str) or not all(type(v) is int for pair in segments.items() for v in pair):
            raise TypeError("a name or an id of another type")
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: annotations[{index}] is damaged ({error}); expected {WHAT}") from error
    strange = sorted(set(segments.values()) - known.keys())
    if strange:
        raise BadInput(f"{path}: annotations[{index}] has category {strange[0]}; expected one of COCO panoptic's 133")
    return name, segments
