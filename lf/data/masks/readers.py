"""Detect the layout of a folder of labelled images and read it: Cityscapes, COCO panoptic, pairs of files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from lf.core import Array, BadInput, UsageError, files
from lf.data import images
from lf.data.masks import Labelled, Labels, LabelSet

EXPECTED = (
    "leftImg8bit and gtFine of Cityscapes; train2017 with panoptic_train2017 and its .json of COCO; images and masks; "
    "NAME and NAMEannot; or two folders, masks:IMAGES,MASKS"
)


Split = TypeVar("Split", bound=tuple[Path, ...])


class Source(NamedTuple):
    """Source of a mask: its file, the function that reads its ids, and its settings."""

    path: Path
    ids: Callable[[], Array]
    settings: str = ""


def read(where: str, wanted: str | None, limit: int | None) -> Labels:
    """Read the labelled images of a place; see `lf.data.masks.labelled`.

    Raises:
        UsageError: an unknown label set, or several splits.
        BadInput: no such folder, or none with labelled images.
    """
    from lf.data.masks import cityscapes, coco, pairs

    first, comma, second = where.partition(",")
    folder = files.expand(where)
    if comma and not folder.exists():
        return pairs.read(files.expand(first), files.expand(second), wanted, limit)
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; expected {EXPECTED}")
    if (tree := cityscapes.find(folder)) is not None:
        return cityscapes.read(tree, wanted, limit)
    if found := coco.find(folder):
        return coco.read(one_split(folder, found), wanted, limit)
    if both := pairs.find(folder, wanted):
        return pairs.read(*one_split(folder, both), wanted, limit)
    raise BadInput(f"{folder}: holds no labelled images; expected {EXPECTED}")


def one_split(folder: Path, found: Sequence[Split]) -> Split:
    """Return the only split; the first entry of each is its folder of images.

    Raises:
        UsageError: there are several; the user must choose one.
    """
    if len(found) > 1:
        names = " or ".join(f"masks:{split[0]}" for split in found)
        raise UsageError(f"{folder}: holds {len(found)} splits; expected one, type: {names}")
    return found[0]


def collect(
    folder: Path, paths: Iterable[Path], mask_of: Callable[[Path], Source | None], classes: LabelSet, limit: int | None
) -> Labels:
    """Return the images of `paths`, below `folder`, that have a mask, and the number without one.

    Raises:
        BadInput: no image has a mask, or a file cannot be opened.
    """
    items: list[Labelled] = []
    left_out = 0
    for path in paths:
        if limit is not None and len(items) == limit:
            break
        source = mask_of(path)
        if source is None:
            left_out += 1
            continue
        picture = images.picture(path, path.relative_to(folder).with_suffix("").as_posix())
        words = f"{files.sha256(source.path, 'a mask')} {source.settings}"
        digest = hashlib.sha256(words.encode()).hexdigest()
        items.append(Labelled(picture, source.ids, source.path, digest, classes))
    if not items:
        raise BadInput(f"{folder}: none of its {left_out} images has a mask; expected {EXPECTED}")
    return Labels(str(folder), tuple(items), classes, left_out)
