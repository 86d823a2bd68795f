"""`lf report`: an HTML page of results in one file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from lf import __version__
from lf.benchmarks.report.pareto import Candidate
from lf.benchmarks.report.tables import SHORT, digits
from lf.benchmarks.report.web import budget, charts, provenance
from lf.benchmarks.report.web.groups import Group, grouped
from lf.benchmarks.report.web.heat import heat
from lf.benchmarks.report.web.pair_pictures import pictures
from lf.benchmarks.report.web.verdict import best, counted, headline, sentences
from lf.benchmarks.run import results
from lf.benchmarks.run.gate import Verdict
from lf.benchmarks.run.record import Run
from lf.benchmarks.timing import latency_stats
from lf.core import UsageError, files

PAGE = "report.html"
MOST_BYTES = 3_000_000


def read(paths: Sequence[Path]) -> list[Run]:
    """Read the runs of several results files, or of folders with a results file, in their order.

    Raises:
        UsageError: no path, or a folder without a results file.
        BadInput: a file without results.
    """
    return [run for path in located(paths) for run in results.load(path)]


def located(paths: Sequence[Path]) -> list[Path]:
    """Return the results files of the paths; a folder stands for results.json or latency.json in it."""
    if not paths:
        raise UsageError("no results to report; give at least one results file, for example `results/results.json`")
    return [_file(path) for path in paths]


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("results.json", "latency.json"):
        if (path / name).is_file():
            return path / name
    raise UsageError(f"{path}: holds no results.json and no latency.json; give the results file itself")


def write(
    runs: Sequence[Run],
    out: Path,
    *,
    verdicts: Sequence[Verdict] = (),
    drawn: Sequence[Path] = (),
    candidates: Sequence[Candidate] = (),
    title: str = "",
) -> Path:
    """Write the page.

    Args:
        runs: of one or several results files, of any protocols and machines.
        out: the file to write.
        verdicts: results of gates on the runs.
        drawn: results files; the page shows the images of their best and worst pairs.
        candidates: candidates of `lf tune`; a chart shows the share of the budget that each uses.
        title: title of the page; by default it names the networks.

    Returns:
        `out`.

    Raises:
        UsageError: `drawn` has no images beside it, or `out` cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    groups, timed = grouped(runs)
    shown, left = pictures([*drawn]) if drawn else ([], 0)
    folder = resources(__name__) / "template"
    environment = Environment(
        loader=PackageLoader(__name__, "template"), autoescape=select_autoescape(["j2"]), undefined=StrictUndefined
    )
    page = environment.get_template("page.html.j2").render(
        title=title or _title(runs),
        groups=[_section(group) for group in groups],
        timed=[_time_row(run) for run in timed],
        verdicts=verdicts,
        budget=budget.used(candidates) if candidates else None,
        pictures=shown,
        left=left,
        origins=provenance.origins([run for group in groups for run in group.runs] or timed),
        version=__version__,
        style=(folder / "page.css").read_text(),
        script=(folder / "page.js").read_text(),
    )
    return files.write_bytes(out, page.encode())


def _title(runs: Sequence[Run]) -> str:
    names = [*dict.fromkeys(run.artifact.model for run in runs)]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _section(group: Group) -> dict[str, Any]:
    """Values of one group for the template."""
    found = sentences(group)
    return {
        "title": group.title,
        "sentences": found,
        "counted": counted(found),
        "best": best(group),
        "head": [SHORT.get(name, name) for name in group.metrics],
        "metrics": group.metrics,
        "rows": [_row(run, group.metrics) for run in group.runs],
        "drops": charts.drops(found),
        "times": [chart for name in _drawn(group) if (chart := charts.against_time(group, name))],
        "curves": charts.curves(group),
        "legend": charts.legend([run.label for run in group.runs]),
        "heat": heat(group),
    }


def _drawn(group: Group) -> list[str]:
    """Return the metrics to draw against time, the headline first."""
    wanted = (headline(group), "repeatability", "localization_error", "matching_score")
    return [name for name in dict.fromkeys(wanted) if name in group.metrics]


def _row(run: Run, metrics: Sequence[str]) -> dict[str, Any]:
    """Return the cells of a run: (text, number to sort by, tooltip)."""
    cells = []
    for name in metrics:
        sure = run.intervals.get(name)
        about = f"95 % interval {digits(sure[0])} to {digits(sure[1])}" if sure else "too few pairs for an interval"
        cells.append((digits(run.summary[name]), run.summary[name], about))
    ratio = run.ratio.end_to_end
    time = latency_stats.said(run, "end_to_end") if ratio else "-"
    void = f"void: {run.void}" if run.void else f"times the time of {run.ratio.to}" if ratio else "not timed"
    cells.append((f"{time}{' void' if run.void else ''}", ratio.value if ratio else None, void))
    cells.append((run.artifact.megabytes, run.artifact.bytes, "size of the file, MB"))
    return {"label": run.label, "scheme": run.artifact.scheme, "cpu": run.environment.cpu or "-", "cells": cells}


def _time_row(run: Run) -> dict[str, Any]:
    size = "x".join(map(str, run.image_size or ()))
    ratio = run.ratio.end_to_end
    return {
        "label": f"{run.label}, {run.environment.threads} thread(s), {size}",
        "ratio": latency_stats.said(run, "end_to_end", 3),
        "number": ratio.value if ratio else None,
        "to": run.ratio.to,
        "ms": f"{run.p50:.2f}" if run.p50 else "-",
        "void": run.void or "",
        "cpu": run.environment.cpu or "-",
    }
