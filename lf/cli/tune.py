"""The command `lf tune`: which file, engine, size and number of threads are fastest here within an accuracy budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lf.cli.options import PROCEDURAL, Data, File, Json, parse_size
from lf.core import GateFailed, UsageError, console, pick

if TYPE_CHECKING:
    from lf.studies.sweep_plan import Plan, Row
    from lf.studies.sweep_runs import Run, Runs

BUDGET = "repeatability=0.005,correctness@1=0.01,matching_score=0.01,localization_error=0.02"
ENGINES = ("ort-cpu", "openvino")  # tried by default, where they are installed
RESULTS, PICTURE = "results.json", "front.png"
LEGEND = (
    "->: the fastest whose mean drops are within the budget. *: nothing tried is at least as accurate, as fast and as "
    "small.\nDrops are from fp32 in the first engine, with paired 95 % intervals; not shown: within in the mean, not "
    "with the whole interval.\nms: the median from picture to features, all in turns."
)


def tune(
    model: File,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Files, runs and picture; the same DIR resumes")],
    images: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="DIR", help="Photos to calibrate on, where a scheme needs them"),
    ] = None,
    data: Data = PROCEDURAL,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME,...", help=f"Engines to try; {', '.join(ENGINES)} if installed")
    ] = None,
    scheme: Annotated[str, typer.Option(metavar="NAME,...", help="Number formats to try beside fp32")] = "w8a8",
    threads: Annotated[str, typer.Option(metavar="N,...", help="Numbers of threads to try")] = "1",
    size: Annotated[
        str | None, typer.Option(metavar="HxW,...", help="Sizes of the network's input to try beside the protocol's")
    ] = None,
    cut: Annotated[
        str | None, typer.Option(metavar="NAME", help="Try every ONNX file with this end of its graph, too: features")
    ] = None,
    max_drop: Annotated[
        str, typer.Option(metavar="METRIC=MOST,...", help="How much worse than fp32 in the first engine it may be")
    ] = BUDGET,
    protocol: Annotated[str, typer.Option(help="What measures it, and at what size")] = "kp2d-fixed",
    repeats: Annotated[int, typer.Option(min=1, help="Timed extractions of each, in turns")] = 30,
    json: Json = False,
) -> None:
    """Find the fastest way to run a network on this machine within an accuracy budget; show accuracy, time and size."""
    from lf.benchmarks import PROTOCOLS
    from lf.benchmarks.report import pareto
    from lf.benchmarks.report.figures import plotter
    from lf.benchmarks.run import results
    from lf.benchmarks.run.predict import check_resize
    from lf.models import check_size, row_of
    from lf.models.resolve import resolve
    from lf.runtimes import BACKENDS
    from lf.studies.accuracy_drop import choose, parse_budget
    from lf.studies.sweep_plan import FLOAT

    parent = resolve(model)
    if parent.card.scheme != FLOAT:
        raise UsageError(f"{parent.path}: is {parent.card.scheme}; give lf tune the float file that it was made from")
    budget, counts = parse_budget(max_drop), _counts(threads)
    choose(budget, protocol)
    plotter()  # what is missing is said before an hour of work
    engines = backend.split(",") if backend else [name for name in ENGINES if BACKENDS[name].installed]
    sizes = [None, *(parse_size(text) for text in size.split(","))] if size else [None]
    for wanted in filter(None, sizes):
        check_resize(pick(PROTOCOLS, protocol, "protocol"))
        check_size(wanted, row_of(parent.card), parent.card.model)
    if cut not in (None, "features"):
        raise UsageError(f"--cut {cut}: every file ends at its raw heads; --cut features tries the other end, too")
    plans = [
        _plan(model, images, data, name, scheme.split(","), protocol, of)
        for name in dict.fromkeys(engines)
        for of in dict.fromkeys(sizes)
    ]
    with console.progress() as progress:
        found, paths = _measured(plans, out, counts, bool(cut), repeats, progress)
    candidates = [pareto.judge(found[0], run, budget) for run in found]
    results.save(out / RESULTS, found)
    pareto.draw(candidates, out / PICTURE)
    best = pareto.fastest(candidates)
    if json:
        front = [one.answer for one in pareto.front(candidates)]
        console.as_json({"best": best and best.answer, "front": front, "results": str(out / RESULTS)})
    else:
        parts = [pareto.about(found[0]), pareto.table(candidates, budget), LEGEND, f"{out / PICTURE}"]
        console.result("\n\n".join(parts))
    if best is None:
        raise GateFailed(f"nothing that was tried keeps {max_drop}; allow more, or try other formats and engines")
    if not json:
        console.result(f"fastest within the budget: {best.name}, {paths[best.run['artifact']['sha256']]}")


def _counts(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"--threads {text}: expected numbers from 1 on with commas, for example --threads 1,2")
    return [*dict.fromkeys(map(int, words))]


def _plan(
    model: str,
    images: Path | None,
    data: str,
    backend: str,
    schemes: list[str],
    protocol: str,
    size: tuple[int, int] | None,
) -> Plan:
    """A sweep over one network in one engine at one size, in those of the schemes that are made for it."""
    from lf.benchmarks import PROTOCOLS
    from lf.quantize import ENGINES as WRITERS
    from lf.quantize import SCHEMES
    from lf.studies.sweep_plan import Data, Network, Plan, located, name_of, writer_for

    for scheme in schemes:
        pick(SCHEMES, scheme, "scheme")
    rule = pick(PROTOCOLS, protocol, "protocol")
    engine = writer_for(backend, WRITERS, "--backend")
    fits = tuple(scheme for scheme in schemes if scheme in WRITERS[engine].schemes)
    network = Network(name_of(model), model, fits, {}, {})
    return Plan(
        images=images,
        backend=backend,
        engine=engine,
        threads=1,
        repeats=0,
        data=(Data("data", data, *located(data, Path()), (rule.name,)),),
        networks=(network,),
        goals={},
        size=size,
    )


def _measured(
    plans: list[Plan], out: Path, counts: list[int], decoded: bool, repeats: int, progress: console.Progress
) -> tuple[list[Run], dict[str, Path]]:
    """A run with its latency for every file, engine, size and number of threads; fp32 of the first engine first.

    And where the files are, by their sha256.
    """
    from lf.benchmarks import PROTOCOLS
    from lf.benchmarks.run.suite import timings
    from lf.extraction.variant import Variant
    from lf.quantize import ENGINES as WRITERS
    from lf.studies.sweep_files import make, with_decode
    from lf.studies.sweep_runs import Runs

    (data,) = plans[0].data
    (protocol,) = data.protocols
    tried: list[tuple[Variant, int, Run]] = []
    for plan in plans:
        size = "x".join(map(str, plan.size or ()))
        runs = Runs(plan, out / plan.backend / size)
        place = out / size if WRITERS[plan.engine].one_size else out
        rows = make(plan, place, progress)
        if decoded:
            rows = [each for row in rows for each in (row, with_decode(row, place, progress)) if each]
        runs.evaluate(runs.todo(rows), progress, lambda: None)
        tried += [
            (Variant(row.artifact, plan.backend, size=plan.size), count, run)
            for row in rows
            for run in _kept(runs, row)
            for count in counts
            if row.artifact
        ]
        for row in rows:
            if why := row.refused or runs.failed.get((row.network, row.scheme), ""):
                console.note(f"lf: {row.scheme} for {plan.backend} is left out: {why}")
    variants, threads, measured = zip(*tried, strict=True)
    pair = Runs(plans[0], out).pairs(data, protocol)[0][0]
    times = timings(variants, pair, PROTOCOLS[protocol], threads, repeats, progress)
    found = [
        {**run, **timing, "environment": {**run["environment"], "threads": count}}
        for run, timing, count in zip(measured, times, threads, strict=True)
    ]
    return found, {variant.artifact.sha256: variant.artifact.path for variant in variants}


def _kept(runs: Runs, row: Row) -> list[Any]:
    return [run for job in runs.jobs([row]) if (run := runs.kept(job))]
