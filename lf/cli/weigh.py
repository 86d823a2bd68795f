"""Layers weighed by what they cost the geometry: the command sensitivity, and quantize within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from lf.cli.options import PROCEDURAL, Data, File, Json, Protocols
from lf.core import Artifact, console
from lf.core.console import Progress
from lf.models.resolve import resolve
from lf.quantize import CALIBRATIONS, SCHEMES

EVALUATIONS = 40  # of a search, when --max-evaluations does not say
PARTS = {"search": "the pairs of the search", "confirm": "the others"}


def sensitivity(
    model: File,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where rows, features and the picture go; it resumes there")],
    data: Data = PROCEDURAL,
    images: Annotated[
        Path | None, typer.Option(readable=False, metavar="DIR", help="Photos to calibrate on; none of the data")
    ] = None,
    scheme: Annotated[str, typer.Option(help=f"Number format: {', '.join(SCHEMES)}")] = "w8a8",
    protocol: Protocols = None,
    limit_sequences: Annotated[int | None, typer.Option(min=1, help="Use the first so many sequences")] = None,
    calibration: Annotated[str | None, typer.Option(help=f"How ranges are found: {', '.join(CALIBRATIONS)}")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Calibrate on at most so many photos")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the photos when there are more")] = 0,
    json: Json = False,
) -> None:
    """Rank the layers of a float ONNX file by what quantizing each alone costs the geometry, beside its tensors."""
    from lf.benchmarks.report import ranking
    from lf.benchmarks.report.figures import plotter
    from lf.quantize import float_onnx, open_photos
    from lf.quantize.search.journal import Journal, circumstances
    from lf.quantize.search.sensitivity import Layers, studied, study
    from lf.studies.accuracy_drop import Judge, open_pairs, yielded

    parent = float_onnx(resolve(model))
    row, metrics = studied(scheme), yielded(ranking.TOLERANCES, protocol)
    plotter()
    judge = Judge(parent, open_pairs(data, metrics, limit_sequences), data, metrics, out / "cache")
    photos_of = {"calibration": calibration or row.calibration, "limit": limit or row.limit, "seed": seed}
    identity = {"scheme": scheme, **circumstances(parent, images, photos_of), **judge.identity}
    journal = Journal(out / "sensitivity.json", identity)
    with console.progress() as progress:
        photos = open_photos(scheme, images, calibration=calibration, limit=limit, seed=seed, progress=progress)
        rows = study(Layers(parent, scheme, photos), judge, journal, progress)
    legend = "dotted: tolerated, lines: 95 % intervals, *: stays float"
    title = f"{parent.path.name} {scheme}: what each layer costs alone; {legend}"
    picture = ranking.draw(rows, title, out / "sensitivity.png")
    if json:
        console.as_json(ranking.document(journal.identity, rows))
        console.note(f"wrote {journal.path} and {picture}")
    else:
        console.result(f"{parent.path.name} {scheme}, {', '.join({r.name: 0 for r in metrics.values()})} on {data}")
        console.result(ranking.table(rows))
        console.result(journal.path)
        console.result(picture)


class Where(NamedTuple):
    """On what drops are measured, how often at most, and the folder that keeps it: see the options of `lf quantize`."""

    data: str
    protocol: str | None
    limit_sequences: int | None
    evaluations: int
    folder: Path | None


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
    """Quantize with the cheapest bits that keep a budget, and say what they are and cost."""
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
        **circumstances(parent, images, {**known, **words}),
        **{"scheme": scheme, "bits": asked, "data": split},
    }
    task = mixed.Task(parent, scheme, images, limits, judges[0], judges[1], where.evaluations, asked, options, about)
    made = mixed.search(task, out, Journal(folder / "search.json", identity), progress)
    _say(made, scheme)
    return made


def _say(made: Artifact, scheme: str) -> None:
    from lf.benchmarks.report.ranking import change
    from lf.benchmarks.report.tables import markdown

    step = made.card.made[-1]
    found, rows = step["search"], []
    for metric, limit in found["budget"].items():
        rows.append([metric, f"{limit:g}", *(change(found["drops"][name][metric]) for name in PARTS)])
    heads = [f"{text}, {found['split'][name]['pairs']} pairs" for name, text in PARTS.items()]
    console.note(markdown(["drop of", "allowed", *heads], rows))
    raised = [f"{name}={count}" for name, count in found["raised"].items()]
    console.note(f"raised after {found['evaluations']} evaluations: {', '.join(raised) or 'none'}")
    console.note(f"computed in float: {', '.join(step['kept_float']) or 'none'}")
    cost = found["cost"]
    time = cost["measured_time"]
    console.note(
        f"against {scheme} alone: {'' if time is None else f'{time:.2f} times as long here, '}"
        f"{cost['predicted_time']:.2f} as predicted, {cost['weights']:.2f} times the weights"
    )
