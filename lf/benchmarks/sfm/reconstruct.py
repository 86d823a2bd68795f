"""Reconstruct places from the matches of a network: protocol eth-lfb."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lf.benchmarks.run import results
from lf.benchmarks.run.record import Run
from lf.benchmarks.sfm import colmap, protocol
from lf.benchmarks.sfm.matches import MATCHERS
from lf.benchmarks.sfm.pairs import choose
from lf.benchmarks.sfm.places import Place, places, refuse_unknown
from lf.benchmarks.sfm.pose_errors import PoseError, aligned_errors
from lf.benchmarks.sfm.stages import MODEL, How, Progress, Stages
from lf.core import BadInput, console, files, pick
from lf.extraction import store
from lf.extraction.variant import Variant

RESULTS = "results.json"
INTRINSICS = ("fixed", "refined")
NAME, VERSION = "eth-lfb", 1

Made = TypeVar("Made")


def sfm(
    variant: Variant,
    data: str,
    out: Path,
    *,
    how: How,
    pairs: str = "exhaustive",
    intrinsics: str = "fixed",
    threads: int = 1,
    progress: Progress = lambda done, total, text: None,
) -> Run | None:
    """Reconstruct every place of a dataset; the same folder resumes.

    Args:
        variant: the model in its backend.
        data: see `lf.benchmarks.sfm.places.places`.
        out: folder for features, matches, database, model and results.json.
        how: settings of features and matches.
        pairs: see `lf.benchmarks.sfm.pairs.choose`.
        intrinsics: "fixed" to those of the data, or "refined" by COLMAP, with a camera for each image.
        threads: number of threads of the backend.
        progress: called with (done, total, text).

    Returns:
        The run, which is also written to results.json. None for a shard, which only extracts and matches.

    Raises:
        UsageError: unknown names, or a folder with other work.
        BadInput: images, cameras or files in the folder are damaged, or intrinsics are unknown.
        Unavailable: pycolmap or the engine is not installed.
    """
    pick(MATCHERS, how.matcher, "matcher")
    pick({name: name for name in INTRINSICS}, intrinsics, "treatment of intrinsics")
    colmap.version()
    found = places(data)
    if intrinsics == "fixed":
        for place in found:
            refuse_unknown(place, "type `intrinsics=refined`")
    params = {"matcher": how.matcher, "pairs": pairs, "top_k": how.top_k, "intrinsics": intrinsics}
    setup = protocol.Setup(NAME, VERSION, params)
    extractor = variant.open(threads)
    work = [
        Stages(place, out / place.name, extractor, choose(pairs, place), how, {"protocol": setup.describe()})
        for place in found
    ]
    if not matched(work, how, variant, threads, progress):
        return None
    records: list[dict[str, Any]] = []
    models: dict[str, protocol.Scores] = {}
    for stages in work:
        model = _model(stages, intrinsics == "refined", progress)
        errors = _errors(stages.place, model)
        models[stages.place.name] = {
            **protocol.summary(model, len(stages.place.shots), stages.inliers()),
            **_of(errors),
        }
        records += _records(stages, model, errors)
    run = protocol.assembled(variant, extractor, setup, data, found, records, models, __name__)
    results.save(out / RESULTS, [run])
    return run


def matched(work: list[Stages], how: How, variant: Variant, threads: int, progress: Progress) -> bool:
    """Extract and match all places, or the shard of each; return whether all matches are complete."""
    for stages in work:
        stages.features(variant, threads, progress)
    lacking = sum(stages.match(progress) for stages in work)
    if how.shard == store.WHOLE:
        return True
    index, count = how.shard
    said = f"shard {index}/{count} is done; without `shard` the same command goes on"
    if lacking:
        said = (
            f"shard {index}/{count}: {lacking} images have no features yet; run it again when the other shards are done"
        )
    console.note(f"lf: {said}")
    return False


def in_place(stages: Stages, make: Callable[[Path], Made]) -> Made:
    """Call `make` with an empty folder, which then replaces the folder of the model."""
    stages.folder.mkdir(parents=True, exist_ok=True)
    final = stages.folder / MODEL
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{MODEL}.", dir=stages.folder))
    except OSError as error:
        raise files.explain(error, final) from error
    try:
        made = make(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.chmod(0o755)
        temporary.replace(final)
    except OSError as error:
        raise files.explain(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return made


def _model(stages: Stages, refine: bool, progress: Progress) -> colmap.Model:
    """Return the model of an earlier run of a place, or a new model."""
    path = stages.database(progress)
    if (kept := stages.note.content.get("model")) and (stages.folder / MODEL).is_dir():
        return revived(kept, stages.note.path)
    progress(1, 2, f"{stages.place.name}: map")
    model = in_place(stages, lambda out: colmap.reconstruct(path, out, refine))
    stages.note.write(model=kept_model(model))
    return model


def kept_model(model: colmap.Model) -> dict[str, Any]:
    """Convert a model to JSON."""
    images = {name: {**asdict(image), "pose": image.pose.tolist()} for name, image in model.images.items()}
    return {**asdict(model), "images": images}


def revived(kept: Mapping[str, Any], where: Path) -> colmap.Model:
    """Read a model from JSON.

    Raises:
        BadInput: it is not a model.
    """
    try:
        images = {name: placed(image) for name, image in kept["images"].items()}
        return colmap.Model(**{**kept, "images": images})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise BadInput(f"{where}: the model in it is damaged; delete the folder and run the command again") from error


def placed(kept: Mapping[str, Any]) -> colmap.Placed:
    """Read an image of a model from JSON."""
    return colmap.Placed(**{**kept, "pose": np.array(kept["pose"], np.float64).reshape(3, 4)})


def _errors(place: Place, model: colmap.Model) -> dict[str, PoseError]:
    truth = {shot.name: shot.pose for shot in place.shots if shot.pose is not None}
    return aligned_errors({name: image.pose for name, image in model.images.items()}, truth)


def _of(errors: Mapping[str, PoseError]) -> protocol.Scores:
    """Return the summary of the errors of all cameras of a place."""
    centres = [error.centre * protocol.MM for error in errors.values()]
    turns = [error.rotation for error in errors.values()]
    return {
        "centre_error_mean_mm": float(np.mean(centres)) if centres else None,
        "centre_error_median_mm": float(np.median(centres)) if centres else None,
        "centre_error_max_mm": max(centres) if centres else None,
        "rotation_error_mean_deg": float(np.mean(turns)) if turns else None,
    }


def _records(stages: Stages, model: colmap.Model, errors: Mapping[str, PoseError]) -> list[dict[str, Any]]:
    place, counts = stages.place, stages.keypoints()
    return [
        {
            **protocol.record(place.name, shot.name, counts[shot.name], model.images.get(shot.name)),
            **protocol.errors(errors.get(shot.name)),
        }
        for shot in place.shots
    ]
