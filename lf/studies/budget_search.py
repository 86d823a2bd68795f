"""Per-layer sensitivity of geometric metrics, and quantization within an accuracy budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lf.core import Artifact, console
from lf.core.console import Progress

if TYPE_CHECKING:
    from lf.quantize.search.journal import Journal

EVALUATIONS = 40  # default limit of evaluated files in a search
MEASURED_BY = "lf.studies.accuracy_drop"
PARTS = {"search": "the pairs of the search", "confirm": "the others"}


class Study(NamedTuple):
    """Rows of a sensitivity study, the file that keeps them, the image, and the protocols that measured them."""

    rows: Sequence[Mapping[str, Any]]
    journal: Journal
    picture: Path
    protocols: list[str]


def study_layers(
    parent: Artifact,
    out: Path,
    data: str,
    images: Path | None,
    scheme: str,
    protocol: str | None,
    limit_sequences: int | None,
    photos: Mapping[str, Any],
    progress: Progress,
) -> Study:
    """Measure the drop of geometric metrics when a single layer of a float ONNX file is quantized, for each layer.

    Args:
        parent: a float ONNX file.
        out: folder for rows, features and image; the same folder resumes.
        data: see `lf.data.open_dataset`.
        images: folder of calibration images.
        scheme: a row of SCHEMES.
        protocol: names separated by commas; None takes those that the metrics need.
        limit_sequences: number of first sequences to use.
        photos: `calibration`, `limit` and `seed` of the calibration images.
        progress: called with (done, total, text).
    """
    from lf.benchmarks.report import ranking
    from lf.benchmarks.report.figures import plotter
    from lf.quantize import float_onnx, open_photos
    from lf.quantize.search.journal import Journal, circumstances
    from lf.quantize.search.sensitivity import Layers, studied, study
    from lf.studies.accuracy_drop import Judge, open_pairs, yielded

    float_onnx(parent)
    row, metrics = studied(scheme), yielded(ranking.TOLERANCES, protocol)
    plotter()  # raises before the work if matplotlib is not installed
    judge = Judge(parent, open_pairs(data, metrics, limit_sequences), data, metrics, out / "cache")
    known = {name: value or getattr(row, name, value) for name, value in photos.items()}
    about = circumstances(parent, images, known, MEASURED_BY, "lf.quantize.search.sensitivity")
    journal = Journal(out / "sensitivity.json", {"scheme": scheme, **about, **judge.identity})
    calibration = open_photos(scheme, images, progress=progress, **photos)
    rows = study(Layers(parent, scheme, calibration), judge, journal, progress)
    legend = "dotted: tolerated, lines: 95 % intervals, pale and ?: no evidence of a cost, *: stays float"
    title = f"{parent.path.name} {scheme}: cost of each layer alone; {legend}"
    picture = ranking.draw(rows, title, out / "sensitivity.png")
    return Study(rows, journal, picture, list({rule.name: 0 for rule in metrics.values()}))


def check_study(scheme: str, protocol: str | None, images: Path | None, photos: Mapping[str, Any]) -> None:
    """Check the options of `study_layers` as far as possible without the ONNX file."""
    from lf.benchmarks.report import ranking
    from lf.benchmarks.report.figures import plotter
    from lf.quantize import open_photos
    from lf.quantize.search.sensitivity import studied
    from lf.studies.accuracy_drop import yielded

    studied(scheme)
    yielded(ranking.TOLERANCES, protocol)
    plotter()
    open_photos(scheme, images, **photos)


class Where(NamedTuple):
    """Data for measuring drops, the limit of evaluations, and the folder with the state: see `lf search`."""

    data: str
    protocol: str | None
    limit_sequences: int | None
    evaluations: int
    folder: Path | None


def check_search(
    budget: str,
    where: Where,
    artifact: Artifact,
    scheme: str,
    images: Path | None,
    output: Path | None,
    asked: dict[str, int],
    options: dict[str, Any],
) -> None:
    """Check the options of `within` as far as possible without the ONNX file."""
    from lf.quantize import prepare
    from lf.quantize.search.sensitivity import studied
    from lf.studies.accuracy_drop import choose, parse_budget

    choose(parse_budget(budget), where.protocol)
    studied(scheme)
    known = options if images else {**options, "seed": 0}  # without photos, the seed only splits the pairs
    prepare(artifact, scheme, images, output, bits=asked, **known)


def within(
    budget: str,
    where: Where,
    parent: Artifact,
    scheme: str,
    images: Path | None,
    output: Path | None,
    asked: dict[str, int],
    options: dict[str, Any],
    progress: Progress,
) -> Artifact:
    """Quantize with the cheapest bits that keep a budget; also return the bits and their cost."""
    from lf.quantize import float_onnx, usual_name
    from lf.quantize.search import budget as mixed
    from lf.quantize.search.journal import Journal, circumstances
    from lf.quantize.search.sensitivity import studied
    from lf.studies.accuracy_drop import Judge, choose, halves, open_pairs, parse_budget

    limits = parse_budget(budget)
    metrics = choose(limits, where.protocol)
    float_onnx(parent)
    row, out = studied(scheme), output or usual_name(parent, scheme)
    folder = where.folder or out.with_suffix(".search")
    both = halves(open_pairs(where.data, metrics, where.limit_sequences), options["seed"])
    judges = [Judge(parent, pairs, where.data, metrics, folder / "cache") for pairs in both]
    rules = {metric: rule.name for metric, rule in metrics.items()}
    split = {
        name: {"pairs": len(pairs), **judge.identity} for name, pairs, judge in zip(PARTS, both, judges, strict=True)
    }
    about = {"data": where.data, "seed": options["seed"], "protocols": rules, "split": split}
    known = {name: options[name] or getattr(row, name) for name in ("calibration", "limit", "rounding")}
    words = {key: str(value) for key, value in options.items() if key not in known and value is not None}
    identity = {
        **circumstances(parent, images, {**known, **words}, MEASURED_BY, "lf.quantize.search.budget"),
        **{"scheme": scheme, "bits": asked, "data": split},
    }
    task = mixed.Task(parent, scheme, images, limits, judges[0], judges[1], where.evaluations, asked, options, about)
    made = mixed.search(task, out, Journal(folder / "search.json", identity), progress)
    _say(made, scheme)
    return made


def _say(made: Artifact, scheme: str) -> None:
    from lf.benchmarks.protocols.summary import LEAST
    from lf.benchmarks.report.ranking import change
    from lf.benchmarks.report.tables import markdown

    step = made.card.made[-1]
    found, rows = step.search, []
    for metric, limit in found["budget"].items():
        rows.append([metric, f"{limit:g}", *(change(found["drops"][name][metric]) for name in PARTS)])
    heads = [f"{text}, {found['split'][name]['pairs']} pairs" for name, text in PARTS.items()]
    console.note(markdown(["drop of", "allowed", *heads], rows))
    few = min(drop["pairs"] for drops in found["drops"].values() for drop in drops.values())
    if few < LEAST:
        console.note(
            f"kept in the mean of {few} pairs only, at least {LEAST} are needed for an interval; take more data"
        )
    raised = [f"{name}={count}" for name, count in found["raised"].items()]
    console.note(f"raised after {found['evaluations']} evaluations: {', '.join(raised) or 'none'}")
    console.note(f"computed in float: {', '.join(step.kept_float) or 'none'}")
    cost = found["cost"]
    time = cost["measured_time"]
    console.note(
        f"against {scheme} alone: {'' if time is None else f'{time:.2f} times as long here, '}"
        f"{cost['predicted_time']:.2f} as predicted, {cost['weights']:.2f} times the weights"
    )
