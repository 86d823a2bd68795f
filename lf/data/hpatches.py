"""The HPatches layout: `<i_*|v_*>/1.ppm ... 6.ppm` and `H_1_2 ... H_1_6`; any number of pairs, other image formats too.

Source: Balntas et al., "HPatches: a benchmark and evaluation of handcrafted and learned local descriptors", CVPR 2017.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput
from lf.data import Pair, Picture, images

SUFFIXES = (".ppm", ".png", ".jpg", ".jpeg")

# Sequences with images above 1600 x 1200, left out by protocol `mma` (D2-Net, arXiv:1905.03561; the first is spelt so).
OVERSIZE = (
    "i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding", "v_artisans", "v_astronautis", "v_talent",
)  # fmt: skip


def pairs(root: Path, limit_sequences: int | None = None, exclude: Collection[str] = ()) -> list[Pair]:
    """Image 1 of each sequence paired with each other one that has a homography, in byte order of the sequences.

    Args:
        root: the folder that holds the sequences.
        limit_sequences: keep so many, the first ones of `i_` and `v_` in turn, so that a short run sees both.
        exclude: names of sequences to leave out, such as OVERSIZE.

    Raises:
        BadInput: no folder that can be read, no sequence in it, a missing image, or a file that is no homography.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; expected one that holds sequences named i_* and v_*")
    try:
        folders = [f for f in root.iterdir() if f.name[:2] in ("i_", "v_") and f.is_dir() and f.name not in exclude]
    except OSError as error:
        raise BadInput(f"{root}: cannot be read ({error.strerror}); expected a folder of sequences") from error
    if not folders:
        raise BadInput(f"{root}: holds no sequence; expected folders named i_* or v_* with 1.ppm, 2.ppm, H_1_2 ...")
    folders.sort(key=os.fsencode)
    kinds = {kind: [f for f in folders if f.name[0] == kind] for kind in "iv"}
    chosen = sorted(folders, key=lambda f: kinds[f.name[0]].index(f))[:limit_sequences]
    return [pair for folder in sorted(chosen, key=os.fsencode) for pair in sequence(folder)]


def sequence(folder: Path) -> list[Pair]:
    """The pairs of one sequence, by number.

    Raises:
        BadInput: see `pairs`.
    """
    numbers = sorted(int(f.name[4:]) for f in folder.glob("H_1_*") if f.name[4:].isdecimal())
    if not numbers:
        raise BadInput(f"{folder}: holds no homography; expected files H_1_2, H_1_3 ...")
    first = find(folder, 1)
    return [Pair(folder.name, f"1_{k}", first, find(folder, k), read_homography(folder / f"H_1_{k}")) for k in numbers]


def find(folder: Path, number: int) -> Picture:
    """Image `number` of a sequence, in the first format it has.

    Raises:
        BadInput: it has none.
    """
    for suffix in SUFFIXES:
        path = folder / f"{number}{suffix}"
        if path.is_file():
            return images.picture(path, f"{folder.name}/{number}")
    raise BadInput(f"{folder}: image {number} is missing; expected {number} with one of {', '.join(SUFFIXES)}")


def read_homography(path: Path) -> Array:
    """(3, 3) float64 from nine numbers, row by row, scaled as in the file.

    Raises:
        BadInput: absent, not nine finite numbers, or without an inverse.
    """
    try:
        values = np.array([float(word) for word in path.read_text(encoding="ascii").split()])
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as a homography ({error}); expected 9 numbers") from error
    if len(values) != 9:
        raise BadInput(f"{path}: {len(values)} numbers, expected 9")
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: holds a value that is not finite, expected 9 finite numbers")
    homography: Array = values.reshape(3, 3)
    if np.linalg.matrix_rank(homography) < 3:
        raise BadInput(f"{path}: the homography has no inverse, expected a matrix of rank 3")
    return homography
