"""DATASETS: pairs of images with a homography or a relative pose.

DATASETS: name -> function(where, wanted) -> list of `Pair`; `where` is what follows the colon in a dataset's name, such
as the folder in `hpatches:DIR`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lf.core import Array, UsageError, console, files, pick
from lf.data.cameras import RelativePose

HOMOGRAPHIES = "type a dataset of homographies, such as hpatches:DIR, warps:DIR or procedural:20"
POSES = "type a dataset with camera poses, such as posed:DIR or scenes:5"
CLASSES = "type a dataset of labelled images, such as masks:DIR or masks:DIR@cs19"
TRUTHS = {  # `Pair.kind` -> in words, and what to type
    "homography": ("homographies", HOMOGRAPHIES),
    "pose": ("camera poses", POSES),
    "classes": ("labelled images", CLASSES),
}


@dataclass(frozen=True)
class Picture:
    """An image that is read when needed.

    Attributes:
        key: unique inside its dataset and stable from run to run (`v_boat/1`); the name of its cached features.
        load: () -> uint8 (H, W, 3) RGB.
        digest: hex sha256 of the file bytes that `load` reads, or of seed and generator version for drawn images.
        source: digest of the source image, for a view of another image.
        path: file that `load` reads; None for drawn images and for views of another image.
    """

    key: str
    load: Callable[[], Array]
    digest: str
    source: str = ""
    path: Path | None = None


@dataclass(frozen=True)
class Pair:
    """Two images and the truth between them.

    Attributes:
        sequence: name of the sequence; `i_` illumination, `v_` viewpoint by its first letter; or of the scene.
        name: `1_3` for images 1 and 3.
        truth: the homography (3, 3) float64, pixels of the first image -> pixels of the second at native size; or
            the relative pose of the two cameras.
    """

    sequence: str
    name: str
    first: Picture
    second: Picture
    truth: Array | RelativePose

    @property
    def kind(self) -> str:
        """Kind of truth, `homography` or `pose`."""
        return "pose" if isinstance(self.truth, RelativePose) else "homography"

    @property
    def homography(self) -> Array:
        """The homography of the pair; UsageError if its truth is of another kind."""
        if isinstance(self.truth, RelativePose):
            raise UsageError(f"{self.sequence} {self.name} has a relative pose and no homography; {HOMOGRAPHIES}")
        return self.truth

    @property
    def pose(self) -> RelativePose:
        """The relative pose of the pair; UsageError if its truth is of another kind."""
        if not isinstance(self.truth, RelativePose):
            raise UsageError(f"{self.sequence} {self.name} has a homography and no relative pose; {POSES}")
        return self.truth


@dataclass(frozen=True)
class Wanted:
    """limit_sequences: largest number, None keeps all. seed: of random choices. exclude: sequences to leave out."""

    limit_sequences: int | None = None
    seed: int = 0
    exclude: tuple[str, ...] = ()


def _hpatches(where: str, wanted: Wanted) -> list[Pair]:
    from lf.data import hpatches

    return hpatches.pairs(_folder(where), wanted.limit_sequences, wanted.exclude)


def _warps(where: str, wanted: Wanted) -> list[Pair]:
    from lf.data import warps

    return warps.pairs(_folder(where), wanted.limit_sequences, wanted.seed)


def _turns(where: str, wanted: Wanted) -> list[Pair]:
    from lf.data import turns_and_zooms as ladder

    changes = [ladder.turned(angle) for angle in ladder.ANGLES]
    return ladder.pairs(_folder(where), changes, wanted.limit_sequences, wanted.seed)


def _zooms(where: str, wanted: Wanted) -> list[Pair]:
    from lf.data import turns_and_zooms as ladder

    changes = [ladder.zoomed(factor) for factor in ladder.FACTORS]
    return ladder.pairs(_folder(where), changes, wanted.limit_sequences, wanted.seed)


def _procedural(where: str, wanted: Wanted) -> list[Pair]:
    from lf.data import warps

    if where and not (where.isdecimal() and int(where)):
        raise UsageError(f"'procedural:{where}' needs a number of sequences, such as procedural:20")
    count = min(int(where or 20), wanted.limit_sequences or sys.maxsize)
    return warps.drawn(count, wanted.seed)


def _posed(where: str, wanted: Wanted) -> list[Pair]:
    from lf.data import posed

    return posed.open_pairs(f"posed:{where}", wanted)


def _scenes(where: str, wanted: Wanted) -> list[Pair]:
    from lf.data import posed

    return posed.open_pairs(f"scenes:{where}", wanted)


def _masks(where: str, wanted: Wanted) -> list[Pair]:
    from lf.data.masks import units

    return [*units.open_units(where, wanted.limit_sequences)]


def _folder(where: str) -> Path:
    if not where:
        raise UsageError("this dataset needs a folder after the colon, such as hpatches:DIR or warps:DIR")
    return files.expand(where)


DATASETS: dict[str, Callable[[str, Wanted], list[Pair]]] = {
    "hpatches": _hpatches,  # DIR with sequences i_* and v_*
    "warps": _warps,  # DIR with any photos: exact random homographies
    "turns": _turns,  # DIR with any photos, turned by 0 to 180 degrees
    "zooms": _zooms,  # DIR with any photos, zoomed by 1 to 4
    "procedural": _procedural,  # [N] images drawn by the project
    "posed": _posed,  # DIR with camera matrices and poses
    "scenes": _scenes,  # [N] scenes drawn by the project: exact poses and depth
    "masks": _masks,  # DIR[@SET] with labelled images, for segmentation
}
DRAWN = ("procedural", "scenes")  # need nothing after the colon


def open_dataset(
    spec: str, limit_sequences: int | None = None, seed: int = 0, exclude: tuple[str, ...] = ()
) -> list[Pair]:
    """Open a dataset by name.

    Args:
        spec: `NAME:WHERE` with a row of DATASETS, or a folder, which means `hpatches:FOLDER`. A folder whose own name
            starts with the name of a dataset and a colon can be given as `./FOLDER`.
        limit_sequences: largest number of sequences to keep; None keeps all.
        seed: seed of random choices, for `warps`, `turns`, `zooms`, `procedural` and `scenes`.
        exclude: names of sequences to leave out, for `hpatches`.

    Returns:
        The pairs. Duplicates are kept, with a remark on stderr.

    Raises:
        UsageError: unknown dataset, or a dataset without its folder.
        BadInput: the folder is not a valid dataset.
    """
    if limit_sequences is not None and limit_sequences < 1:
        raise UsageError(f"the limit on sequences must be at least 1, got {limit_sequences}")
    pairs = _open(spec, Wanted(limit_sequences, seed, exclude))
    for remark in remarks(pairs):
        _say(f"lf: {spec}: {remark}")
    return pairs


def _open(spec: str, wanted: Wanted) -> list[Pair]:
    name, colon, where = spec.partition(":")
    if name in DATASETS and (colon or name in DRAWN):
        return DATASETS[name](where, wanted)
    if colon and not Path(spec).exists() and "/" not in name:
        return pick(DATASETS, name, "dataset")(where, wanted)
    return _hpatches(spec, wanted)


def remarks(pairs: Sequence[Pair]) -> list[str]:
    """Return warnings about pairs that bias a mean: duplicates, and pairs of an image with itself.

    There is no warning if every pair shows one image twice, which is a test of tools.
    """
    seen: dict[tuple[str, str, bytes], Pair] = {}
    again: list[tuple[Pair, Pair]] = []
    for pair in pairs:
        known = seen.setdefault((pair.first.digest, pair.second.digest, pair.truth.tobytes()), pair)
        if known is not pair:
            again.append((pair, known))
    same = [pair for pair in pairs if pair.first.digest == pair.second.digest]
    found = []
    if again:
        names = " as ".join(f"{pair.sequence} {pair.name}" for pair in again[0])
        found.append(
            f"{len(again)} of {len(pairs)} pairs are copies, such as {names}: same images, same {pair.kind}; "
            "each one counts, delete the copies"
        )
    if 0 < len(same) < len(pairs):
        found.append(
            f"{len(same)} of {len(pairs)} pairs show one image twice, such as {same[0].sequence} {same[0].name}: "
            "they count and measure nothing, delete them"
        )
    return found


@cache
def _say(text: str) -> None:
    """Print a remark on stderr, once in a process."""
    console.note(text)


def dataset_digest(pairs: Sequence[Pair]) -> str:
    """Hex sha256 of names, images and truths, in their order: equal digests mean equal data.

    The truth between generated images follows from their digests. It is left out, because its last bits depend on the
    processor: the same generated data has the same digest on every machine.
    """
    digest = hashlib.sha256()
    for pair in pairs:
        words = (pair.sequence, pair.name, pair.first.key, pair.first.digest, pair.second.key, pair.second.digest)
        digest.update("\0".join(words).encode("utf-8", "surrogateescape"))
        if pair.first.path or pair.second.path:
            truth = pair.truth if isinstance(pair.truth, RelativePose) else np.ascontiguousarray(pair.truth, "<f8")
            digest.update(truth.tobytes())
    return digest.hexdigest()
