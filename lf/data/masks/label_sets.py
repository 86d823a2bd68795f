"""LABEL_SETS: classes with their colours, and mappings between sets.

Cityscapes: label ids, names, colours and train ids of the data set's own label file. `cs34` leaves out the
same classes as its benchmark; `cs34-fork` leaves out no class, as in pytorch-superpoint's segmentation fork.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lf.core import Array, Artifact, BadInput, UsageError, files, pick
from lf.data.masks import VOID, ClassRow, LabelSet
from lf.data.masks.coco_categories import CATEGORIES
from lf.formats.model_file import CODECS, load

CATEGORY_FILE = "categories.json"

CITYSCAPES = (  # name, colour, train id; Cityscapes' own evaluation leaves out VOID
    ("unlabeled", (0, 0, 0), VOID),
    ("ego vehicle", (0, 0, 0), VOID),
    ("rectification border", (0, 0, 0), VOID),
    ("out of roi", (0, 0, 0), VOID),
    ("static", (0, 0, 0), VOID),
    ("dynamic", (111, 74, 0), VOID),
    ("ground", (81, 0, 81), VOID),
    ("road", (128, 64, 128), 0),
    ("sidewalk", (244, 35, 232), 1),
    ("parking", (250, 170, 160), VOID),
    ("rail track", (230, 150, 140), VOID),
    ("building", (70, 70, 70), 2),
    ("wall", (102, 102, 156), 3),
    ("fence", (190, 153, 153), 4),
    ("guard rail", (180, 165, 180), VOID),
    ("bridge", (150, 100, 100), VOID),
    ("tunnel", (150, 120, 90), VOID),
    ("pole", (153, 153, 153), 5),
    ("polegroup", (153, 153, 153), VOID),
    ("traffic light", (250, 170, 30), 6),
    ("traffic sign", (220, 220, 0), 7),
    ("vegetation", (107, 142, 35), 8),
    ("terrain", (152, 251, 152), 9),
    ("sky", (70, 130, 180), 10),
    ("person", (220, 20, 60), 11),
    ("rider", (255, 0, 0), 12),
    ("car", (0, 0, 142), 13),
    ("truck", (0, 0, 70), 14),
    ("bus", (0, 60, 100), 15),
    ("caravan", (0, 0, 90), VOID),
    ("trailer", (0, 0, 110), VOID),
    ("train", (0, 80, 100), 16),
    ("motorcycle", (0, 0, 230), 17),
    ("bicycle", (119, 11, 32), 18),
)
_FOUR = (("static structure", (0, 0, 255)), ("flat surfaces", (0, 255, 0)), ("dynamic objects", (255, 0, 0)))
_AMBIGUOUS = ("unstable/ambiguous", (255, 255, 255))
_CAMVID = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)


def _coco_colour(index: int) -> tuple[int, int, int]:
    """Return a colour, spread over the RGB cube: the categories have none."""
    red, green, blue = ((37 * index + 61) % 256, (97 * index + 151) % 256, (173 * index + 29) % 256)
    return red, green, blue


LABEL_SETS: dict[str, LabelSet] = {
    row.name: row
    for row in (
        LabelSet("cs34", tuple(ClassRow(name, colour, train == VOID) for name, colour, train in CITYSCAPES)),
        LabelSet("cs34-fork", tuple(ClassRow(name, colour) for name, colour, _ in CITYSCAPES)),
        LabelSet("cs19", tuple(ClassRow(name, colour) for name, colour, train in CITYSCAPES if train != VOID)),
        LabelSet("cs4", tuple(ClassRow(*row) for row in (*_FOUR, _AMBIGUOUS))),
        LabelSet("camvid11", tuple(ClassRow(*row) for row in _CAMVID), void=(11,)),
        LabelSet("coco133", tuple(ClassRow(row.name, _coco_colour(n)) for n, row in enumerate(CATEGORIES))),
    )
}


def _table(target: list[int]) -> Array:
    """Make a table (256,) uint8 from Cityscapes ids to classes of another set; 255 and unknown ids become 255."""
    return np.array(target + [VOID] * (256 - len(target)), np.uint8)


_STATIC, _FLAT, _DYNAMIC = range(11, 21), (7, 8, 9, 10, 22), range(24, 34)
_SAME = list(range(34))
FROM_CS34: dict[str, Array] = {  # label set -> (256,) uint8, of Cityscapes ids
    "cs34": _table(_SAME),
    "cs34-fork": _table(_SAME),
    "cs19": _table([train for *_, train in CITYSCAPES]),
    "cs4": _table([0 if n in _STATIC else 1 if n in _FLAT else 2 if n in _DYNAMIC else 3 for n in _SAME]),
}


def category_class(target: str) -> dict[int, int]:
    """Map COCO category ids to ids of a label set: `coco133` in the order of the ids, others through Cityscapes.

    Raises:
        UsageError: a label set that COCO has no table to.
    """
    table = pick({**FROM_CS34, "coco133": None}, target, "label set for COCO")
    if table is None:
        return {row.id: n for n, row in enumerate(CATEGORIES)}
    return {row.id: int(table[row.fork if target == "cs34-fork" else row.ours]) for row in CATEGORIES}


def unlabelled_class(target: str) -> int:
    """Return the id of pixels that belong to no segment of COCO."""
    return VOID if target == "coco133" else int(FROM_CS34[target][0])


def categories(labels: LabelSet) -> list[dict[str, Any]]:
    """Return the rows of a category file: id, name, colour; and `ignored` for classes that are left out."""
    return [
        {"id": n, "name": row.name, "color": [*row.colour], **({"ignored": True} if row.ignored else {})}
        for n, row in enumerate(labels.classes)
    ]


def read_categories(path: Path) -> LabelSet:
    """Read the label set of a category file.

    Raises:
        BadInput: no such file, or not a list of {id, name, color} with ids from 0 on.
    """
    what = 'a category file: [{"id": 0, "name": "road", "color": [128, 64, 128]}, ...]'
    rows = files.read_json(path, what)
    if not isinstance(rows, list) or not rows or len(rows) > VOID:
        raise BadInput(f"{path}: not a list of 1 to {VOID} categories; expected {what}")
    classes = [_category(path, row, n, what) for n, row in enumerate(rows)]
    return LabelSet(path.stem if path.name != CATEGORY_FILE else path.parent.name, tuple(classes))


def _category(path: Path, row: Any, index: int, what: str) -> ClassRow:
    row = row if isinstance(row, dict) else {}
    name, colour, ignored = row.get("name"), row.get("color"), row.get("ignored", False)
    if row.get("id") != index or not isinstance(name, str) or not isinstance(ignored, bool):
        raise BadInput(f"{path}: entry {index} is not category {index} with a name; expected {what}")
    if not isinstance(colour, list) or len(colour) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in colour):
        raise BadInput(f"{path}: the color of category {index} is {str(colour)[:60]}; expected [R, G, B] from 0 to 255")
    return ClassRow(name, (colour[0], colour[1], colour[2]), ignored)


def label_set(name: str) -> LabelSet:
    """Return a label set by its name, its category file, or a model file or run folder with the classes in its card.

    Raises:
        UsageError: unknown set, or the card names no classes.
        BadInput: see `read_categories` and `lf.formats.model_file.load`.
    """
    path = files.expand(name)
    if name.lower().endswith(".json"):
        return read_categories(path)
    if name not in LABEL_SETS and (path.is_dir() or path.suffix in CODECS):
        return of_card(load(_weights(path)))
    if name not in LABEL_SETS and "/" in name:
        raise UsageError(
            f"unknown label set {name!r}; expected {', '.join(LABEL_SETS)}, a category file .json, a model file, "
            "or the folder of a run"
        )
    return pick(LABEL_SETS, name, "label set")


def of_card(artifact: Artifact) -> LabelSet:
    """Return the classes in the card of a model file: the first equal row of LABEL_SETS, if there is one.

    Raises:
        UsageError: the card names no classes.
    """
    table = artifact.card.classes
    if not table:
        raise UsageError(f"{artifact.path}: its card names no classes; expected a label set, such as cs34")
    for row in LABEL_SETS.values():
        if tuple((each.name, each.colour) for each in row.classes) == table:
            return row
    return LabelSet(artifact.path.name, tuple(ClassRow(*each) for each in table))


def _weights(path: Path) -> Path:
    """Return the model file itself, or the model file in the folder of a run.

    Raises:
        BadInput: the folder has no model file, or several.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise BadInput(f"{path}: holds {len(found)} files .safetensors; expected the one of a finished run of lf train")
    return found[0]
