"""Training images: square crops of drawn images or photos, in one file.

The file is a memory-mapped array in the folder of the run, so that a hundred thousand photos need no memory and a
resumed run decodes nothing twice. On a GPU with enough memory, all squares lie there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from lf.core import Array, BadInput, UsageError, files, ledger
from lf.core.fingerprint import versions
from lf.data import Picture, images
from lf.data.drawn import procedural, synthetic_shapes
from lf.data.masks import PREFIX
from lf.data.masks import labelled as masks
from lf.models import MODELS
from lf.train import Recipe, labelled

Progress = Callable[[int, int, str], None]
FILE = "pictures.npy"
INDEX = "pictures.json"
CALIBRATION = 32  # images for the initial ranges of activations, the default of lf quantize
SMALLEST_CUT = 0.5  # smallest square as a share of a photo's shorter side, if several are cut from one photo


class Crop(NamedTuple):
    """Origin of a square: file relative to its root (or `procedural/SEED`), position in px of that image, sha256."""

    name: str
    left: int
    top: int
    side: int
    sha256: str  # of the file's bytes; empty for drawn images


@dataclass(frozen=True)
class Pictures:
    """The squares of a run: (N, P, P, C) uint8, RGB or grey, and the origin of each.

    With `masked` the last channel is the class of every pixel.
    """

    squares: Array
    crops: tuple[Crop, ...]
    device: Any = None
    masked: bool = False

    def __len__(self) -> int:
        return len(self.squares)

    def on(self, device: torch.device) -> Pictures:
        """Return the same images for training on `device`; moved to a GPU if they fill less than half of its memory."""
        squares: Any = self.squares
        if device.type == "cuda" and squares.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            squares = torch.from_numpy(np.array(squares)).to(device)
        return Pictures(squares, self.crops, device, self.masked)

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) int64 -> (B, C, P, P) float32 in [0, 1] on the device."""
        chosen = self._chosen(index)
        return (chosen[:, :-1] if self.masked else chosen).float() / 255

    def masks(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) int64 -> (B, P, P) uint8 on the device: classes, `lf.data.masks.VOID` where a pixel is ignored."""
        return self._chosen(index)[:, -1]

    def _chosen(self, index: torch.Tensor) -> torch.Tensor:
        if isinstance(self.squares, np.ndarray):
            chosen = torch.from_numpy(self.squares[index.numpy()])
            chosen = (chosen.pin_memory() if self.device.type == "cuda" else chosen).to(self.device, non_blocking=True)
        else:
            chosen = self.squares[index.to(self.device)]
        return chosen.permute(0, 3, 1, 2)


def collect(recipe: Recipe, data: Sequence[str], out: Path, progress: Progress, begun: bool = False) -> Pictures:
    """Draw or cut the squares of a run into `out`, or open the squares that an earlier start left there.

    Args:
        recipe: `pictures` squares of `picture_size` px, with the channels of its model; see `enough`.
        data: sources. Each is `procedural` (training families of `lf.data.drawn.procedural`), `shapes` (primitives of
            `lf.data.drawn.synthetic_shapes`), a folder of photos, searched recursively, or, for a segmentation,
            labelled images, `masks:WHERE`, see `lf.data.masks.labelled`. `SOURCE:N` takes N squares; the others share
            the rest evenly. If a folder has more photos than that, central squares of some are taken; if it has
            fewer, several random squares of each.
        out: folder of the run.
        progress: called with (done, total, text).
        begun: True if training with the squares has begun. Then they are kept, even if the code that made them changed.

    Raises:
        UsageError: counts that do not add up.
        BadInput: the folder is missing, or none of its files is a usable image.
    """
    wanted = enough(recipe, data)
    settings = {"data": list(data), **{k: getattr(recipe, k) for k in ("pictures", "picture_size", "seed", "model")}}
    own, code = {**settings, "pictures": wanted}, versions(__name__)
    ignored = (*code, "pictures") if begun else ()  # squares of a begun run are kept
    index = ledger.resume(out / INDEX, {**own, **code}, "restart", ignore=ignored, before="settings")
    masked = labelled.learns_classes(recipe)
    if kept := _kept(out, index, masked):
        return kept
    crops: list[Crop] = []
    sources = [(name, count or _count(name)) for name, count in shares(data, wanted)]
    total = sum(count for _, count in sources)
    grey = MODELS[recipe.model].channels == 1
    shape = (total, recipe.picture_size, recipe.picture_size, (1 if grey else 3) + masked)
    with files.atomic(out / FILE) as temporary:
        squares = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        reserve(temporary)
        for crop, square in _squares(recipe, sources):
            colours = cv2.cvtColor(square[..., :3], cv2.COLOR_RGB2GRAY)[..., None] if grey else square[..., :3]
            squares[len(crops)] = np.dstack([colours, square[..., 3:]])
            crops.append(crop)
            progress(len(crops), total, "collecting images")
        squares.flush()
    index.write(crops=crops)
    return Pictures(np.load(out / FILE, mmap_mode="r")[: len(crops)], tuple(crops), masked=masked)


def enough(recipe: Recipe, data: Sequence[str]) -> int:
    """Return the number of squares of a run: that of the recipe, or fewer if its steps cannot use so many.

    Counts in sources, and 0 for every photo once, hold even for short runs.
    """
    if not recipe.pictures or any(source.rpartition(":")[2].isdecimal() for source in data):
        return recipe.pictures
    least = max(len(data), CALIBRATION if recipe.weight_bits else 0)
    return min(recipe.pictures, max(recipe.steps * recipe.batch, least))


def _kept(out: Path, index: ledger.Ledger, masked: bool) -> Pictures | None:
    """Return the squares of an earlier start; None if they are missing or damaged, as they can be made again."""
    try:
        squares = np.load(out / FILE, mmap_mode="r")
        crops = tuple(Crop(*crop) for crop in index.content["crops"])
        fits = squares.ndim == 4 and len(squares) >= len(crops) > 0
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    return Pictures(squares[: len(crops)], crops, masked=masked) if fits else None


def reserve(path: Path) -> None:
    """Reserve the disk space of a file if the system can: a full disk under a memory map would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def shares(data: Sequence[str], total: int) -> list[tuple[str, int]]:
    """Return each source and its number of squares: `N` of `SOURCE:N`, or an even share of the rest; 0 if `total` is 0.

    Raises:
        UsageError: a count is 0, or the counts are more than `total`, or leave a source without any.
    """
    split = []
    for source in data:
        name, _, count = source.rpartition(":")
        if count.isdecimal() and not int(count):
            raise UsageError(
                f"`photos={source}`: expected a count above 0; leave the source out, or leave its count out"
            )
        split.append((name, int(count)) if count.isdecimal() else (source, 0))
    if not total:
        return split
    rest = total - sum(count for _, count in split)
    open_ = [i for i, (_, count) in enumerate(split) if not count]
    if rest < len(open_) or (rest and not open_):
        raise UsageError(f"`photos={' '.join(data)}`: counts do not add up to the recipe's pictures={total}")
    for turn, index in enumerate(open_):
        split[index] = (split[index][0], rest // len(open_) + (turn < rest % len(open_)))
    return split


def _count(source: str) -> int:
    """Count the photos of a source."""
    if source in DRAWN:
        raise UsageError(f"this recipe takes every photo once: give it `photos=DIR`, or say how many: {source}:1500")
    if source.startswith(PREFIX):
        return len(masks(source))
    return len(images.list_images(Path(source)))


def _squares(recipe: Recipe, sources: Sequence[tuple[str, int]]) -> Iterator[tuple[Crop, Array]]:
    """Yield every square with its origin: RGB uint8 (P, P, 3); (P, P, 4) with the classes for labelled images."""
    for source, count in sources:
        make = _draw if source in DRAWN else _labelled if source.startswith(PREFIX) else _cut
        yield from make(recipe, source, count)


def _labelled(recipe: Recipe, source: str, count: int) -> Iterator[tuple[Crop, Array]]:
    for item, (left, top, side), square in labelled.squares(recipe, source, count):
        yield Crop(item.image.key, left, top, side, item.image.digest), square


def _draw(recipe: Recipe, source: str, count: int) -> Iterator[tuple[Crop, Array]]:
    side = recipe.picture_size
    for index in range(recipe.seed * 100_000, recipe.seed * 100_000 + count):
        yield Crop(f"{source}/{index}", 0, 0, side, ""), DRAWN[source](index, (side, side))


def _shape(seed: int, size: tuple[int, int]) -> Array:
    return cv2.cvtColor(synthetic_shapes.shape(seed, size)[0], cv2.COLOR_GRAY2RGB)


DRAWN: dict[str, Callable[[int, tuple[int, int]], Array]] = {
    "procedural": procedural.training_picture,
    "shapes": _shape,
}


def _cut(recipe: Recipe, source: str, count: int) -> Iterator[tuple[Crop, Array]]:
    root = Path(source)
    paths = images.list_images(root)
    rng = np.random.default_rng(recipe.seed)
    if len(paths) > count:
        paths = [paths[i] for i in sorted(rng.choice(len(paths), count, replace=False))]
    taken = 0
    for turn, path in enumerate(paths):
        each = math.ceil((count - taken) / (len(paths) - turn))
        try:
            picture = images.picture(path, path.relative_to(root).as_posix())
            photo = picture.load()
        except BadInput:
            continue  # one broken photo must not end a run of hours
        for _ in range(each):
            crop = _place(rng, picture, photo.shape[:2], whole=each == 1)
            cut = photo[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
            smaller = crop.side > recipe.picture_size
            how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
            yield crop, cv2.resize(cut, (recipe.picture_size,) * 2, interpolation=how)
        taken += each
    if not taken:
        raise BadInput(f"{source}: none of its {len(paths)} images could be read; expected a folder of photos")


def _place(rng: np.random.Generator, picture: Picture, size: tuple[int, ...], whole: bool) -> Crop:
    """Return a square of a photo of (H, W): the central one if `whole`, otherwise a random one."""
    height, width = size
    short = min(height, width)
    if whole:
        return Crop(picture.key, (width - short) // 2, (height - short) // 2, short, picture.digest)
    side = round(short * rng.uniform(SMALLEST_CUT, 1))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    return Crop(picture.key, left, top, side, picture.digest)
