"""Read the images of `lf bench --draw` beside a results file, reduced for a page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lf.core import BadInput, UsageError

FOLDER = "pictures"
WIDTH = 1000  # px
BUDGET = 1_800_000  # bytes of all images together in the page
MAX_FILE = 20 << 20  # bytes of one image


class Picture(NamedTuple):
    """title: from its folder and name. data: a `data:` address of a JPEG."""

    title: str
    data: str


def pictures(results: list[Path]) -> tuple[list[Picture], int]:
    """Read the images of the best and worst pairs of every run, beside the results files.

    Args:
        results: results files; each has its images in the folder `pictures` beside it.

    Returns:
        The images that fit into the page, and the number of omitted images.

    Raises:
        UsageError: no results file has images beside it.
        BadInput: an image cannot be read.
    """
    files = [path for file in results for path in sorted((file.parent / FOLDER).glob("*/*-matches.png"), key=_place)]
    if not files:
        raise UsageError(
            f"{results[0].parent / FOLDER}: no images beside the results; make them first: "
            "`bench(FILE, out=DIR, draw=True)`"
        )
    found: list[Picture] = []
    used = 0
    for path in files:
        data = _small(path)
        if used + len(data) <= BUDGET:
            used += len(data)
            found.append(Picture(f"{path.parent.name}: {path.stem.removesuffix('-matches')}", data))
    return found, len(files) - len(found)


def _place(path: Path) -> tuple[str, bool, str]:
    """Return the sort key of an image named `worst-1...` or `best-1...`: the first of each run before the second."""
    end, _, rest = path.name.partition("-")
    return rest[:1], end == "best", str(path)


def _small(path: Path) -> str:
    if path.stat().st_size > MAX_FILE:
        raise BadInput(f"{path}: {path.stat().st_size} bytes are more than the {MAX_FILE} that an image may have")
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise BadInput(f"{path}: is not an image; draw it again with `bench(FILE, out=DIR, draw=True)`")
    scale = min(1.0, WIDTH / picture.shape[1])
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(coded.tobytes()).decode()}"
