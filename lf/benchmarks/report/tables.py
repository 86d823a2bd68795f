"""Tables of results in Markdown, for terminals, step summaries and documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lf.benchmarks import LEVELS, aggregate
from lf.benchmarks.protocols.summary import SPLITS, Mean, brackets, number
from lf.benchmarks.report.header import header
from lf.benchmarks.run.gate import Verdict
from lf.benchmarks.run.names import told_apart
from lf.benchmarks.run.record import PairScores, Run
from lf.benchmarks.timing import latency_stats

_KP2D = (
    "repeatability",
    "localization_error",
    "correctness@1",
    "correctness@3",
    "correctness@5",
    "matching_score",
)
_CAMERA = ("reprojection_error", "camera_centre_error", "camera_rotation_error")
COLUMNS = {  # prefix of names of protocols -> columns
    "superpoint": (*_KP2D, "nn_map"),
    "kp2d": _KP2D,
    "mma": ("n_keypoints0", "n_matches", "mma@1", "mma@3", "mma@5", "mma@10"),
    "pose": ("n_matches", "n_inliers", "pose_error", "pose_auc@5", "pose_auc@10", "pose_auc@20", "pose_maa@10"),
    "segmentation": ("miou", "n_classes", "pixel_accuracy", "mean_accuracy"),
    "auc": ("n_keypoints0", "n_matches", "mean_corner_error", "h_auc@1", "h_auc@3", "h_auc@5", "h_auc_dlt@5"),
    "eth-lfb": ("registered", "n_observations", "track_length", *_CAMERA),
    "localise": ("registered", "n_observations", *_CAMERA, *(f"localised@{metres:g}m" for metres, _ in LEVELS)),
    "aachen": ("registered", "n_observations", "track_length"),
}
SHORT = {
    "repeatability": "repeat.",
    "localization_error": "loc. px",
    "correctness@1": "C@1",
    "correctness@3": "C@3",
    "correctness@5": "C@5",
    "matching_score": "M.score",
    "nn_map": "NN mAP",
    "mean_corner_error": "corner px",
    "h_auc@1": "AUC@1",
    "h_auc@3": "AUC@3",
    "h_auc@5": "AUC@5",
    "h_auc_dlt@5": "DLT AUC@5",
    "n_inliers": "inliers",
    "pose_error": "median deg",
    "pose_auc@5": "AUC@5 deg",
    "pose_auc@10": "AUC@10 deg",
    "pose_auc@20": "AUC@20 deg",
    "pose_maa@10": "mAA@10",
    "n_keypoints0": "points",
    "n_matches": "matches",
    "miou": "mIoU",
    "n_classes": "classes",
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
    "n_observations": "observations",
    "track_length": "track",
    "reprojection_error": "reproj. px",
    "camera_centre_error": "centre mm",
    "camera_rotation_error": "rotation deg",
    **{f"localised@{metres:g}m": f"{metres:g} m {degrees:g} deg" for metres, degrees in LEVELS},
}


def page(runs: Sequence[Run]) -> str:
    """Output of `lf bench`: provenance, table, intervals of the means, and drops if any."""
    runs = told_apart(runs)
    parts = [header(runs[0]), table(runs), foot(runs), averages(runs), drops(runs) if len(runs) > 1 else ""]
    parts.append(classes(runs))
    return "\n\n".join(filter(None, parts))


def foot(runs: Sequence[Run]) -> str:
    """Return the lines below `table`: reasons of void times, and the meaning of speed; empty without times."""
    says = (
        "speed: times as fast as the first row in the same turn; the median, and its 95 % bootstrap interval over turns"
    )
    lines = [*voids((run.label, run.void) for run in runs), repeat(runs)]
    return "\n".join(filter(None, [*lines, says if any(run.ratio.to for run in runs) else ""]))


def voids(found: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return a line for each run with void times, from pairs (name, reason or None)."""
    return [f"- {name}: void: {why}" for name, why in found if why]


def repeat(runs: Sequence[Run]) -> str | None:
    """Return the sentence that asks for another measurement if times are void."""
    count = sum(bool(run.void) for run in runs)
    return f"{count} of {len(runs)} runs void: stop what else runs here and repeat the command" if count else None


def table(runs: Sequence[Run]) -> str:
    """Format runs of one protocol as rows: accuracy, end-to-end latency, speed relative to the first, size."""
    first = runs[0]
    names = _metrics(first)
    head = ["model", "scheme", "backend", *(SHORT.get(n, n) for n in names), "p50 ms", "speed", "MB"]
    rows = []
    for run in runs:
        row = [run.artifact.model, run.artifact.scheme, run.backend, *(digits(run.summary[name]) for name in names)]
        void = " void" if run.void else ""
        row += [f"{run.p50:.1f}{void}", latency_stats.speed(run)] if run.p50 else ["-", "-"]
        rows.append([*row, run.artifact.megabytes])
    return markdown(head, rows)


def averages(runs: Sequence[Run]) -> str:
    """Format all numbers with 95 % intervals, overall and by split, and their number of pairs if not all count."""
    names, each = _metrics(runs[0]), runs[0].unit
    rows = []
    for run in runs:
        for split, prefix in SPLITS.items():
            if pairs := run.of_split(prefix):
                cells = [_sure(_over(pairs, run, name), len(pairs), each) for name in names]
                rows.append([run.label, split, str(len(pairs)), *cells])
    return markdown(["with 95 % interval", "split", each, *(SHORT.get(n, n) for n in names)], rows)


def classes(runs: Sequence[Run]) -> str:
    """Format the IoU of every class that occurs, a column for each run; empty for runs without classes."""
    names = [row.name for row in runs[0].classes]
    found = [[(row.iou, row.pixels) for row in run.classes] for run in runs]
    if not names or any(len(each) != len(names) for each in found):
        return ""
    whole = max(sum(pixels for _, pixels in found[0]), 1)
    rows = [
        [name, f"{each[0][1] / whole:.2%}", *(digits(iou) for iou, _ in each)]
        for name, *each in zip(names, *found, strict=True)
        if any(iou is not None for iou, _ in each)
    ]
    return markdown(["IoU of class", "pixels", *(run.label for run in runs)], rows)


def _over(pairs: Sequence[PairScores], run: Run, name: str) -> Mean:
    of, statistic = aggregate(run.protocol, name)
    return number([pair.value(of) for pair in pairs], statistic)


def _sure(value: Mean, pairs: int, each: str) -> str:
    if value["mean"] is None:
        return "-"
    sure = brackets(value["interval"], value["n"], digits, each)
    of = f" of {value['n']}" if value["interval"] and value["n"] < pairs else ""
    return f"{digits(value['mean'])} {sure}{of}"


def drops(runs: Sequence[Run]) -> str:
    """Format the drop of every later run from the first: paired difference and 95 % interval."""
    first, *rest = runs
    names = _metrics(first)
    rows = [[run.label, *(drop(first, run, name) for name in names)] for run in rest]
    head = [f"drop from {first.label}", *(SHORT.get(n, n) for n in names)]
    return markdown(head, rows)


def drop(first: Run, run: Run, name: str) -> str:
    """Format the paired drop of a metric between two runs with its 95 % interval: `+0.012 [+0.008, +0.016]`."""
    found = run.drop(first, name)
    if found is None:
        return "-"
    return f"{signed(found.drop)} {brackets(found.interval, found.n, signed)}"


def signed(value: float) -> str:
    """Format a drop with its sign and three decimals; never -0."""
    return f"{value:+z.3f}"


def verdicts(found: Sequence[Verdict]) -> str:
    """One row per gate and run."""
    rows = [
        [
            verdict.answer,
            verdict.run,
            verdict.gate.metric,
            f"{verdict.reference:.4f}",
            f"{verdict.value:.4f}",
            f"{verdict.drop:+.4f}",
            "-" if verdict.bound is None else f"{verdict.bound:+.4f}",
            f"{verdict.limit:.4f}",
            f"{verdict.pairs}" + (f", {verdict.lost:.0%} lost" if verdict.lost > 0 else ""),
        ]
        for verdict in found
    ]
    return markdown(["gate", "run", "metric", "reference", "new", "drop", "bound", "limit", "pairs"], rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(str(row[i])) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def _metrics(run: Run) -> list[str]:
    """Return the columns of its protocol for which a run has numbers."""
    return [name for name in columns(run.protocol) if name in run.summary]


def columns(protocol: str) -> tuple[str, ...]:
    """Return the metrics of a protocol that tables show."""
    return next((columns for family, columns in COLUMNS.items() if protocol.startswith(family)), _KP2D)


def digits(value: float | None) -> str:
    """Format a number of a table: three decimals, none from 100 on, `-` if undefined."""
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"
