"""Labelled images in any two folders: NAME.jpg and NAME.png, also in subfolders of the same names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lf.core import BadInput, UsageError
from lf.data import images
from lf.data.masks import Labels, LabelSet
from lf.data.masks.label_sets import CATEGORY_FILE, LABEL_SETS, label_set, read_categories
from lf.data.masks.png import read_ids
from lf.data.masks.readers import Source, collect

Both = tuple[Path, Path]


def find(folder: Path, wanted: str | None) -> list[Both]:
    """Find folders of images with their folders of masks, beside or inside a folder.

    NAME goes with NAMEannot (CamVid) and with panoptic_SET_NAME (converted COCO); `images` with `masks`.
    """
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return [(folder / "images", folder / "masks")]
    if masks := _masks(folder, wanted):
        return [(folder, masks)]
    inner = [each for each in sorted(folder.iterdir()) if each.is_dir()]
    return [(each, masks) for each in inner if (masks := _masks(each, wanted))]


def _masks(folder: Path, wanted: str | None) -> Path | None:
    names = [
        f"{folder.name}annot",
        *(f"panoptic_{name}_{folder.name}" for name in ([wanted] if wanted else LABEL_SETS)),
    ]
    return next((path for name in names if (path := folder.parent / name).is_dir()), None)


def read(folder: Path, masks: Path, wanted: str | None, limit: int | None) -> Labels:
    """Read the images of a folder that have a mask with the same name in the other.

    Raises:
        UsageError: the classes of the masks are unknown.
        BadInput: no such folder, or no image with a mask.
    """
    if not masks.is_dir():
        raise BadInput(f"{masks}: no such folder; expected a folder of masks NAME.png for the images of {folder}")

    def source(path: Path) -> Source | None:
        mask = masks / path.relative_to(folder).with_suffix(".png")
        return Source(mask, partial(read_ids, mask)) if mask.is_file() else None

    return collect(folder, images.list_images(folder), source, _classes(folder, masks, wanted), limit)


def _classes(folder: Path, masks: Path, wanted: str | None) -> LabelSet:
    if wanted:
        return label_set(wanted)
    for place in (masks, masks.parent):
        if (path := place / CATEGORY_FILE).is_file():
            return read_categories(path)
    for name in LABEL_SETS:
        if masks.name.startswith(f"panoptic_{name}_"):
            return LABEL_SETS[name]
    raise UsageError(
        f"{masks}: nothing says which classes its masks hold; type: masks:{folder}@camvid11, with one of "
        f"{', '.join(LABEL_SETS)}, or masks:{folder}@FILE.json; or put a {CATEGORY_FILE} there"
    )
