"""Gates: compare a new run with a reference, pair by pair. The bound decides, not the mean.

A gates file is TOML:

    [[gate]]
    metric = "repeatability"      # a row of METRICS
    max_drop = 0.005              # how much worse it may be, in the metric's unit; or
    kind = "abs"                  # "rel": a share of the reference's mean
    confidence = 0.95             # one-sided bound of the paired bootstrap over pairs; and the share of the
                                  # reference's pairs on which the metric must still be defined
    protocol = "kp2d"             # optional: only runs of this protocol, scheme, backend

For fewer than LEAST pairs there is no bound: such a gate is undecided, and does not pass.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lf.benchmarks import METRICS
from lf.benchmarks.protocols.summary import LEAST
from lf.benchmarks.run.record import Run
from lf.core import BadInput, GateFailed, files, hint, pick


@dataclass(frozen=True)
class Gate:
    """One condition of a gates file; see the module."""

    metric: str
    max_drop: float
    kind: str = "abs"
    confidence: float = 0.95
    protocol: str | None = None
    scheme: str | None = None
    backend: str | None = None

    def applies(self, run: Run) -> bool:
        """Return whether the gate applies to this run."""
        wanted = {"protocol": self.protocol, "backend": self.backend, "scheme": self.scheme}
        actual = {"protocol": run.protocol, "backend": run.backend, "scheme": run.artifact.scheme}
        return all(value in (None, actual[name]) for name, value in wanted.items()) and self.metric in run.summary


@dataclass(frozen=True)
class Verdict:
    """Result of a gate on one run: `drop` is the mean drop, `bound` its upper confidence bound.

    Both are over the pairs with a value in both runs. `lost` is the decrease of the number of pairs with a value, as a
    share of the reference's. The bound is None below LEAST pairs.
    """

    run: str
    gate: Gate
    reference: float
    value: float
    drop: float
    bound: float | None
    limit: float
    pairs: int
    lost: float

    @property
    def passed(self) -> bool:
        """True if the bound is within the limit and enough pairs have a value."""
        within = self.bound is not None and self.bound <= self.limit + 1e-12
        return within and self.lost <= 1 - self.gate.confidence + 1e-12

    @property
    def answer(self) -> str:
        """`pass`, `FAIL`, or `undecided` if the pairs are too few for a bound."""
        return "undecided" if self.bound is None else "pass" if self.passed else "FAIL"


def load_gates(path: Path) -> list[Gate]:
    """Read a gates file.

    Raises:
        BadInput: not TOML, no gate in it, an unknown key or a value of another type.
        UsageError: an unknown metric.
    """
    try:
        rows = tomllib.loads(files.read_bytes(path, "a gates file", 1 << 20).decode()).get("gate")
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not TOML ({error}); expected [[gate]] tables with metric and max_drop") from error
    if not rows or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{path}: no [[gate]] in it; expected at least one with metric and max_drop")
    return [_gate(row, path) for row in rows]


def _gate(row: dict[str, Any], path: Path) -> Gate:
    known = {f.name: (float, int) if f.name in ("max_drop", "confidence") else (str,) for f in fields(Gate)}
    unknown = sorted(row.keys() - known)
    if unknown:
        near = hint(unknown[0], known)
        raise BadInput(f"{path}: unknown {', '.join(unknown)} in a gate; {near}known: {', '.join(sorted(known))}")
    if not {"metric", "max_drop"} <= row.keys() or any(type(value) not in known[name] for name, value in row.items()):
        raise BadInput(f'{path}: a gate needs metric = "NAME" and max_drop = NUMBER, got {row}')
    gate = Gate(**row)
    pick(METRICS, gate.metric, "metric")
    if gate.kind not in ("abs", "rel") or not 0.5 <= gate.confidence < 1 or not math.isfinite(gate.max_drop):
        raise BadInput(f"{path}: a gate needs kind abs or rel, confidence in [0.5, 1), a finite max_drop, got {row}")
    return gate


def compare(reference: Sequence[Run], new: Sequence[Run], gates: Sequence[Gate]) -> list[Verdict]:
    """Compare every new run with the reference run of the same model, scheme, backend and protocol.

    If the reference has a single run of the protocol, all new runs of the protocol are compared with it.

    Raises:
        BadInput: no reference for a run, other pairs or another protocol, a metric without values, a gate without run.
    """
    for gate in gates:
        if not any(gate.applies(run) for run in new):
            have = "; ".join(label(run) for run in new)
            raise BadInput(f"a gate applies to no run: {gate}; the new runs are: {have}")
    verdicts = []
    for run in new:
        ours = [gate for gate in gates if gate.applies(run)]
        if ours:
            against = _partner(reference, run)
            verdicts += [_judge(gate, against, run) for gate in ours]
    if not verdicts:
        raise BadInput(
            "no gate applies to any of the new runs; look at protocol, scheme, backend and metric of the gates"
        )
    return verdicts


def enforce(verdicts: Sequence[Verdict]) -> None:
    """Raise GateFailed, naming the first failure, unless every verdict passed."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        worst = failed[0]
        few = f"undecided: {worst.pairs} pairs, at least {LEAST} needed"
        bound = few if worst.bound is None else f"the bound is {worst.bound:.4g}"
        raise GateFailed(
            f"{len(failed)} of {len(verdicts)} gates failed: {worst.run}: {worst.gate.metric} may drop by "
            f"{worst.limit:.4g}, {bound} ({worst.reference:.4f} -> {worst.value:.4f})"
            + (f", undefined on {worst.lost:.0%} more of the pairs" if worst.lost > 0 else "")
        )


def label(run: Run) -> str:
    """The label of a run with its protocol, for tables and messages."""
    return run.named("model", "keypoints", "scheme", "backend", "protocol", "settings")


def _partner(reference: Sequence[Run], run: Run) -> Run:
    candidates = [old for old in reference if old.protocol == run.protocol]
    if len(candidates) > 1:
        candidates = [old for old in candidates if label(old) == label(run)]
    if len(candidates) > 1:  # a sweep has several datasets, or several files of one scheme
        same = run.dataset_digest, run.artifact.file
        candidates = [old for old in candidates if (old.dataset_digest, old.artifact.file) == same]
    if len(candidates) != 1:
        have = "; ".join(label(old) for old in reference)
        raise BadInput(f"{len(candidates)} reference runs for {label(run)}; expected one, the reference has: {have}")
    old = candidates[0]
    for name in ("protocol_digest", "dataset_digest"):
        ours, theirs = getattr(run, name), getattr(old, name)
        if ours != theirs:
            raise BadInput(f"{label(run)}: {name} is {ours}, the reference's is {theirs}; evaluate both the same way")
    return old


def _judge(gate: Gate, old: Run, run: Run) -> Verdict:
    found = run.drop(old, gate.metric)
    if found is None:
        raise BadInput(f"{label(run)}: {gate.metric} is undefined on every pair; nothing to judge")
    bound = None if found.draws is None else float(np.quantile(found.draws, gate.confidence))
    limit = gate.max_drop * (abs(found.first) if gate.kind == "rel" else 1)
    return Verdict(label(run), gate, found.first, found.second, found.drop + 0.0, bound, limit, found.n, found.lost)
