"""The HPatches layout: `<i_*|v_*>/1.ppm ... 6.ppm` and `H_1_2 ... H_1_6`; any number of pairs and any image format.

Every image and every homography must have exactly one name, so that no pair is counted twice or silently left out.

Source: Balntas et al., "HPatches: a benchmark and evaluation of handcrafted and learned local descriptors", CVPR 2017.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput, one_line
from lf.data import Pair, Picture, images

LIMIT = 1 << 16  # bytes of a homography file

# Sequences with images above 1600 x 1200, left out by protocol `mma` (D2-Net, arXiv:1905.03561; the first is spelt so).
OVERSIZE = (
    "i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding", "v_artisans", "v_astronautis", "v_talent",
)  # fmt: skip


def pairs(root: Path, limit_sequences: int | None = None, exclude: Collection[str] = ()) -> list[Pair]:
    """Pair image 1 of each sequence with every other image that has a homography, in byte order of the sequences.

    Args:
        root: the folder that holds the sequences.
        limit_sequences: number of sequences to keep, alternately from `i_` and `v_`, so that a short run has both.
        exclude: names of sequences to leave out, such as OVERSIZE.

    Raises:
        BadInput: a folder that cannot be read or has no sequence, a missing or duplicate image, a file that is not a
            homography or has a wrong name, or H_1_1.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; expected one that holds sequences named i_* and v_*")
    try:
        folders = [f for f in root.iterdir() if f.name[:2] in ("i_", "v_") and f.is_dir() and f.name not in exclude]
    except OSError as error:
        raise BadInput(f"{root}: cannot be read ({error.strerror}); expected a folder of sequences") from error
    if not folders:
        raise BadInput(
            f"{root}: holds no sequence; expected folders named i_* or v_* with 1.ppm, 2.ppm, H_1_2 ...; "
            f"for a folder of photos, type warps:{root}"
        )
    folders.sort(key=os.fsencode)
    kinds = {kind: [f for f in folders if f.name[0] == kind] for kind in "iv"}
    chosen = sorted(folders, key=lambda f: kinds[f.name[0]].index(f))[:limit_sequences]
    return [pair for folder in sorted(chosen, key=os.fsencode) for pair in sequence(folder)]


def sequence(folder: Path) -> list[Pair]:
    """Return the pairs of one sequence, by number.

    Raises:
        BadInput: see `pairs`.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror}); expected a sequence") from error
    numbers, found = _homographies(folder, names), _images(folder, names)
    if not numbers:
        raise BadInput(f"{folder}: holds no homography; expected files H_1_2, H_1_3 ...")
    first, *others = (_picture(folder, found.get(k, []), k) for k in (1, *numbers))
    return [
        Pair(folder.name, f"1_{k}", first, other, read_homography(folder / f"H_1_{k}"))
        for k, other in zip(numbers, others, strict=True)
    ]


def _homographies(folder: Path, names: Sequence[str]) -> list[int]:
    """Return the numbers K of the files H_1_K, ascending. Copies with a longer name, such as H_1_2.bak, are ignored.

    Raises:
        BadInput: H_1_1, a second name for one number, such as H_1_02, or a number with a longer name only.
    """
    found = []
    for name in names:
        match = re.fullmatch(r"H_1_(\d+)(.*)", name, re.DOTALL)
        if match is None:
            continue
        number, more = int(match[1]), match[2]
        plain = f"H_1_{number}"
        if number == 1 and not more:
            raise BadInput(f"{folder / name}: pairs image 1 with itself; delete the file")
        if name == plain:
            found.append(number)
        elif plain in names and not more:
            raise BadInput(f"{folder}: {name} and {plain} are both the homography of image {number}; delete one")
        elif plain not in names and number != 1:
            raise BadInput(f"{folder / name}: expected the name {plain}; rename the file, or delete it")
    return sorted(found)


def _images(folder: Path, names: Sequence[str]) -> dict[int, list[str]]:
    """Map numbers to image files with that name, such as `1.png` or `01.png`."""
    found: dict[int, list[str]] = {}
    for name in names:
        stem = name.rpartition(".")[0]
        if stem.isdecimal() and images.is_image(name) and (folder / name).is_file():
            found.setdefault(int(stem), []).append(name)
    return found


def _picture(folder: Path, found: Sequence[str], number: int) -> Picture:
    """Return image `number` of a sequence, from the candidate files.

    Raises:
        BadInput: there is no file, more than one, or its name differs.
    """
    if not found:
        takes = sorted(images.SUFFIXES, key=lambda suffix: suffix != ".ppm")  # the format of the original comes first
        raise BadInput(f"{folder}: image {number} is missing; expected {number} with one of {', '.join(takes)}")
    if len(found) > 1:
        raise BadInput(f"{folder}: {' and '.join(found)} are all image {number}; keep one, delete the rest")
    stem, _, suffix = found[0].rpartition(".")
    if stem != str(number):
        raise BadInput(f"{folder / found[0]}: expected the name {number}.{suffix}; rename the file")
    return images.picture(folder / found[0], f"{folder.name}/{number}")


def read_homography(path: Path) -> Array:
    """(3, 3) float64 from nine numbers, row by row, scaled as in the file.

    The text is ASCII or UTF-8, with a byte order mark or without; commas or white space separate the numbers of a line.

    Raises:
        BadInput: missing, not nine finite numbers, or without an inverse.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise ValueError(f"more than {LIMIT} bytes")
        lines = (line.strip().removesuffix(",") for line in data.decode("utf-8-sig").splitlines())
        values = np.array([float(word) for line in lines for word in line.split("," if "," in line else None)])
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path}: cannot be read as a homography ({one_line(error, 100)}); expected 9 numbers with spaces, line "
            "breaks or commas between them, as ASCII or UTF-8 text"
        ) from error
    if len(values) != 9:
        raise BadInput(f"{path}: {len(values)} numbers, expected 9")
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: holds a value that is not finite, expected 9 finite numbers")
    homography: Array = values.reshape(3, 3)
    if np.linalg.matrix_rank(homography) < 3:
        raise BadInput(f"{path}: the homography has no inverse, expected a matrix of rank 3")
    return homography
