"""LAYOUTS: read and write feature files of other tools; see docs/how-to/score.md.

In all of them a point is x, y in pixels of the original image, pixel centres at integers, as in `Features`. hloc's file
is no exception: hloc adds COLMAP's half pixel when it imports the file into COLMAP's database. In a database itself the
half pixel is in the file; the layout `colmap` adds and takes it away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from lf.core import Features
from lf.data.layouts import colmap, images
from lf.data.layouts.h5 import Hdf5
from lf.data.layouts.h5_sequences import Sequences


class Store(Protocol):
    """The features of many images; written files are renamed at the end of its `with` block."""

    def has(self, name: str) -> bool:
        """Return whether the features of image `name`, such as `v_boat/1.ppm`, were written."""
        ...

    def write(self, name: str, features: Features) -> None:
        """Write the features of image `name`, complete or not at all."""
        ...

    def read(self, key: str, size: tuple[int, int]) -> Features:
        """Read the features of image `key`, with or without suffix, rows as stored; `size` is for layouts without it.

        Raises:
            BadInput: there are no features, or the file is damaged.
        """
        ...

    def __enter__(self) -> Store: ...

    def __exit__(self, *raised: object) -> None: ...


@dataclass(frozen=True)
class Layout:
    """A kind of feature file.

    Attributes:
        about: one line, for help.
        open: (folder or single file) -> Store; None for files of pairs of images, see `pairs`.
        single: suffix of the file if all images are in one file, which only one run at a time can write; or "".
        shared: whether several runs can write it at the same time, with different images.
    """

    about: str
    open: Callable[[Path], Store] | None
    single: str = ""
    shared: bool = True


LAYOUTS: dict[str, Layout] = {
    "r2d2": Layout("R2D2: IMAGE.r2d2, an npz; scores ascend", partial(images.Folder, images.R2D2)),
    "d2net": Layout("D2-Net: IMAGE.d2-net, an npz", partial(images.Folder, images.D2NET)),
    "posfeat": Layout(
        "PoSFeat: IMAGE.PoSFeat, an npz; reads its h5 files, too", partial(images.Folder, images.POSFEAT)
    ),
    "posfeat-h5": Layout("PoSFeat: keypoints.h5 ... for the images of each folder", Sequences, shared=False),
    "superpoint": Layout("pytorch-superpoint: N.npz for pair N of a dataset", None),
    "hloc": Layout("hloc: features.h5 with a group for each image", Hdf5, ".h5"),
    "colmap": Layout("COLMAP: database.db, keypoints with the half pixel", colmap.Colmap, colmap.SUFFIX),
    "lf": Layout("lf: IMAGE.lf.npz", partial(images.Folder, images.LF)),
}
