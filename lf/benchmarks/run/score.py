"""Score stored features of another tool: stored pairs, or images of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from lf import __version__
from lf.benchmarks import PROTOCOLS
from lf.benchmarks.protocols.geometry import Size
from lf.benchmarks.protocols.protocol import Protocol
from lf.benchmarks.report.tables import markdown
from lf.benchmarks.run import superpoint_export
from lf.benchmarks.run.evaluate import Progress, assemble
from lf.benchmarks.run.record import Run, Subject
from lf.benchmarks.run.results import environment
from lf.core import BadInput, Features, SessionInfo, UsageError, pick
from lf.data import Pair, Picture, open_dataset
from lf.data.cameras import RelativePose
from lf.data.homography import warp_points
from lf.data.layouts import LAYOUTS, Store, pairs
from lf.data.layouts.pairs import Stored

APS = {"two-way": "two_way", "crosscheck": "crosscheck"}
FILES: dict[str, Callable[[Path], Stored]] = {"pair": pairs.read, "superpoint": pairs.read_superpoint}


def choose(name: str, top_k: int | None = None, ap: str | None = None) -> Protocol:
    """Return a protocol, with another k or another kind of average precision if given.

    If k is given, images with more points need scores, whatever `Protocol.unscored` says.

    Raises:
        UsageError: the name is unknown, or the protocol has no such parameter.
    """
    protocol = pick(PROTOCOLS, name, "protocol")
    if protocol.truth == "classes":
        raise UsageError(
            f"protocol {name} scores no stored features; expected one of {', '.join(_of_features())}, "
            f"or type: `bench(FILE, data=DATA, protocol={name})`"
        )
    changes: dict[str, Any] = {} if top_k is None else {"k": top_k}
    if ap is not None:
        changes["ap"] = pick(APS, ap, "average precision")
    varied = protocol.vary(**changes)
    return varied if top_k is None else replace(varied, unscored=False)


def _of_features() -> dict[str, Protocol]:
    return {name: row for name, row in PROTOCOLS.items() if row.truth != "classes"}


def score_files(paths: Sequence[Path], protocol: Protocol, layout: str = "pair") -> dict[str, dict[str, Any]]:
    """Score stored pairs, in the order of their files.

    Args:
        paths: one file for each pair.
        protocol: see `choose`.
        layout: "pair" (see `lf.data.layouts.pairs.read`), or "superpoint" for files of pytorch-superpoint.

    Returns:
        path as given -> metrics of the protocol, and the protocol.

    Raises:
        UsageError: unknown layout.
        BadInput: a file holds no pair, or its image size is not the protocol's.
    """
    read = pick(FILES, layout, "layout of a stored pair")
    scores = {}
    for path in paths:
        pair = read(path)
        refuse(path, pair, protocol)
        refuse_truth(path, pair, protocol)
        rule = for_scores(protocol, pair)
        scores[str(path)] = {
            **rule.score(pair.first, pair.second, pair.truth),
            "protocol": rule.name,
            "protocol_version": rule.version,
            "protocol_digest": rule.digest,
            "inlier_mask": rule.inlier_mask,
        }
    return scores


def table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Table of `score_files`, a column for each file."""
    names = next(iter(scores.values()))
    rows = [[name, *(_cell(row[name]) for row in scores.values())] for name in names]
    return markdown(["", *(Path(path).name for path in scores)], rows)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def refuse(where: object, pair: Stored, protocol: Protocol) -> None:
    """Raise BadInput if descriptors differ in kind, or an image lacks the size or scores that the protocol needs."""
    lengths = [features.descriptors.shape[1] for features in (pair.first, pair.second)]
    if lengths[0] != lengths[1]:
        raise BadInput(f"{where}: descriptors of {lengths[0]} and of {lengths[1]} numbers; expected one length")
    if not max(lengths) and len(pair.first) and len(pair.second):
        raise BadInput(
            f"{where}: keypoints without descriptors, which no protocol can match; store the descriptors, too"
        )
    for width, height in (pair.first.size, pair.second.size):
        if protocol.size not in (None, (height, width)):
            fits = [name for name, row in _of_features().items() if row.size in (None, (height, width))]
            raise BadInput(
                f"{where}: points of a {width}x{height} image, which protocol {protocol.name} does not evaluate; "
                f"these do: {', '.join(fits)}"
            )
    k = None if pair.scored or protocol.unscored else protocol.params.get("k")
    if k is not None and (most := max(len(pair.first), len(pair.second))) > k:
        free = ", ".join(name for name, row in _of_features().items() if row.unscored or row.params.get("k") is None)
        raise BadInput(
            f"{where}: {most} points without scores, of which protocol {protocol.name} cannot take the {k} best; store "
            f"the scores, or take all points with `top_k={most}`, or without `top_k` by one of these protocols: {free}"
        )


def refuse_truth(path: Path, pair: Stored, protocol: Protocol) -> None:
    """Raise BadInput if a stored pair has not the kind of truth that the protocol needs."""
    if isinstance(pair.truth, RelativePose) != (protocol.truth == "pose"):
        pose, plane = "a relative pose (K0, K1, rotation, translation)", "a homography"
        needs, has = (pose, plane) if protocol.truth == "pose" else (plane, pose)
        raise BadInput(f"{path}: holds {has}; protocol {protocol.name} needs {needs}")


def for_scores(protocol: Protocol, pair: Stored) -> Protocol:
    """Return the protocol for a pair. Without scores, all points are used instead of the `k` best (section 1)."""
    return protocol if pair.scored else protocol.vary(k=None)


def score_folder(
    folder: Path,
    data: str,
    layout: str,
    protocol: Protocol,
    progress: Progress = lambda done, total, text: None,
) -> Run:
    """Score the features of a dataset, without latency.

    Raises:
        UsageError: unknown layout or dataset.
        BadInput: features of an image are missing, damaged, or of another image.
        Unavailable: the layout needs a package that is not installed.
    """
    row = pick(LAYOUTS, layout, "layout")
    if not folder.exists():
        raise BadInput(f"{folder}: no such folder; expected features of layout {layout}")
    dataset = open_dataset(data, exclude=protocol.without)
    protocol.check(dataset, data)
    read = (
        _of_images(row.open(folder), dataset, protocol)
        if row.open
        else superpoint_export.read(folder, dataset, protocol)
    )
    seen, records, rule = _Seen(folder), [], protocol
    for index, (pair, stored) in enumerate(zip(dataset, read, strict=True)):
        progress(index, len(dataset), f"{layout} {pair.sequence} {pair.name}")
        seen.add(pair, stored)
        refuse(f"{folder}: {pair.sequence} {pair.name}", stored, protocol)
        rule = for_scores(protocol, stored)
        scores = rule.score(stored.first, stored.second, stored.truth)
        records.append({"sequence": pair.sequence, "pair": pair.name, **scores})
    progress(len(dataset), len(dataset), layout)
    machine = environment(SessionInfo("stored", __version__, "none", 1), __name__)
    return assemble(seen.subject(layout), machine, dataset, data, rule, records)


class _Seen:
    """Digest and size of the scored features, and whether they have scores."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._digest = folder, hashlib.sha256()
        self._sizes: dict[str, int] = {}
        self._kinds: set[bool] = set()

    def add(self, pair: Pair, stored: Stored) -> None:
        """Count the features of a pair; BadInput if some images have scores and some have none."""
        for picture, features in ((pair.first, stored.first), (pair.second, stored.second)):
            arrays = (features.keypoints, features.scores, features.descriptors)
            for array in arrays:
                self._digest.update(array.data)
            self._sizes[picture.key] = sum(array.nbytes for array in arrays)
            self._kinds.add(features.scored)
        if len(self._kinds) > 1:
            raise BadInput(f"{self._folder}: some images have scores and some have none; expected features of one kind")

    def subject(self, layout: str) -> Subject:
        """Return the subject for results: stored features instead of a model."""
        artifact = {"model": "stored", "scheme": layout, "layout": layout, "file": self._folder.resolve().name}
        said = {
            "artifact": {**artifact, "sha256": self._digest.hexdigest(), "bytes": sum(self._sizes.values())},
            "keypoints": None,
            "backend": "stored",
            "provider": "none",
        }
        return Subject.from_dict(said, str(self._folder))


def _of_images(store: Store, dataset: Sequence[Pair], protocol: Protocol) -> Iterator[Stored]:
    """Yield pairs from features of single images."""
    prepared = lru_cache(maxsize=2)(partial(_prepared, store, protocol))  # read the first image of a sequence once
    for pair in dataset:
        (first, size0), (second, size1) = prepared(pair.first), prepared(pair.second)
        yield Stored(first, second, protocol.between(pair, size0, size1))


def _prepared(store: Store, protocol: Protocol, picture: Picture) -> tuple[Features, Size]:
    """Return features in pixels of the prepared image, and the native size (H, W).

    Points of the native image are mapped as the protocol's homography assumes; points in cropped areas are dropped.
    """
    image = picture.load()
    native = image.shape[0], image.shape[1]
    found = store.read(picture.key, native[::-1])
    if found.size[::-1] == (protocol.size or native):
        return found, native
    if found.size[::-1] != native:
        sizes = " or ".join(f"{s[1]}x{s[0]}" for s in (native, protocol.size) if s)
        raise BadInput(f"{picture.key}: features of a {found.size[0]}x{found.size[1]} image; expected {sizes}")
    rows, columns = protocol.kept(native)
    inside = (found.keypoints >= -0.5) & (found.keypoints < np.array([columns, rows]) - 0.5)
    kept = found.take(np.flatnonzero(inside.all(axis=1)))
    points = warp_points(kept.keypoints, protocol.matrix(native))
    height, width = protocol.size or native
    return replace(kept, keypoints=points, size=(width, height), scales=None), native
