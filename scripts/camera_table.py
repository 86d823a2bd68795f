"""The tables of docs/results/cameras.md: `python -m scripts.camera_table RESULTS.json...`.

RESULTS.json are those of `lf sweep docs/results/cameras.toml`, and of `lf sfm FILE` for each of its files, on the same
data. Each file has a row for its pairs and its reconstruction, in the order of the pairs' runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lf.benchmarks.protocols.summary import MEAN, brackets, number
from lf.benchmarks.report.tables import digits, markdown, signed
from lf.benchmarks.run import results
from lf.benchmarks.run.record import PairScores, Run

AREAS = {"pose_auc@5": "AUC@5", "pose_auc@10": "AUC@10", "pose_auc@20": "AUC@20"}
MODEL = {"sparse_points": "points", "track_length": "track", "reprojection_error": "reproj. px"}
CENTRE, TURN = "camera_centre_error", "camera_rotation_error"
FLOAT = ("", "fp32")


def page(runs: Sequence[Run]) -> str:
    """All pairs together, then each set with its reconstruction, then what quantization costs, and the files."""
    posed = [run for run in runs if run.protocol.startswith("pose")]
    built = {run.artifact.sha256: run for run in runs if run.reconstructions}
    sets = sorted({pair.sequence for run in posed for pair in run.pairs})
    parts = ["## All pairs", whole(posed)]
    for name in sets:
        parts += [f"## {name}", of_set(posed, built, name)]
    return "\n\n".join([*parts, "## What w8a8 costs", costs(posed, built), "## Files", files(posed)])


def whole(posed: Sequence[Run]) -> str:
    """Pose over the pairs of all sets."""
    head = ["model", "scheme", "pairs", "matches", "inliers", *AREAS.values()]
    rows = []
    for run in posed:
        counts = [f"{run.summary[name]:.0f}" for name in ("n_matches", "n_inliers")]
        rows.append([*named(run), str(len(run.pairs)), *counts, *(sure(run.pairs, name) for name in AREAS)])
    return markdown(head, rows)


def of_set(posed: Sequence[Run], built: dict[str | None, Run], name: str) -> str:
    """The pairs of one set, and its reconstruction by the same file."""
    head = ["model", "scheme", *AREAS.values(), "registered", *MODEL.values(), "centre mm", "rotation deg"]
    rows = []
    for run in posed:
        areas = [sure(of(run, name), metric) for metric in AREAS]
        rows.append([*named(run), *areas, *reconstruction(built.get(run.artifact.sha256), name)])
    return markdown(head, rows)


def reconstruction(run: Run | None, name: str) -> list[str]:
    """The cells of a set in a run of `lf sfm`; dashes without one."""
    if run is None or name not in run.reconstructions:
        return ["-"] * (3 + len(MODEL))
    model, images = run.reconstructions[name], of(run, name)
    registered = f"{model['registered_images']:.0f} of {model['images']:.0f}"
    cells = [f"{model[key]:.0f}" if key == "sparse_points" else digits(model[key]) for key in MODEL]
    return [registered, *cells, *(sure(images, metric, "images") for metric in (CENTRE, TURN))]


def of(run: Run, name: str) -> list[PairScores]:
    """The pairs or images of a set."""
    return [record for record in run.pairs if record.sequence == name]


def sure(records: Sequence[PairScores], metric: str, each: str = "pairs") -> str:
    """The mean over pairs or images, with its 95 % interval."""
    found = number([record.value(metric) for record in records], MEAN)
    if found["mean"] is None:
        return "-"
    return f"{digits(found['mean'])} {brackets(found['interval'], found['n'], digits, each)}"


def costs(posed: Sequence[Run], built: dict[str | None, Run]) -> str:
    """Format the paired drop of each quantized file from its network's float file; negative is better."""
    rows = []
    for first, run in quantized(posed):
        areas = [dropped(first, run, metric) for metric in AREAS]
        both = built.get(first.artifact.sha256), built.get(run.artifact.sha256)
        centre = dropped(both[0], both[1], CENTRE) if both[0] and both[1] else "-"
        rows.append([*named(run), *areas, centre])
    return markdown(["model", "scheme", *AREAS.values(), "centre mm"], rows)


def quantized(posed: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Float and quantized runs of one network."""
    for run in posed:
        first = [each for each in posed if each.artifact.model == run.artifact.model and each.artifact.scheme in FLOAT]
        if first and run.artifact.scheme not in FLOAT:
            yield first[0], run


def dropped(first: Run, run: Run, metric: str) -> str:
    """The paired drop with its 95 % interval."""
    found = run.drop(first, metric)
    return "-" if found is None else f"{signed(found.drop)} {brackets(found.interval, found.n, signed)}"


def files(posed: Sequence[Run]) -> str:
    """List the file of each run; baselines of OpenCV have none."""
    about = [(named(run), run.artifact) for run in posed if run.backend != "opencv"]
    rows = [[*name, each.file or "-", (each.sha256 or "-")[:12], each.megabytes] for name, each in about]
    return markdown(["model", "scheme", "file", "sha256", "MB"], rows)


def named(run: Run) -> list[str]:
    """Model and scheme; a baseline of OpenCV has no scheme."""
    return [run.artifact.model, "" if run.backend == "opencv" else run.artifact.scheme]


if __name__ == "__main__":
    print(page([run for path in sys.argv[1:] for run in results.load(Path(path))]))
