"""Tables of results: Markdown, for terminals, step summaries and documents alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lf.benchmarks import METRICS
from lf.benchmarks.gate import Verdict
from lf.benchmarks.summary import paired_bootstrap

Run = dict[str, Any]

COLUMNS = {
    "superpoint": ("repeatability", "localization_error", "correctness@1", "correctness@3", "correctness@5", "nn_map"),
    "kp2d": ("repeatability", "localization_error", "correctness@1", "correctness@3", "correctness@5"),
    "mma": ("n_keypoints0", "n_matches", "mma@1", "mma@3", "mma@5", "mma@10"),
}
SHORT = {
    "repeatability": "repeat.",
    "localization_error": "loc. px",
    "correctness@1": "C@1",
    "correctness@3": "C@3",
    "correctness@5": "C@5",
    "matching_score": "M.score",
    "nn_map": "NN mAP",
    "n_keypoints0": "points",
    "n_matches": "matches",
}


def page(runs: Sequence[Run]) -> str:
    """What `lf bench` prints: how the numbers were made, the table, and the drops where there is a second run."""
    parts = [describe(runs[0]), table(runs)]
    return "\n\n".join([*parts, drops(runs)] if len(runs) > 1 else parts)


def table(runs: Sequence[Run]) -> str:
    """Runs of one protocol as rows: accuracy, drop against the first, end-to-end latency, size."""
    first = runs[0]
    names = [name for name in _columns(first["protocol"]) if name in first["summary"]]
    head = ["model", "scheme", "backend", *(SHORT.get(n, n) for n in names), "p50 ms", "speed", "MB"]
    rows = [[run["artifact"]["model"], run["artifact"]["scheme"], run["backend"], *_cells(run, names)] for run in runs]
    base = _p50(first)
    for row, run in zip(rows, runs, strict=True):
        ms = _p50(run)
        row += [f"{ms:.1f}" if ms else "-", f"{base / ms:.2f}x" if base and ms else "-"]
        row.append(f"{run['artifact']['bytes'] / 1e6:.2f}")
    return markdown(head, rows)


def drops(runs: Sequence[Run]) -> str:
    """How much worse every later run is than the first: mean and 95 % interval of the paired difference."""
    first, *rest = runs
    names = [name for name in _columns(first["protocol"]) if name in first["summary"]]
    rows = []
    for run in rest:
        cells = [f"{run['artifact']['scheme']} {run['backend']}"]
        for name in names:
            sign = -1 if METRICS[name].higher_is_better is False else 1
            old, new = ([pair[name] for pair in r["pairs"]] for r in (first, run))
            interval = paired_bootstrap(new, old)
            both = [o - n for o, n in zip(old, new, strict=True) if o is not None and n is not None]
            if interval is None:
                cells.append("-")
                continue
            low, high = sorted(sign * bound for bound in interval)
            cells.append(f"{sign * sum(both) / len(both):+.3f} [{low:+.3f}, {high:+.3f}]")
        rows.append(cells)
    head = [f"drop from {first['artifact']['scheme']} {first['backend']}", *(SHORT.get(n, n) for n in names)]
    return markdown(head, rows)


def verdicts(found: Sequence[Verdict]) -> str:
    """One row per gate and run."""
    rows = [
        [
            "pass" if verdict.passed else "FAIL",
            verdict.run,
            verdict.gate.metric,
            f"{verdict.reference:.4f}",
            f"{verdict.value:.4f}",
            f"{verdict.drop:+.4f}",
            f"{verdict.bound:+.4f}",
            f"{verdict.limit:.4f}",
            str(verdict.pairs),
        ]
        for verdict in found
    ]
    return markdown(["gate", "run", "metric", "reference", "new", "drop", "bound", "limit", "pairs"], rows)


def describe(run: Run) -> str:
    """The line without which the numbers are none: protocol, data, machine."""
    where = run["environment"]
    pairs = len(run["pairs"])
    return (
        f"protocol {run['protocol']} v{run['protocol_details']['version']} ({run['protocol_digest']}), "
        f"{run['dataset']} {pairs} pairs ({run['dataset_digest'][:12]}), {where['cpu']}, {where['threads']} thread(s), "
        f"lf {where['versions']['lf']} at {where['commit'] or 'a package'}"
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(str(row[i])) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def _columns(protocol: str) -> tuple[str, ...]:
    family = next((name for name in COLUMNS if protocol.startswith(name)), "kp2d")
    extra = () if family == "mma" else ("matching_score",)
    return (*COLUMNS[family], *extra)


def _cells(run: Run, names: Sequence[str]) -> list[str]:
    return [_number(run["summary"][name]) for name in names]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"


def _p50(run: Run) -> float | None:
    latency = run.get("latency_ms")
    return float(latency["end_to_end"]["p50"]) if latency else None
