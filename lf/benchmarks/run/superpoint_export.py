"""Read pytorch-superpoint's export of a dataset, `<n>.npz` for pair n, numbered in any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.protocols.geometry import Size, image_size
from lf.benchmarks.protocols.matching import mutual
from lf.benchmarks.protocols.protocol import Protocol
from lf.benchmarks.run.predict import Predictor
from lf.core import Array, BadInput, Features, UsageError, files
from lf.data import Pair, Picture, dataset_digest, open_dataset
from lf.data.layouts import pairs
from lf.data.layouts.pairs import Stored
from lf.extraction.extractor import Extractor
from lf.extraction.store import Progress, Tally, claim

OWN = PROTOCOLS["superpoint"]  # the files hold 320x240 images of this protocol
THUMBNAIL = 40, 30  # (W, H) px, enough to distinguish the images of a dataset
SAME = 4 / 255  # largest mean difference of thumbnails of one image; decoders and resizers differ by a grey level


class Look(NamedTuple):
    """A prepared image for comparison: its thumbnail (30, 40) in [0, 1], and its native (H, W)."""

    thumbnail: Array
    native: Size


def read(folder: Path, dataset: Sequence[Pair], protocol: Protocol) -> Iterator[Stored]:
    """The stored pairs of a dataset, in its order, with the protocol's homographies.

    The numbers of the files follow the order of an unknown file system, so pairs are identified by their images.

    Raises:
        UsageError: the protocol prepares images in another way than the files.
        BadInput: no such file, a file with images that are not in the dataset, or a pair without a file.
    """
    looks = {picture.key: _look(picture, protocol) for pair in dataset for picture in (pair.first, pair.second)}
    for pair, path in zip(dataset, _assign(folder, dataset, looks), strict=True):
        stored = pairs.read_superpoint(path)
        sizes = looks[pair.first.key].native, looks[pair.second.key].native
        yield Stored(stored.first, stored.second, protocol.homography(pair.homography, *sizes))


def write(
    extractor: Extractor, data: str, out: Path, top_k: int | None = None, progress: Progress = lambda *_: None
) -> Tally:
    """Extract every pair of a dataset as protocol `superpoint` prepares it; n counts its pairs.

    With `extractor.segmentation` a file also has `pred_mask` (h, w) int64: the classes of the first image at the
    network's own resolution.

    Raises:
        UsageError: the file has another fixed size, or see `lf.extraction.store.claim`.
        BadInput: an image cannot be read.
    """
    dataset, predict, tally = open_dataset(data), Predictor(extractor, OWN, None), Tally()
    OWN.check(dataset, data)
    paths = [out / f"{index}.npz" for index in range(len(dataset))]
    order = [f"{pair.sequence} {pair.name}" for pair in dataset]
    more = {"data": dataset_digest(dataset), "pairs": order}
    note = claim(out, "superpoint", extractor, top_k, map(Path.is_file, paths), __name__, **more)

    @lru_cache(maxsize=2)  # the first image of a sequence is extracted once
    def extract(picture: Picture) -> tuple[Features, Size, Array]:
        features, native = predict(picture)
        return features.top(top_k), native, OWN.prepare(picture.load(), 1)[0] / np.float32(255)

    with files.taken_back(note):
        for index, (pair, path) in enumerate(zip(dataset, paths, strict=True)):
            progress(index, len(dataset), order[index])
            if path.is_file():
                tally.kept += 1
                continue
            (first, size0, image0), (second, size1, image1) = extract(pair.first), extract(pair.second)
            stored = Stored(first, second, OWN.homography(pair.homography, size0, size1), images=(image0, image1))
            maps: dict[str, Array] = {}
            if first.segmentation:
                maps["pred_mask"] = first.segmentation.logits.argmax(0)
            pairs.write_superpoint(path, stored, mutual(first.descriptors, second.descriptors, "l2"), maps)
            tally.written += 1
    progress(len(dataset), len(dataset), "superpoint")
    return tally


def _look(picture: Picture, protocol: Protocol) -> Look:
    image = picture.load()
    native = image_size(image)
    if not np.allclose(np.diag(protocol.matrix(native)), np.diag(OWN.matrix(native)), rtol=0.01):
        fits = ", ".join(name for name in PROTOCOLS if name.startswith(OWN.name))
        raise UsageError(
            f"protocol {protocol.name} prepares {picture.key} otherwise than the files of pytorch-superpoint are made; "
            f"expected {fits}; or score the files one by one, without `data`"
        )
    grey, _ = OWN.prepare(image, 1)
    return Look(_thumbnail(grey / np.float32(255)), native)


def _thumbnail(image: Array) -> Array:
    return np.asarray(cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA))


def _assign(folder: Path, dataset: Sequence[Pair], looks: Mapping[str, Look]) -> list[Path]:
    """Find the file of each pair by the similarity of both images."""
    paths = sorted((p for p in folder.glob("*.npz") if p.stem.isdecimal()), key=lambda path: int(path.stem))
    firsts = np.stack([looks[pair.first.key].thumbnail for pair in dataset])
    seconds = np.stack([looks[pair.second.key].thumbnail for pair in dataset])
    found: dict[int, Path] = {}
    for path in paths:
        stored = pairs.read_superpoint(path)
        if {stored.first.size[::-1], stored.second.size[::-1]} != {OWN.size}:
            raise BadInput(f"{path}: images of {stored.first.size} and {stored.second.size} px; expected 320x240")
        ours = [_thumbnail(image) for image in stored.images or ()]
        apart = [np.abs(theirs - own).mean(axis=(1, 2)) for theirs, own in zip((firsts, seconds), ours, strict=True)]
        index = int(np.maximum(*apart).argmin())
        if max(apart[0][index], apart[1][index]) > SAME:
            raise BadInput(f"{path}: its images are of no pair of the dataset; expected a file made from these images")
        if index in found:
            pair = dataset[index]
            raise BadInput(f"{path}: is pair {pair.sequence} {pair.name} of the dataset, and so is {found[index].name}")
        found[index] = path
    missing = [f"{pair.sequence} {pair.name}" for index, pair in enumerate(dataset) if index not in found]
    if missing:
        raise BadInput(
            f"{folder}: {len(found)} files for {len(dataset)} pairs, none of {missing[0]}; "
            "expected 0.npz, 1.npz ... of pytorch-superpoint for every pair"
        )
    return [found[index] for index in range(len(dataset))]
