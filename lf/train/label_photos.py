"""`lf label`: label a folder of photos, see `lf.train.homographic_adaptation`.

One file per photo, so that a run resumes and several runs share the work. Every photo is treated alone and draws its
homographies from the hash of its bytes: neither the order nor the number of runs changes a label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lf.core import Array, Artifact, BadInput, UsageError, files, ledger
from lf.core.fingerprint import versions
from lf.data import images
from lf.formats import npz
from lf.train.homographic_adaptation import BATCH, Labeller, Settings
from lf.train.workers import find_device

Progress = Callable[[int, int, str], None]

MANIFEST = "manifest.json"


class Labels(NamedTuple):
    """Labels of a photo: points (N, 3) x, y in px of the photo, and score; the sha256 of the photo's bytes."""

    points: Array
    sha256: str


@dataclass
class Tally:
    """Counts of a run: photos labelled now, labelled earlier, and unreadable with the reason; points in total."""

    labelled: int = 0
    kept: int = 0
    points: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def label(
    artifact: Artifact,
    data: Path,
    out: Path,
    settings: Settings,
    *,
    shard: tuple[int, int] = (0, 1),
    limit: int | None = None,
    device: str = "auto",
    threads: int = 1,
    progress: Progress,
) -> Tally:
    """Label the photos below `data`. Labels that `out` already holds are kept.

    Each photo gets a file `out/NAME.npz`: points (N, 3) float32 x, y, score, best first, px of the photo; size (2,)
    int64 width, height; sha256 of the photo's bytes. `out/manifest.json` holds the settings and the network.

    Args:
        artifact: a checkpoint whose network has a detector of 65 classes per cell.
        data: folder of photos, searched recursively.
        out: folder of the labels.
        settings: settings of the labels.
        shard: (i, n): label share i of n, counted from 0.
        limit: label only this many photos, the first ones; shards share them.
        device: auto, cpu or cuda.
        threads: number of torch threads on the CPU.
        progress: called with (done, total, text).

    Raises:
        UsageError: the network is of another kind, a setting is out of range, or `out` holds other labels.
        BadInput: `data` holds no photo, or none can be read.
        BadModel: the network gives non-finite values.
        Unavailable: the device is not there.
    """
    index, count = shard
    if not 0 <= index < count:
        raise UsageError(f"`shard={index}/{count}`: expected I/N with I from 0 to N - 1, for example 0/{max(count, 1)}")
    labeller = Labeller(artifact, settings, find_device(device))
    paths = images.list_images(data, limit)
    note = _claim(out, artifact, settings, len(paths))
    torch.set_num_threads(threads)
    own = paths[index::count]
    tally = Tally()
    for turn, path in enumerate(own):
        name = path.relative_to(data).as_posix()
        progress(turn, len(own), name)
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if _is_done(out / f"{name}.npz", digest):
                tally.kept += 1
                continue
            photo = images.read(path)
        except (BadInput, OSError) as error:
            tally.failed[name] = str(error)  # one broken photo must not end a run of hours
            continue
        with files.taken_back(note):
            points = labeller(photo, digest)
        with files.atomic(out / f"{name}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, points=points, size=np.array(photo.shape[1::-1]), sha256=np.array(digest))
        tally.labelled += 1
        tally.points += len(points)
    progress(len(own), len(own), "done")
    if own and len(tally.failed) == len(own):
        raise BadInput(f"{data}: none of its {len(own)} images could be read; {next(iter(tally.failed.values()))}")
    return tally


def read_labels(folder: Path) -> dict[str, Labels]:
    """Read a folder of labels: name of each photo, relative to the labelled folder -> its labels.

    Raises:
        BadInput: no folder of labels, or a damaged file in it.
    """
    if not (folder / MANIFEST).is_file():
        raise BadInput(f"{folder}: holds no {MANIFEST}; make them with: `label(CHECKPOINT, photos=DIR, out={folder})`")
    found = {}
    for path in sorted(path for path in folder.rglob("*.npz") if path.name[0] != "."):  # skip half-written files
        found[path.relative_to(folder).as_posix().removesuffix(".npz")] = _read(path)
    return found


def points_of(known: dict[str, Labels], folder: Path, name: str, sha256: str) -> Array:
    """Return the points (N, 3) of the photo `name` among the labels `known` of `folder`.

    Raises:
        BadInput: the photo has no labels, or they belong to a photo with other bytes.
    """
    if name not in known:
        raise BadInput(
            f"{folder}: has no labels for {name}; make them with: `label(CHECKPOINT, photos=DIR, out={folder})`"
        )
    if known[name].sha256 != sha256:
        raise BadInput(
            f"{folder / name}.npz: labels another photo of the name {name}, or one that has changed since; expected "
            f"labels of all photos below one DIR; type again: `label(CHECKPOINT, photos=DIR, out={folder})`"
        )
    return known[name].points


def _claim(out: Path, artifact: Artifact, settings: Settings, count: int) -> Path:
    """Write the manifest, or check that the existing one is equal; return its path."""
    digest = hashlib.sha256(files.read_bytes(artifact.path, "a checkpoint")).hexdigest()
    own = {"checkpoint": digest, **asdict(settings), "size": list(settings.size), "batch": BATCH}
    remedy = f"choose another `out`, or delete the labels: rm -r {out}"
    found = ledger.resume(out / MANIFEST, {**own, **versions(__name__)}, work=out, remedy=remedy, before="settings")
    found.write(model=artifact.card.model, count=count)
    return found.path


def _is_done(path: Path, digest: str) -> bool:
    try:
        return path.is_file() and _read(path).sha256 == digest
    except BadInput:
        return False  # damaged: label the photo again


def _read(path: Path) -> Labels:
    what = "labels; remove it and run lf label again"
    arrays = npz.read(path, what, ("points", "sha256"), text=("sha256",))
    points = arrays["points"]
    if points.dtype.kind != "f" or points.ndim != 2 or points.shape[1] != 3:
        raise BadInput(f"{path}: points are {points.dtype} of shape {points.shape}; expected float (N, 3) of {what}")
    return Labels(points, str(arrays["sha256"]))
