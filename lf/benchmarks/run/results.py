"""Read and write results files, `{"schema": 1, "runs": [...]}`. All fields: docs/reference/results-file.md."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lf.benchmarks.run.record import Environment, Identity, Run, Subject
from lf.core import BadInput, SessionInfo, Unavailable, UsageError, console, files
from lf.core.fingerprint import FOLDER, versions
from lf.core.machine import cpu
from lf.quota import cores

SCHEMA = 1


def save(path: Path, runs: Sequence[Run]) -> Path:
    """Write runs as a results file."""
    return files.write_json(path, document(runs))


def document(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the JSON object of a results file.

    Raises:
        Unavailable: see `refuse_stand_in`.
    """
    for run in runs:
        refuse_stand_in(run)
    return {"schema": SCHEMA, "runs": [run.to_dict() for run in runs]}


def refuse_stand_in(subject: Subject) -> None:
    """Raise Unavailable for figures of the backend `edgetpu` that a stand-in for the library computed."""
    if subject.backend == "edgetpu" and subject.provider != subject.backend:
        raise Unavailable(
            f"figures of {subject.provider} are no results of an Edge TPU: there are none of it; "
            "unset LF_EDGETPU_LIBRARY, install libedgetpu and connect a device, see: lf doctor"
        )


def refuse_others(path: Path, wanted: Sequence[Identity]) -> None:
    """Refuse to overwrite the results of other runs; print a note if the same runs are repeated.

    Args:
        path: the results file to write.
        wanted: the identity of each run, in any order.

    Raises:
        UsageError: the file holds other runs.
    """
    if not path.exists():
        return
    there = load(path)
    if Counter(run.measured for run in there) != Counter(wanted):
        held = "; ".join(run.label for run in there)
        raise UsageError(f"{path}: holds other runs ({held}); choose another `out`, or delete it")
    console.note(f"{path}: holds the same runs and is replaced")


def load(path: Path) -> list[Run]:
    """Read the runs of a results file.

    Raises:
        BadInput: not a results file, no runs, another schema, or a field that is missing or has another type.
    """
    what = "a results file of: `bench(FILE, out=DIR)`"
    data = files.read_json(path, what)
    if not isinstance(data, dict) or not isinstance(data.get("runs"), list) or not data["runs"]:
        raise BadInput(f"{path}: no runs in it; expected {what}")
    if data.get("schema") != SCHEMA:
        raise BadInput(f"{path}: schema {data.get('schema')}, this lf reads {SCHEMA}")
    return [Run.from_dict(run, str(path), f"runs[{index}]") for index, run in enumerate(data["runs"])]


def environment(info: SessionInfo, by: str) -> Environment:
    """Return the environment of a run: machine, versions, command, commit, time.

    Args:
        info: description of the engine.
        by: the module that computes the run.
    """
    name, flags = cpu()
    made = {
        "engine": info.engine,
        "engine_version": info.version,
        "threads": info.threads,
        "cpu": name,
        "cpu_flags": flags,
        "cores": os.cpu_count(),
        "cores_allowed": cores(),
        "os": platform.system(),
        "python": platform.python_version(),
        "versions": versions(by),
        "commit": commit(),
        "command": " ".join(["lf", *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Environment.from_dict(made, "this machine")


def commit() -> str | None:
    """Return the commit of lf's own checkout, with `+` if it has changes; None if installed from a package."""
    if not (FOLDER / ".git").exists():
        return None
    try:
        git = ("git", "-C", str(FOLDER))
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.stdout.strip() + ("+" if dirty.stdout.strip() else "")
