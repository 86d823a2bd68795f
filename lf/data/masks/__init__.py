"""Labelled images: an image with a mask, which gives the class of every pixel.

`labelled("masks:WHERE[@SET]")` opens Cityscapes, COCO panoptic, or a folder of image and mask pairs. SET is a row of
LABEL_SETS in `lf.data.masks.label_sets`, a category file, or a model file whose card names its classes. Masks are read
when needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from lf.core import Array, BadInput, UsageError, console, files
from lf.data import Picture

VOID = 255  # id of ignored pixels in masks
PREFIX = "masks:"


@dataclass(frozen=True)
class ClassRow:
    """A class. colour: RGB, for images. ignored: True leaves out its pixels, as in Cityscapes' evaluation."""

    name: str
    colour: tuple[int, int, int]
    ignored: bool = False


@dataclass(frozen=True)
class LabelSet:
    """The classes of masks: class n has id n. void: ids in files that mean VOID, in addition to 255."""

    name: str
    classes: tuple[ClassRow, ...]
    void: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by id."""
        return tuple(row.name for row in self.classes)

    @property
    def palette(self) -> Array:
        """Colours (256, 3) uint8 RGB by id; grey for ids without a class."""
        colours = np.full((256, 3), 128, np.uint8)
        colours[: len(self)] = [row.colour for row in self.classes]
        return colours

    @property
    def ignored(self) -> tuple[int, ...]:
        """Ids of the classes that are left out."""
        return tuple(n for n, row in enumerate(self.classes) if row.ignored)

    def masked(self, ids: Array, where: Path) -> Array:
        """Convert ids of a file (H, W) uint8 to a mask: ids, VOID for ignored ones.

        Raises:
            BadInput: an id is not a class.
        """
        table = np.full(256, -1)
        table[: len(self)] = range(len(self))
        table[[*self.void, *self.ignored, VOID]] = VOID
        mask = table[ids]
        if mask.min(initial=0) < 0:
            strange = np.unique(ids[mask < 0]).tolist()
            few = ", ".join(map(str, strange[:4])) + (" ..." if len(strange) > 4 else "")
            void = " and ".join(map(str, (*self.void, VOID)))
            raise BadInput(
                f"{where}: holds the id {few}, which is no class; expected 0 to {len(self) - 1} of label set "
                f"{self.name}, and {void} for void; name another set, such as masks:DIR@SET"
            )
        return mask.astype(np.uint8)


@dataclass(frozen=True)
class Labelled:
    """An image and its mask.

    Attributes:
        image: the image.
        source: () -> (H, W) uint8, the ids of the label set in the file.
        path: the file of the mask.
        digest: hex sha256 of the mask's file and of the settings for reading it.
        classes: the label set.
    """

    image: Picture
    source: Callable[[], Array]
    path: Path
    digest: str
    classes: LabelSet

    def mask(self, native: tuple[int, int] | None = None) -> Array:
        """Read the mask (H, W) uint8: class ids, VOID for ignored pixels.

        Args:
            native: (H, W) of the image, if known: a mask of another shape is refused.

        Raises:
            BadInput: the file cannot be read, has an id that is not a class, or belongs to another image.
        """
        return self.classes.masked(self._fitting(native), self.path)

    def ids(self, native: tuple[int, int] | None = None) -> Array:
        """Read the ids (H, W) uint8 of the file without converting any to VOID; see `mask`."""
        found = self._fitting(native)
        self.classes.masked(found, self.path)
        return found

    def _fitting(self, native: tuple[int, int] | None) -> Array:
        found = self.source()
        (rows, columns), (height, width) = found.shape, native or found.shape
        if abs(height * columns - width * rows) > max(height, width):  # a pixel of rounding
            raise BadInput(
                f"{self.path}: a mask of {columns}x{rows} px for an image of {width}x{height}; "
                "expected the same size, or the same shape at another size"
            )
        return found

    def load(self) -> tuple[Array, Array]:
        """Read image (H, W, 3) RGB and mask (h, w); the mask may be smaller, with the same aspect ratio.

        Raises:
            BadInput: a file cannot be read, or the mask belongs to another image.
        """
        image = self.image.load()
        return image, self.mask((image.shape[0], image.shape[1]))


@dataclass(frozen=True)
class Labels:
    """Labelled images of one label set.

    Attributes:
        spec: name of the source, as typed.
        items: the labelled images, in byte order of their paths.
        classes: the label set.
        left_out: number of images without a mask, which are not among the items.
    """

    spec: str
    items: tuple[Labelled, ...]
    classes: LabelSet
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Labelled]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Labelled:
        return self.items[index]

    @property
    def digest(self) -> str:
        """Hex sha256 of keys, images, masks and classes, in their order: equal digests mean equal data."""
        digest = hashlib.sha256(repr((self.classes.classes, self.classes.void)).encode())
        for item in self.items:
            words = (item.image.key, item.image.digest, item.digest)
            digest.update("\0".join(words).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def labelled(spec: str, limit: int | None = None) -> Labels:
    """Open labelled images.

    Args:
        spec: `masks:WHERE` or `masks:WHERE@SET`, with or without `masks:`. WHERE is a folder of Cityscapes, of COCO, of
            images with masks beside them, or `IMAGES,MASKS`, two folders. SET is a label set, a category file, or a
            model file or a run with the classes in its card. The default depends on the folder: cs34 for Cityscapes and
            COCO, otherwise the category file beside the masks.
        limit: number of first images to keep.

    Returns:
        The labelled images. An image without a mask is left out and counted, with a remark on stderr.

    Raises:
        UsageError: no place, an unknown label set, or several splits; name one.
        BadInput: the folder holds no image with a mask.
    """
    from lf.data.masks import readers

    where, wanted = _parted(spec.removeprefix(PREFIX))
    if not where:
        raise UsageError("`masks:` needs a folder after the colon, such as masks:DIR or masks:DIR@cs19")
    labels = replace(readers.read(where, wanted, limit), spec=spec)
    if labels.left_out:
        _say(f"lf: {spec}: {labels.left_out} images without a mask are left out, {len(labels)} are used")
    return labels


def _parted(where: str, base: Path = Path()) -> tuple[str, str | None]:
    """The place and the label set; a name that is there as a whole, seen from `base`, is a place."""
    place, sign, wanted = where.rpartition("@")
    if not sign or (base / files.expand(where)).exists():
        return where, None
    return place, wanted


def located(where: str, base: Path) -> tuple[str, Path]:
    """`WHERE[@SET]` with its folders and its category file taken from `base`, and the folder that holds its images."""
    place, wanted = _parted(where, base)
    whole = base / files.expand(place)
    folders = [whole] if whole.exists() else [base / files.expand(each) for each in place.split(",", 1)]
    if wanted and (wanted.lower().endswith(".json") or (base / files.expand(wanted)).exists()):
        wanted = str(base / files.expand(wanted))
    return ",".join(map(str, folders)) + (f"@{wanted}" if wanted else ""), folders[0]


@cache
def _say(text: str) -> None:
    console.note(text)


def counts(labels: Labels) -> tuple[list[int], int]:
    """Count the pixels of each class over all masks, and the ignored pixels."""
    total = np.zeros(256, np.int64)
    for item in labels:
        total += np.bincount(item.mask().ravel(), minlength=256)
    return total[: len(labels.classes)].tolist(), int(total[VOID])


def resize_mask(mask: Array, size: tuple[int, int]) -> Array:
    """Resize a mask to another (H, W): nearest, pixel areas aligned. All resizes of masks use it."""
    if mask.shape == size:
        return mask
    return np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


def warp_mask(mask: Array, homography: Array, size: tuple[int, int]) -> Array:
    """Render the mask of the second image, of `size`: nearest, VOID outside the first; see `lf.data.homography`."""
    from lf.data.homography import warp_nearest

    return warp_nearest(mask, homography, size, VOID)
