"""Calibration images: chosen by seed, read one at a time, never from a benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import Array, Artifact, BadInput
from lf.data import images
from lf.extraction.extractor import Extractor
from lf.models import row_of
from lf.quantize import Progress
from lf.quantize.calibrate.observers import MinMax, Observer

SIZE = (240, 320)  # H, W of calibration images for a file of free size


class Photos:
    """Calibration photos and the method to find ranges; after reading, also their record for the card.

    Raises:
        BadInput: no image in the folder, or an image that belongs to a benchmark.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        seed: int,
        exclude: Path | None,
        progress: Progress,
        method: str = "minmax",
        observe: Callable[[], Observer] = MinMax,
    ) -> None:
        """List the photos, shuffle them by `seed`; the first `limit` that can be read are used.

        `observe` makes the observer of each activation; `method` is its name.
        """
        found = images.list_images(folder)
        _refuse_benchmark(found)
        order = np.random.default_rng(seed).permutation(len(found))
        self._paths = [found[index] for index in order]
        self._folder, self._limit, self._seed, self.progress = folder, limit, seed, progress
        self.method, self.observe = method, observe
        self._forbidden = {digest(path): path for path in images.list_images(exclude)} if exclude else {}
        self._files: list[dict[str, str]] = []
        self._skipped = 0
        self._size = SIZE

    def tensors(self, extractor: Extractor) -> Iterator[Array]:
        """Yield (1, C, H, W) float32 per photo, as `extractor` prepares it; only one is in memory.

        Raises:
            BadInput: a photo is in `exclude`, or no photo can be read.
        """
        self._size = extractor.artifact.card.size or SIZE
        total = min(self._limit, len(self._paths))
        for path in self._paths:
            if len(self._files) == self._limit:
                break
            try:
                tensor = extractor.tensor(extractor.fit(images.read(path)))
            except BadInput:
                self._skipped += 1  # one broken photo must not end the run; the card counts them
                continue
            self._files.append(self._entry(path))
            self.progress(len(self._files), total, f"calibrating on {path.name}")
            yield tensor
        if not self._files:
            raise BadInput(f"{self._folder}: none of its {self._skipped} images could be read; expected photos")

    def some(self, extractor: Extractor, count: int) -> list[Array]:
        """Return the first `count` tensors together; photos are read again if `tensors` is finished."""
        if not self._files:
            return [*islice(self.tensors(extractor), count)]
        paths = (self._folder / entry["name"] for entry in self._files[:count])
        return [extractor.tensor(extractor.fit(images.read(path))) for path in paths]

    def warnings(self) -> list[str]:
        """Warnings about photos that could not be read."""
        if not self._skipped:
            return []
        return [f"{self._folder.resolve().name}: {self._skipped} of its images could not be read and were left out"]

    def manifest(self) -> dict[str, Any]:
        """Calibration images for the card: names relative to the folder, no path of this machine."""
        return {
            "method": self.method,
            "count": len(self._files),
            "seed": self._seed,
            "size": list(self._size),
            "skipped": self._skipped,
            "folder": self._folder.resolve().name,
            "files": self._files,
        }

    def _entry(self, path: Path) -> dict[str, str]:
        sha256 = digest(path)
        if sha256 in self._forbidden:
            raise BadInput(
                f"{path}: is {self._forbidden[sha256]} of the benchmark, so its results would be void; "
                "calibrate on other photos"
            )
        return {"name": path.relative_to(self._folder).as_posix(), "sha256": sha256}


def pinned(artifact: Artifact) -> Artifact:
    """Return the file with a fixed input size: its own, or the largest within SIZE if its size is free."""
    height, width = artifact.card.size or row_of(artifact.card).fitted(SIZE)
    return replace(artifact, card=replace(artifact.card, input=(artifact.card.input[0], height, width)))


def digest(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_benchmark(paths: list[Path]) -> None:
    """Raise BadInput for homography files beside an image: they mark a benchmark in the HPatches layout."""
    for folder in dict.fromkeys(path.parent for path in paths):
        if any(folder.glob("H_1_*")):
            example = next(path for path in paths if path.parent == folder)
            raise BadInput(
                f"{example}: lies beside homographies, so it is an image of a benchmark; calibrate on other photos"
            )
