"""Write drawn images and pairs to a folder, for a start without photos."""

from __future__ import annotations

from pathlib import Path

import cv2

from lf.core import Array, files
from lf.core.console import Progress
from lf.data import warps
from lf.data.drawn import procedural
from lf.data.drawn.surfaces import Size


def save(path: Path, picture: Array) -> None:
    """Write uint8 (H, W, 3) RGB as PNG, whole or not at all."""
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    files.write_bytes(path, data.tobytes())


def write_pictures(out: Path, count: int, size: Size, progress: Progress = lambda done, total, text: None) -> None:
    """Write the first `count` images of the training set as `OUT/000.png` and on.

    The pairs of `procedural:N` show none of them, so they may calibrate files that are evaluated there.
    """
    for index in range(count):
        save(out / f"{index:03}.png", procedural.training_picture(index, size))
        progress(index + 1, count, "pictures")


def write_pairs(out: Path, count: int, size: Size, progress: Progress = lambda done, total, text: None) -> None:
    """Write `count` held-out sequences of two images in HPatches layout: 1.png, 2.png and H_1_2."""
    for index, pair in enumerate(warps.drawn(count, size=size)):
        folder = out / pair.sequence
        save(folder / "1.png", pair.first.load())
        save(folder / "2.png", pair.second.load())
        rows = (" ".join(f"{value:.17g}" for value in row) for row in pair.homography)
        files.write_bytes(folder / "H_1_2", "\n".join(rows).encode())
        progress(index + 1, count, "pairs")
