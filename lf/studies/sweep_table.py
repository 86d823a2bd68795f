"""Write the results of a sweep as one Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lf.benchmarks import METRICS
from lf.benchmarks.protocols.summary import LEAST
from lf.benchmarks.report.header import header_of_data, header_of_sweep
from lf.benchmarks.report.tables import SHORT, columns, digits, drop, markdown, voids
from lf.benchmarks.run import gate
from lf.benchmarks.run.gate import Gate
from lf.benchmarks.run.record import Run
from lf.benchmarks.timing import latency_stats
from lf.benchmarks.timing.record import Timing
from lf.core import BadInput, Step
from lf.studies.sweep_plan import FLOAT, Data, Plan, Row

Name = tuple[str, str]  # network, scheme
MISSED, OPEN = "!", "?"
AGAIN = "Void times are not usable: stop other programs, delete the folder `latency` and repeat the command."
LEGEND = f"""\
Each cell: the value, its drop from fp32 of the same network (positive is worse), and the 95 % interval of the drop, by
paired bootstrap over pairs. Only pairs with a value in both runs are compared; fewer than {LEAST} have no interval.
Time is that of an image of 240x320 px divided by {{}}'s in the same turn, the median with its 95 % interval over
turns: for the network, and in parentheses from image to features."""
GOALS = f"""\
Goals, the largest tolerated drops from fp32: {{}}.
`{MISSED}` missed: the mean drop is larger than the goal. `{OPEN}` not shown: the mean drop is within the goal, but its
one-sided 95 % bound is not, or the pairs are too few for a bound. No mark: both are within. Judged before rounding."""


def page(
    title: str,
    plan: Plan,
    rows: Sequence[Row],
    find: Callable[[Data, str], Mapping[Name, Run]],
    failed: Mapping[Name, str],
    latency: Mapping[Name, Timing],
) -> str:
    """Format the page of a sweep.

    Args:
        title: first line.
        plan: the plan.
        rows: the files, each network's float file first.
        find: returns the existing runs of a dataset under a protocol.
        failed: reasons why files could not be evaluated.
        latency: latency of the timed files.
    """
    why = {(row.network, row.scheme): row.refused for row in rows if row.refused} | dict(failed)
    sections, seen, facts = [], list[Run](), list[str]()
    for data in plan.data:
        for protocol in data.protocols:
            runs = find(data, protocol)
            if runs:
                first = next(iter(runs.values()))
                facts.append(header_of_data(data.name, data.root, first))
                sections += [f"## {data.name}, {protocol}", table(rows, runs, plan.goals, why, latency)]
                seen += runs.values()
    goals = ", ".join(f"{name} {limit:g} {METRICS[name].unit}".strip() for name, limit in plan.goals.items())
    return "\n\n".join(
        [
            f"# {title}",
            "\n".join([*header_of_sweep(seen), *facts]),
            LEGEND.format(plan.reference or FLOAT) + ("\n\n" + GOALS.format(goals) if goals else ""),
            *sections,
            "## Files",
            files(rows, why),
        ]
    )


def table(
    rows: Sequence[Row],
    runs: Mapping[Name, Run],
    goals: Mapping[str, float],
    why: Mapping[Name, str],
    latency: Mapping[Name, Timing],
) -> str:
    """Format one dataset under one protocol, a line for each file; arguments as in `page`."""
    first = next(iter(runs.values()))
    usual = columns(first.protocol)
    names = [name for name in dict.fromkeys((*usual, *goals)) if name in first.summary]
    judged = any(name in goals for name in names)
    head = ["model", "scheme", *(SHORT.get(name, name) for name in names), "MB", "time", *(["goals"] if judged else [])]
    lines = []
    for row in rows:
        name = row.network, row.scheme
        run, base = runs.get(name), runs.get((row.network, FLOAT))
        if run is None or base is None:
            cells = ["refused" if name in why else "to do", *[""] * (len(head) - 3)]
        else:
            marks = {} if run is base else verdicts(base, run, goals)
            cells = [_cell(base, run, metric, marks.get(metric, "")) for metric in names]
            cells += [run.artifact.megabytes, times(latency.get(name))]
            cells += [_goal(marks)] if judged else []
        lines.append([*name, *cells])
    void = voids((" ".join(name), timing.void) for name, timing in latency.items())
    return "\n\n".join([markdown(head, lines), *(["\n".join(void), AGAIN] if void else [])])


def _cell(base: Run, run: Run, metric: str, mark: str) -> str:
    value = digits(run.summary[metric])
    if run is base or METRICS[metric].higher_is_better is None:
        return value
    return f"{value} {drop(base, run, metric)} {mark}".rstrip()


def verdicts(base: Run, run: Run, goals: Mapping[str, float]) -> dict[str, str]:
    """Return MISSED, OPEN or "" for each goal for which the run has a number."""
    found = {}
    for metric, limit in goals.items():
        if metric in run.summary:
            try:
                (verdict,) = gate.compare([base], [run], [Gate(metric, limit)])
                found[metric] = "" if verdict.passed else MISSED if verdict.drop > limit else OPEN
            except BadInput:  # undefined for all pairs
                found[metric] = MISSED
    return found


def _goal(marks: Mapping[str, str]) -> str:
    if not marks:
        return "-"
    return "missed" if MISSED in marks.values() else "not shown" if OPEN in marks.values() else "met"


def times(timing: Timing | None) -> str:
    """Format times relative to float or the reference: `0.31 [0.30, 0.32] (0.38 [0.37, 0.39])`, network and total."""
    if not timing:
        return "-"
    network, whole = (latency_stats.said(timing, phase) for phase in ("network", "end_to_end"))
    return f"{network} ({whole}){' void' if timing.void else ''}"


def files(rows: Sequence[Row], why: Mapping[Name, str]) -> str:
    """List the file of each line, its calibration, and the reason if it has no numbers."""
    lines = []
    for row in rows:
        steps = row.artifact.card.made if row.artifact else ()
        cells = [row.artifact.path.name, row.artifact.sha256[:16]] if row.artifact else ["-", "-"]
        commands = ", ".join(step.command for step in steps) or "-"
        how = [_calibration(steps[-1]), _widths(steps[-1])] if steps else ["-", "-"]
        lines.append([row.network, row.scheme, *cells, commands, *how])
    notes = [f"- {' '.join(name)}: {' '.join(text.split())}" for name, text in why.items()]
    shown = markdown(
        ["model", "scheme", "file", "sha256", "made by lf", "calibrated on", "layers of other bits"], lines
    )
    return "\n\n".join([shown, *(["Refused:", "\n".join(notes)] if notes else [])])


def _calibration(step: Step) -> str:
    found = step.calibration
    if not found:
        return "-"
    if found.folder is None:  # ranges come from training
        return str(found.method)
    return f"{found.count} of {found.folder}, {found.method}, seed {found.seed}"


def _widths(step: Step) -> str:
    widths = {**dict.fromkeys(step.kept_float, 32), **step.bits}
    return " ".join(f"{name}={bits}" for name, bits in widths.items()) or "-"
