"""Convert panoptic PNG files of COCO to masks of a label set: 8-bit PNG files of the same names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import BadInput, UsageError, console, files, ledger, pick
from lf.core.fingerprint import versions
from lf.data.masks import VOID
from lf.data.masks.coco import Segments, assign, read_table
from lf.data.masks.label_sets import CATEGORY_FILE, LABEL_SETS, categories, category_class, unlabelled_class
from lf.data.masks.png import read_segments, write_ids

LEDGER = "lf-masks.json"
SOURCES = {"coco-panoptic": None}


@dataclass
class Tally:
    """Counts of a conversion.

    Attributes:
        written: number of written masks.
        kept: number of masks that existed already.
        without_annotation: number of PNG files that the JSON does not list; they get no mask.
        without_png: number of annotations with a missing PNG.
        pixels: number of pixels of the written masks.
        void: number of these pixels that belong to no segment.
        ignored: number of these pixels that the label set leaves out, including void.
    """

    written: int = 0
    kept: int = 0
    without_annotation: int = 0
    without_png: int = 0
    pixels: int = 0
    void: int = 0
    ignored: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the shares of void and ignored pixels."""
        some = max(self.pixels, 1)
        return {**asdict(self), "void_share": self.void / some, "ignored_share": self.ignored / some}


def convert(
    folder: Path,
    to: str,
    out: Path,
    source: str = "coco-panoptic",
    progress: console.Progress = lambda done, total, text: None,
) -> Tally:
    """Write a mask for every panoptic PNG that the JSON lists, and a category file; an interrupted run resumes.

    Args:
        folder: folder of the PNG files, `panoptic_val2017`, or of their images, `val2017`.
        to: label set, see `lf.data.masks.label_sets.category_class`.
        out: folder of the masks.
        source: row of SOURCES.
        progress: called with (done, total, name).

    Raises:
        UsageError: an unknown name, or a folder that holds other masks.
        BadInput: no JSON, no PNG, or a damaged file.
    """
    pick(SOURCES, source, "source of masks")
    classes, void = category_class(to), unlabelled_class(to)
    masks, path = find(folder)
    table = read_table(path)
    there = sorted(each for each in masks.glob("*.png") if each.is_file())
    if not there:
        raise BadInput(f"{masks}: holds no PNG; expected panoptic PNG files of COCO")
    _claim(out, masks, path, to)
    known = [each for each in there if each.name in table]
    tally = Tally(without_annotation=len(there) - len(known), without_png=len(table.keys() - {p.name for p in there}))
    for index, each in enumerate(known):
        progress(index, len(known), each.name)
        if (out / each.name).is_file():
            tally.kept += 1
            continue
        _write(each, table[each.name], classes, void, out / each.name, to, tally)
    progress(len(known), len(known), "")
    return tally


def _write(png: Path, segments: Segments, classes: dict[int, int], void: int, out: Path, to: str, tally: Tally) -> None:
    found = read_segments(png)
    mask = assign(found, segments, classes, void, png)
    tally.pixels += mask.size
    tally.void += int(np.count_nonzero(found == 0))
    tally.ignored += int(np.count_nonzero(LABEL_SETS[to].masked(mask, png) == VOID))
    write_ids(out, mask)
    tally.written += 1


def find(folder: Path) -> tuple[Path, Path]:
    """Find the folder of the panoptic PNG files and their JSON, from that folder or from the folder of the images.

    Raises:
        BadInput: neither is found.
    """
    name = folder.name if folder.name.startswith("panoptic_") else f"panoptic_{folder.name}"
    above = (folder.parent, folder.parent / "annotations", folder.parent.parent)
    masks = [folder] if folder.name == name else [place / name for place in above[:2]]
    found = [each for each in masks if each.is_dir()]
    tables = [path for place in above if (path := place / f"{name}.json").is_file()]
    if not found or not tables:
        what = f"{name}.json" if found else name
        raise BadInput(
            f"{folder}: {what} is not there; expected a folder such as COCO/val2017 or COCO/panoptic_val2017, with "
            "panoptic_val2017 and panoptic_val2017.json beside it or in COCO/annotations"
        )
    return found[0], tables[0]


def _claim(out: Path, masks: Path, table: Path, to: str) -> None:
    """Record in `out` the origin of its masks, with their category file; UsageError if it holds others."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is no folder; choose another place for the masks")
    if out.exists() and out.samefile(masks):
        raise UsageError(f"{out}: holds the panoptic PNG files themselves; choose another folder for the masks")
    identity = {"table": files.sha256(table, "a panoptic JSON of COCO"), "to": to, **versions(__name__)}
    note = ledger.resume(out / LEDGER, identity, work=out, remedy=f"choose another folder, or delete it: rm -r {out}")
    if not note.begun:
        if out.is_dir() and next(out.glob("*.png"), None):
            raise UsageError(f"{out}: holds other PNG files; choose another folder for the masks")
        note.write()
        files.write_json(out / CATEGORY_FILE, categories(LABEL_SETS[to]))
