"""Localise query images among images with known cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lf.benchmarks.run import results
from lf.benchmarks.run.record import Run
from lf.benchmarks.sfm import aachen, colmap, protocol
from lf.benchmarks.sfm.matches import MATCHERS
from lf.benchmarks.sfm.pairs import choose
from lf.benchmarks.sfm.places import Place, places, refuse_unknown
from lf.benchmarks.sfm.pose_errors import PoseError, pose_error
from lf.benchmarks.sfm.reconstruct import RESULTS, in_place, kept_model, matched, placed, revived
from lf.benchmarks.sfm.stages import How, Progress, Stages
from lf.core import BadInput, UsageError, pick
from lf.extraction.variant import Variant

VERSION = 1
NAME = "localise"
EVERY, FIRST = 3, 2  # in posed sets, every third image is a query

Found = Mapping[str, colmap.Placed | None]


def localize(
    variant: Variant,
    data: str,
    out: Path,
    *,
    how: How,
    pairs: str | None = None,
    queries: Sequence[str] = (),
    threads: int = 1,
    progress: Progress = lambda done, total, text: None,
) -> tuple[Run, Path | None] | None:
    """Find the poses of query images; the same folder resumes.

    Args:
        variant: the model in its backend.
        data: `aachen:ROOT`, `aachen-v1.1:ROOT`, or a posed dataset, see `lf.benchmarks.sfm.places.places`.
        out: folder for features, matches, database, model and results.json.
        how: settings of features and matches.
        pairs: see `lf.benchmarks.sfm.pairs.choose`; None takes all, or the list of Aachen.
        queries: names of the queries of a posed set; empty takes every third image.
        threads: number of threads of the backend.
        progress: called with (done, total, text).

    Returns:
        The run, and the file for Aachen's evaluation server. None for a shard, which only extracts and matches.

    Raises:
        UsageError: unknown names, or a folder with other work.
        BadInput: images, cameras or files are damaged or missing.
        Unavailable: pycolmap or the engine is not installed.
    """
    pick(MATCHERS, how.matcher, "matcher")
    colmap.version()
    name, colon, root = data.partition(":")
    release = aachen.RELEASES.get(name) if colon else None
    if release:
        if queries:
            raise UsageError(f"`queries`: {name} lists its own queries; leave it out")
        tree = aachen.read(Path(root).expanduser(), release)
        found, asked = [tree.place], [tree.queries]
    else:
        found = places(data)
        asked = [_queries(place, queries, len(found)) for place in found]
    way = pairs or ("listed" if release else "exhaustive")
    params = {"matcher": how.matcher, "pairs": way, "top_k": how.top_k, "queries": list(queries)}
    setup = protocol.Setup(name if release else NAME, VERSION, params)
    extractor = variant.open(threads)
    more = {"protocol": setup.describe(), "queries": [list(each) for each in asked]}
    work = [_stages(place, each, out, extractor, way, how, more) for place, each in zip(found, asked, strict=True)]
    if not matched(work, how, variant, threads, progress):
        return None
    records: list[dict[str, Any]] = []
    models: dict[str, protocol.Scores] = {}
    poses: dict[str, colmap.Placed | None] = {}
    for stages, each in zip(work, asked, strict=True):
        model, poses = _localised(stages, each, progress)
        place = stages.place
        models[place.name] = protocol.summary(model, len(place.shots) - len(each), stages.inliers())
        records += _records(stages, each, poses, scored=not release)
    run = protocol.assembled(variant, extractor, setup, data, found, records, models, __name__)
    results.save(out / RESULTS, [run])
    sent = aachen.write(out, release, run.artifact.stem, poses) if release else None
    return run, sent


def _stages(
    place: Place, asked: Sequence[str], out: Path, extractor: Any, way: str, how: How, more: Mapping[str, Any]
) -> Stages:
    index = {shot.name: i for i, shot in enumerate(place.shots)}
    return Stages(place, out / place.name, extractor, choose(way, place, [index[name] for name in asked]), how, more)


def _queries(place: Place, names: Sequence[str], count: int) -> tuple[str, ...]:
    """Return the queries of a posed place.

    Raises:
        UsageError: names of several places.
        BadInput: an unknown image, images without a pose or intrinsics, or no images left for the model.
    """
    refuse_unknown(place, "choose a dataset that has them")
    unposed = [shot.name for shot in place.shots if shot.pose is None]
    if unposed:
        raise BadInput(f"{place.name}: no pose of {unposed[0]}; expected posed:DIR, scenes:N, or aachen:ROOT")
    if names and count > 1:
        raise UsageError(f"`queries`: the data holds {count} scenes; give the folder of one, or leave `queries` out")
    known = [shot.name for shot in place.shots]
    if unknown := next((name for name in names if name not in known), None):
        raise BadInput(f"{place.name}: has no image '{unknown}'; expected names such as {known[0]}")
    asked = tuple(names) or tuple(known[FIRST::EVERY])
    if not 0 < len({*asked}) <= len(known) - 2:
        raise BadInput(f"{place.name}: {len(asked)} queries of {len(known)} images; expected 1 to {len(known) - 2}")
    return asked


def _localised(
    stages: Stages, asked: Sequence[str], progress: Progress
) -> tuple[colmap.Model, dict[str, colmap.Placed | None]]:
    """Return the triangulated model and the registered queries: those of an earlier run, or new ones."""
    path, content = stages.database(progress), stages.note.content
    if content.get("model") and content.get("queries") is not None:
        where = stages.note.path
        return revived(content["model"], where), _revived(content["queries"], where)
    progress(1, 2, f"{stages.place.name}: triangulate and register {len(asked)} queries")
    known = {s.name: s.pose for s in stages.place.shots if s.pose is not None and s.name not in asked}
    model, poses = in_place(stages, lambda out: colmap.triangulate(path, known, asked, out))
    kept = {name: found and {**asdict(found), "pose": found.pose.tolist()} for name, found in poses.items()}
    stages.note.write(model=kept_model(model), queries=kept)
    return model, poses


def _revived(kept: Any, where: Path) -> dict[str, colmap.Placed | None]:
    try:
        return {name: found and placed(found) for name, found in kept.items()}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise BadInput(f"{where}: the poses in it are damaged; delete the folder and run the command again") from error


def _records(stages: Stages, asked: Sequence[str], poses: Found, scored: bool) -> list[dict[str, Any]]:
    place, counts = stages.place, stages.keypoints()
    truth = {shot.name: shot.pose for shot in place.shots}
    found = []
    for name in asked:
        scores = protocol.record(place.name, name, counts[name], poses[name])
        if scored:
            error = _error(poses[name], truth[name])
            scores |= {**protocol.errors(error), **protocol.levels(error)}
        found.append(scores)
    return found


def _error(found: colmap.Placed | None, truth: Any) -> PoseError | None:
    return None if found is None or truth is None else pose_error(found.pose, truth)
