"""The comparison of networks in docs/costs.md: `python -m scripts.comparison_table RESULTS.json`.

RESULTS.json is that of `lf sweep docs/results/families-real.toml --out DIR`: all times in turns, divided by SIFT's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lf.benchmarks.report.tables import digits, markdown
from lf.benchmarks.run import results
from lf.benchmarks.run.record import Run
from lf.benchmarks.timing.latency_stats import said
from lf.models import NETWORKS

METRICS = {
    "repeatability": "repeatability",
    "localization_error": "localization px",
    "correctness@1": "C@1",
    "correctness@3": "C@3",
    "matching_score": "matching score",
}


def table(runs: Sequence[Run]) -> str:
    """A line for each run: accuracy, time from image to features, size, licence of the weights."""
    to = next((run.ratio.to for run in runs if run.ratio.to), "reference")
    head = ["model", "scheme", *METRICS.values(), f"time / {to}", "MB", "licence"]
    return markdown(head, [_line(run) for run in runs])


def _line(run: Run) -> list[str]:
    network = run.artifact.model in NETWORKS
    return [
        run.artifact.model,
        run.artifact.scheme if network else "",
        *(digits(run.summary.get(name)) for name in METRICS),
        said(run, "end_to_end") if run.ratio.end_to_end else "-",
        run.artifact.megabytes if network else "",
        run.artifact.weights.get("licence", "-").partition(":")[0],
    ]


if __name__ == "__main__":
    print(table(results.load(Path(sys.argv[1]))))
