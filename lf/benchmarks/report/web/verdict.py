"""Verdict of a report: what each quantized file costs, in sentences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lf.benchmarks import METRICS
from lf.benchmarks.protocols.summary import LEAST
from lf.benchmarks.report.ranking import TOLERANCES
from lf.benchmarks.report.tables import SHORT, digits, signed
from lf.benchmarks.report.web.groups import Group
from lf.benchmarks.run.record import Drop, Run

WITHIN, LOSES, BEYOND, OPEN = "within", "loses", "beyond", "undecided"
ORDER = (BEYOND, LOSES, OPEN, WITHIN)  # the worst first


class Finding(NamedTuple):
    """One metric of a file beside its float parent.

    Attributes:
        metric: row of METRICS.
        drop: drop from the float parent, with its interval.
        limit: tolerated drop, in the unit of the metric.
    """

    metric: str
    drop: Drop
    limit: float

    @property
    def state(self) -> str:
        """State of a drop by its 95 % interval.

        `within`: the drop is at most the limit. `beyond`: it is larger. `loses`: it is above 0 and may be larger than
        the limit. `undecided`: it may be 0 and may be larger than the limit; or there are too few pairs.
        """
        if self.drop.interval is None:
            return OPEN
        low, high = self.drop.interval
        return WITHIN if high <= self.limit else BEYOND if low > self.limit else LOSES if low > 0 else OPEN

    @property
    def figure(self) -> str:
        """The drop with its interval: `+0.012 px [+0.008, +0.016]`."""
        unit = METRICS[self.metric].unit
        value = f"{signed(self.drop.drop)} {unit}".rstrip()
        if self.drop.interval is None:
            return f"{value} ({self.drop.n} pairs)"
        return f"{value} [{', '.join(map(signed, self.drop.interval))}]"

    @property
    def name(self) -> str:
        """Name of the metric for a sentence."""
        return self.metric.replace("_", " ")


class Sentence(NamedTuple):
    """Sentence on the cost of one file.

    Attributes:
        run, reference: the file, and its float parent.
        findings: by metric.
    """

    run: Run
    reference: Run
    findings: tuple[Finding, ...]

    @property
    def state(self) -> str:
        """The worst state of a metric."""
        return min((finding.state for finding in self.findings), key=ORDER.index, default=OPEN)

    @property
    def parts(self) -> list[str]:
        """The sentences in the order: lost metrics, undecided metrics, kept metrics, speed, size."""
        said = {state: [one for one in self.findings if one.state == state] for state in ORDER}
        lines = [f"It loses {_named(one)}, more than the {one.limit:g} that is tolerated." for one in said[BEYOND]]
        lines += [f"It loses {_named(one)}; {one.limit:g} is tolerated." for one in said[LOSES]]
        if said[OPEN]:
            few = max(one.drop.n for one in said[OPEN])
            names = ", ".join(map(_named, said[OPEN]))
            why = f"{few} pairs are too few" if few >= LEAST else f"{few} pairs have no interval, {LEAST} are needed"
            lines.append(f"Not decided: {names}; {why}.")
        if said[WITHIN]:
            lines.append(f"Within the tolerated drops: {', '.join(map(_named, said[WITHIN]))}.")
        return [*lines, *filter(None, (_speed(self.run, self.reference), _size(self.run, self.reference)))]


def sentences(group: Group, limits: Mapping[str, float] = TOLERANCES) -> list[Sentence]:
    """Return sentences on the cost of each run of the group with a float reference.

    Args:
        group: runs on the same pairs.
        limits: metric -> tolerated drop, in its unit.
    """
    found = []
    for run, reference in group.changed:
        drops = {name: run.drop(reference, name) for name in group.metrics if name in limits}
        findings = tuple(Finding(name, drop, limits[name]) for name, drop in drops.items() if drop is not None)
        found.append(Sentence(run, reference, findings))
    return found


def best(group: Group) -> str:
    """Return one sentence that names the best run in the headline metric, and the fastest run."""
    metric = headline(group)
    runs = [run for run in group.runs if run.summary.get(metric) is not None]
    parts = []
    if len(runs) > 1:
        sign = -1 if METRICS[metric].higher_is_better is False else 1
        top = max(runs, key=lambda run: sign * (run.summary[metric] or 0))
        parts.append(f"Best {SHORT.get(metric, metric)}: {top.label}, {digits(top.summary[metric])}")
    timed = [run for run in group.runs if run.ratio.end_to_end and not run.void]
    if len(timed) > 1 and len({run.ratio.to for run in timed}) == 1:
        quick = min(timed, key=_ratio)
        parts.append(f"Fastest: {quick.label}, {_ratio(quick):.2f} times the time of {quick.ratio.to}")
    return ". ".join(parts) + ("." if parts else "")


def headline(group: Group) -> str:
    """Return the main metric of a group, for charts against time; "" if its protocol has no columns."""
    wanted = ("correctness@3", "mma@3", "h_auc@5", "matching_score", "repeatability")
    return next((name for name in wanted if name in group.metrics), next(iter(group.metrics), ""))


def _ratio(run: Run) -> float:
    assert run.ratio.end_to_end is not None
    return run.ratio.end_to_end.value


def _named(finding: Finding) -> str:
    return f"{finding.name} {finding.figure}"


def _speed(run: Run, reference: Run) -> str | None:
    """Return `3.4 times as fast as fp32 on ort-cpu.`; None unless both were timed together with valid times."""
    one, other = run.ratio, reference.ratio
    if not (one.end_to_end and other.end_to_end and one.to == other.to) or run.void or reference.void:
        return None
    if run.environment.cpu != reference.environment.cpu:
        return None
    return f"{other.end_to_end.value / one.end_to_end.value:.2f} times as fast as {reference.label}."


def _size(run: Run, reference: Run) -> str | None:
    if run.artifact.bytes is None or reference.artifact.bytes is None:
        return None
    return f"{reference.artifact.megabytes} to {run.artifact.megabytes} MB."


def counted(found: Sequence[Sentence]) -> dict[str, int]:
    """Count the files in each state that occurs, the worst state first."""
    states = [one.state for one in found]
    return {state: states.count(state) for state in ORDER if state in states}
