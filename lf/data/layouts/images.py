"""Layouts with one npz file per image: R2D2, D2-Net, PoSFeat and lf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput, Features
from lf.data.images import is_image
from lf.data.layouts import h5
from lf.formats import npz

Arrays = dict[str, Array]
POINTS, SCORES = ("keypoints", "descriptors"), "scores"  # arrays of every codec; a file may lack the scores
DIAMETER = 32.0  # px, of R2D2's patch at scale 1; also for features without a scale


@dataclass(frozen=True)
class Codec:
    """Conversion of features to named arrays and back.

    Attributes:
        tag: suffix of the file after the name of the image.
        needed: arrays that a file must have in addition to POINTS.
        pack: features -> arrays.
        unpack: (path for messages, arrays, size of the image) -> features, rows in the order of the file.
        optional: arrays that a file may have in addition to SCORES.
        sequences: whether a sequence can be a folder of h5 files instead.
    """

    tag: str
    needed: tuple[str, ...]
    pack: Callable[[Features], Arrays]
    unpack: Callable[[Path, Arrays, tuple[int, int]], Features]
    optional: tuple[str, ...] = ()
    sequences: bool = False


class Folder:
    """The files of one codec below a folder, in the folders of their images: `<folder>/v_boat/1.ppm.r2d2`."""

    def __init__(self, codec: Codec, folder: Path) -> None:
        self._codec = codec
        self._folder = folder

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *raised: object) -> None:
        """Do nothing: each file is complete when it is written."""

    def has(self, name: str) -> bool:
        """See `Store`."""
        return self._path(name).is_file()

    def write(self, name: str, features: Features) -> None:
        """See `Store`."""
        npz.write(self._path(name), self._codec.pack(features))

    def read(self, key: str, size: tuple[int, int]) -> Features:
        """See `Store`."""
        parent = (self._folder / key).parent
        if self._codec.sequences and (parent / "keypoints.h5").is_file():
            return h5.read_sequence(parent, Path(key).name, size)
        path = self._find(parent, Path(key).name)
        needed, optional = (*self._codec.needed, *POINTS), (SCORES, *self._codec.optional)
        arrays = npz.read(path, f"features with {', '.join(needed)} and, if there are any, {SCORES}", needed, optional)
        return self._codec.unpack(path, arrays, size)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{self._codec.tag}"

    def _find(self, parent: Path, stem: str) -> Path:
        """Return the file with the codec's tag, or the only other file named after the image that is not an image."""
        names = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
        ours = [n for n in names if n.startswith(f"{stem}.") and not is_image(n)]
        found = [n for n in ours if n.endswith(self._codec.tag)] or ours
        if len(found) != 1:
            have = f"{', '.join(found)}: which one?" if found else "none"
            raise BadInput(f"{parent}: features of image {stem}: {have}; expected {stem}.SUFFIX{self._codec.tag}")
        return parent / found[0]


def _diameters(features: Features) -> Array:
    return np.full(len(features), DIAMETER, np.float32) if features.scales is None else features.scales


def _pack_r2d2(features: Features) -> Arrays:
    ascending = features.take(np.argsort(-features.scores, kind="stable")[::-1])
    return {
        "imsize": np.array(features.size),
        "keypoints": np.column_stack([ascending.keypoints, _diameters(ascending)]),
        "descriptors": ascending.descriptors,
        "scores": ascending.scores,
    }


def _unpack_r2d2(path: Path, arrays: Arrays, size: tuple[int, int]) -> Features:
    points = npz.columns(path, "keypoints", arrays["keypoints"], 3)
    size = npz.size(path, "imsize", arrays["imsize"])
    return npz.features(path, points[:, :2], arrays.get("scores"), arrays["descriptors"], size, points[:, 2])


def _pack_d2net(features: Features) -> Arrays:
    return {
        "keypoints": np.column_stack([features.keypoints, _diameters(features) / DIAMETER]),
        "scores": features.scores,
        "descriptors": features.descriptors,
    }


def _unpack_d2net(path: Path, arrays: Arrays, size: tuple[int, int]) -> Features:
    """Read D2-Net's arrays: the third column is 1 / scale of the pyramid's level; R2D2's is 32 / scale."""
    points = npz.columns(path, "keypoints", arrays["keypoints"], 3)
    return npz.features(path, points[:, :2], arrays.get("scores"), arrays["descriptors"], size, points[:, 2] * DIAMETER)


def _pack_posfeat(features: Features) -> Arrays:
    return {
        "keypoints": features.keypoints,
        "scores": features.scores[:, None],
        "descriptors": features.descriptors,
    }


def _unpack_posfeat(path: Path, arrays: Arrays, size: tuple[int, int]) -> Features:
    points = npz.columns(path, "keypoints", arrays["keypoints"], 2)
    scores = npz.columns(path, SCORES, arrays[SCORES], 1)[:, 0] if SCORES in arrays else None
    return npz.features(path, points, scores, arrays["descriptors"], size)


def _pack_lf(features: Features) -> Arrays:
    arrays = {
        "keypoints": features.keypoints,
        "scores": features.scores,
        "descriptors": features.descriptors,
        "size": np.array(features.size),
    }
    return arrays if features.scales is None else {**arrays, "scales": features.scales}


def _unpack_lf(path: Path, arrays: Arrays, size: tuple[int, int]) -> Features:
    size = npz.size(path, "size", arrays["size"])
    return npz.features(
        path, arrays["keypoints"], arrays.get("scores"), arrays["descriptors"], size, arrays.get("scales")
    )


R2D2 = Codec(".r2d2", ("imsize",), _pack_r2d2, _unpack_r2d2)
D2NET = Codec(".d2-net", (), _pack_d2net, _unpack_d2net)
POSFEAT = Codec(".PoSFeat", (), _pack_posfeat, _unpack_posfeat, sequences=True)
LF = Codec(".lf.npz", ("size",), _pack_lf, _unpack_lf, optional=("scales",))
