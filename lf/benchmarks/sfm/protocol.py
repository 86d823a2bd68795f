"""SETUPS: protocols of reconstruction and localization, and their runs of a results file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lf.benchmarks import LEVELS
from lf.benchmarks.protocols.summary import overview
from lf.benchmarks.run.evaluate import evaluated
from lf.benchmarks.run.record import Run
from lf.benchmarks.run.results import environment
from lf.benchmarks.sfm import colmap
from lf.benchmarks.sfm.places import Place
from lf.benchmarks.sfm.pose_errors import PoseError
from lf.extraction.extractor import Extractor
from lf.extraction.variant import Variant

COMMON = ("registered", "n_keypoints0", "n_observations", "track_length", "reprojection_error")
MM = 1000  # per unit of the data, which is the metre for datasets with errors in mm
POSED = ("camera_centre_error", "camera_rotation_error")

Scores = dict[str, float | None]


@dataclass(frozen=True)
class Setup:
    """Settings that numbers depend on; only numbers with the same setup are comparable.

    Attributes:
        name: name of the protocol.
        version: increased when a change of code changes a value.
        params: matcher, pairs, number of keypoints, intrinsics ...
    """

    name: str
    version: int
    params: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Definition of the protocol for results; JSON."""
        return {"name": self.name, "version": self.version, "params": dict(self.params), "seed": colmap.SEED}

    @property
    def digest(self) -> str:
        """Return 12 hex digits over `describe`. Values with equal digests are comparable."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:12]


def record(place: str, image: str, keypoints: int, found: colmap.Placed | None) -> dict[str, Any]:
    """Return the record of an image: whether it is registered, and its numbers in the model."""
    values = (found.observations, found.track_length, found.reprojection_error) if found else (0, None, None)
    scores = (float(found is not None), keypoints, *values)
    return {"sequence": place, "pair": image, **dict(zip(COMMON, scores, strict=True))}


def errors(found: PoseError | None) -> Scores:
    """Return the metrics of a pose error, the centre in mm if the data is in m; None without an error."""
    return dict(zip(POSED, (found.centre * MM, found.rotation) if found else (None, None), strict=True))


def levels(found: PoseError | None) -> Scores:
    """Return 1 or 0 for each of LEVELS: whether a query is within it. Unregistered queries are within none."""
    return {
        f"localised@{metres:g}m": float(found is not None and found.centre <= metres and found.rotation <= degrees)
        for metres, degrees in LEVELS
    }


def summary(model: colmap.Model, images: int, inliers: Mapping[Any, int]) -> Scores:
    """Summarise COLMAP's analysis of a model and its matches."""
    registered = len(model.images)
    enough = [count for count in inliers.values() if count]
    return {
        "images": images,
        "registered_images": registered,
        "sparse_points": model.points,
        "observations": model.observations,
        "track_length": model.track_length,
        "observations_per_image": model.observations / registered if registered else None,
        "reprojection_error": model.reprojection_error,
        "models": model.models,
        "verified_pairs": len(inliers),
        "inlier_pairs": len(enough),
        "inlier_matches": sum(enough),
    }


def assembled(
    variant: Variant,
    extractor: Extractor,
    setup: Setup,
    data: str,
    places: Sequence[Place],
    records: Sequence[Mapping[str, Any]],
    reconstructions: Mapping[str, Scores],
    by: str,
) -> Run:
    """Assemble the run of a results file, with a record for each image instead of each pair."""
    info = extractor.session.info
    digest = hashlib.sha256("".join(place.digest for place in places).encode()).hexdigest()
    said = {
        **evaluated(variant, info).to_dict(),
        "protocol": setup.name,
        "protocol_digest": setup.digest,
        "protocol_details": setup.describe(),
        "dataset": data,
        "dataset_digest": digest,
        "environment": environment(info, by),
        **overview(records, {}),
        "latency_ms": None,
        "pairs": list(records),
        "reconstructions": reconstructions,
    }
    run = Run.from_dict(said, data)
    versions = {**run.environment.versions, "pycolmap": colmap.version()}
    return Run.from_dict({**run.to_dict(), "environment": {**run.environment.to_dict(), "versions": versions}}, data)
