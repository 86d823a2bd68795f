"""Curves of a protocol over thresholds in pixels or degrees."""

from __future__ import annotations

from collections.abc import Callable

from lf.benchmarks.run.record import PairScores, Run

THRESHOLDS = range(1, 11)  # px or degrees


def measured(run: Run) -> tuple[str, str, Callable[[PairScores, int], float]]:
    """Choose the curve of a run: MMA, or the share of correct homographies or poses if MMA is not measured.

    Returns:
        The name of the share, the name of the threshold, and the value of one record at one threshold.
    """
    if "mma@1" in run.pairs[0].extra:
        return "mean matching accuracy", "threshold (px)", lambda record, t: record.extra[f"mma@{t}"] or 0.0
    if "pose_error" in run.pairs[0].extra:
        return "share of poses within", "pose error (deg)", lambda record, t: _within(record.extra["pose_error"], t)
    over = "mean corner error (px)"
    return "share of homographies within", over, lambda record, t: _within(record.extra["mean_corner_error"], t)


def _within(error: float | None, threshold: float) -> float:
    return float(error is not None and error <= threshold)
