"""Provenance of each run of a report: file, calibration, engine, machine, command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from lf.benchmarks.report.header import NO_COMMIT
from lf.benchmarks.run.record import Run
from lf.core.steps import Step


class Origin(NamedTuple):
    """label: label of the run. facts: (name, value) in order."""

    label: str
    facts: list[tuple[str, str]]


def origins(runs: Sequence[Run]) -> list[Origin]:
    """Return the origin of each run."""
    return [Origin(run.label, [(name, value) for name, value in _facts(run) if value]) for run in runs]


def _facts(run: Run) -> list[tuple[str, str]]:
    artifact, place = run.artifact, run.environment
    flags = " ".join(place.cpu_flags)
    return [
        ("file", artifact.file or ""),
        ("sha256", artifact.sha256 or ""),
        ("weights", ", ".join(f"{name} {value}" for name, value in artifact.weights.items() if name != "sha256")),
        *((f"step {index}", _said(step)) for index, step in enumerate(artifact.made, 1)),
        ("protocol", f"{run.protocol} ({run.protocol_digest})"),
        ("data", f"{run.dataset} ({run.dataset_digest[:12]})"),
        ("engine", f"{place.engine} {place.engine_version}, {place.threads} thread(s), provider {run.provider}"),
        ("machine", f"{place.cpu}{f' ({flags})' if flags else ''}, {place.cores} cores, {place.os}"),
        ("versions", ", ".join(f"{name} {value}" for name, value in place.versions.items() if name != "code")),
        ("commit", place.commit or NO_COMMIT),
        ("command", place.command or ""),
        ("time", place.time or ""),
        ("times are void", run.void or ""),
    ]


def _said(step: Step) -> str:
    """Format the fields of a step, without long lists."""
    parts = []
    for name, value in step.to_dict().items():
        text = value if isinstance(value, str) else json.dumps(value)
        parts.append(f"{name} {text if len(text) <= 160 else text[:157] + '...'}")
    return ", ".join(parts)
