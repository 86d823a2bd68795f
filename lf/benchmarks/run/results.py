"""The results file: one JSON, `{"schema": 1, "runs": [...]}`. See docs/results.md for every field."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lf.core import BadInput, SessionInfo, Unavailable, UsageError, console, files
from lf.core.fingerprint import versions
from lf.core.machine import cpu
from lf.quota import cores

SCHEMA = 1
NEEDED: dict[str, type] = {  # what compare and report read of a run
    "artifact": dict,
    "backend": str,
    "protocol": str,
    "protocol_digest": str,
    "dataset_digest": str,
    "summary": dict,
    "pairs": list,
}


def save(path: Path, runs: Sequence[dict[str, Any]]) -> Path:
    """Write runs as a results file."""
    return files.write_json(path, document(runs))


def document(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The object of a results file.

    Raises:
        Unavailable: see `refuse_stand_in`.
    """
    for run in runs:
        refuse_stand_in(str(run.get("backend")), str(run.get("provider")))
    return {"schema": SCHEMA, "runs": list(runs)}


def refuse_stand_in(backend: str, provider: str) -> None:
    """Raise Unavailable for figures of the backend `edgetpu` that another library than the installed one made."""
    if backend == "edgetpu" and provider != backend:
        raise Unavailable(
            f"figures of {provider} are no results of an Edge TPU: there are none of it; "
            "unset LF_EDGETPU_LIBRARY, install libedgetpu and connect a device, see: lf doctor"
        )


IDENTITY = ("backend", "keypoints", "input_size", "nms", "protocol_digest", "dataset_digest")


def identity(run: Mapping[str, Any]) -> list[Any]:
    """What makes two runs the same measurement: the file, how it ran, the protocol and the data."""
    return [run["artifact"].get("sha256"), *(run.get(name) or None for name in IDENTITY)]


def refuse_others(path: Path, wanted: Sequence[Sequence[Any]]) -> None:
    """Refuse to write over the results of other runs; say so where the same runs are made again.

    Args:
        path: the results file to write.
        wanted: the `identity` of each run.

    Raises:
        UsageError: the file holds other runs.
    """
    if not path.exists():
        return
    there = load(path)
    if [identity(run) for run in there] != [list(each) for each in wanted]:
        held = "; ".join(f"{run['artifact']['model']} {run['artifact']['scheme']} {run['backend']}" for run in there)
        raise UsageError(f"{path}: holds other runs ({held}); choose another `out`, or delete it")
    console.note(f"{path}: holds the same runs; what is kept is used again")


def load(path: Path) -> list[dict[str, Any]]:
    """Read the runs of a results file.

    Raises:
        BadInput: not a results file, without runs, or of another schema.
    """
    what = "a results file of: `bench(FILE, out=DIR)`"
    data = files.read_json(path, what)
    if not isinstance(data, dict) or not isinstance(data.get("runs"), list) or not data["runs"]:
        raise BadInput(f"{path}: no runs in it; expected {what}")
    if data.get("schema") != SCHEMA:
        raise BadInput(f"{path}: schema {data.get('schema')}, this lf reads {SCHEMA}")
    for run in data["runs"]:
        missing = [n for n, kind in NEEDED.items() if not isinstance(run, dict) or not isinstance(run.get(n), kind)]
        if missing:
            raise BadInput(f"{path}: a run without {', '.join(missing)}; expected {what}")
        if not all(isinstance(run["artifact"].get(name), str) for name in ("model", "scheme")):
            raise BadInput(f"{path}: a run whose artifact has no model and scheme; expected {what}")
        if not all(map(_is_record, run["pairs"])):
            raise BadInput(f"{path}: a pair that is no record of numbers with sequence and pair; expected {what}")
    return list(data["runs"])


def _is_record(pair: Any) -> bool:
    names = {"sequence", "pair"}
    return isinstance(pair, dict) and all(
        isinstance(pair.get(name), str if name in names else float | int | None) for name in names | pair.keys()
    )


def environment(info: SessionInfo, by: str) -> dict[str, Any]:
    """Where and with what a number was made: machine, versions, command, commit, time.

    Args:
        info: of the engine.
        by: the module that computes it.
    """
    name, flags = cpu()
    return {
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


def commit() -> str | None:
    """The commit of lf's own checkout, with `+` if it has changes; None when installed from a package."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        git = ("git", "-C", str(here))
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.stdout.strip() + ("+" if dirty.stdout.strip() else "")
