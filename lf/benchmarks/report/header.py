"""Provenance header: a line above a table with command, machine and data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lf.benchmarks.run.record import Environment, Run

NO_COMMIT = "none: an installed package"


def header(run: Run) -> str:
    """Return the header of runs on the same pairs, or of the timed image for runs without pairs."""
    if run.image_size is None:
        mask = run.protocol_details.get("inlier_mask")
        how = f"protocol {run.protocol} v{_version(run)}" + (f", inliers by {mask}" if mask else "")
        pairs = f"{run.dataset} {len(run.pairs)} {run.unit} ({run.dataset_digest[:12]})"
        return f"{how}, {pairs}, {_place(run.environment, f'{run.environment.threads} thread(s)')}"
    height, width = run.image_size
    turns = f"{run.phases.end_to_end.n} turns after {run.warm_up.turns} of warm-up"
    return (
        f"one extraction of {run.dataset} at {height}x{width} (protocol {run.protocol}), in turns, {turns}, "
        f"{_place(run.environment)}"
    )


def header_of_network(run: Run) -> str:
    """Return the header of one network in many forms, engines and threads."""
    on = f"{run.dataset} ({len(run.pairs)} {run.unit}, protocol {run.protocol})"
    return f"{run.artifact.model} over {on}, {_place(run.environment)}"


def header_of_data(name: str, root: str, run: Run) -> str:
    """Return the line of a dataset and protocol in the header of a sweep."""
    pairs = f"{len(run.pairs)} {run.unit} of `{root}` ({run.dataset_digest[:12]})"
    return f"- {name}, {run.protocol}: {pairs}, version {_version(run)}"


def header_of_sweep(runs: Sequence[Run]) -> list[str]:
    """Return the commands, machines and versions of a sweep; several of each if it was resumed elsewhere."""
    places = [run.environment for run in runs]
    kinds = {
        "command": (f"`{p.command}`" for p in places),
        "commit, with + if it has changes": map(_commit, places),
        "machine": (f"{p.cpu} ({' '.join(p.cpu_flags)}), {p.cores} cores, {p.os}" for p in places),
        "engine": (f"{p.engine} {p.engine_version}, {p.threads} thread(s)" for p in places),
        "versions": (f"{name} {value}" for p in places for name, value in (*p.versions.items(), ("python", p.python))),
    }
    times = sorted(place.time or "-" for place in places) or ["-"]
    return [*(f"- {kind}: {_each(values)}" for kind, values in kinds.items()), f"- time: {times[0]} to {times[-1]}"]


def _version(run: Run) -> str:
    return f"{run.protocol_details.get('version', '?')} ({run.protocol_digest})"


def _place(where: Environment, *facts: str) -> str:
    version = where.versions.get("lf", "?")
    code = f"lf {version} at {where.commit}" if where.commit else f"lf {version} (installed package)"
    return ", ".join([str(where.cpu), *facts, code])


def _commit(where: Environment) -> str:
    return where.commit or NO_COMMIT


def _each(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or "-"
