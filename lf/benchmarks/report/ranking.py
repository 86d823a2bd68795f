"""Rank layers by the geometric metrics that they cost. Input: `lf sensitivity`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lf.benchmarks import METRICS
from lf.benchmarks.protocols.summary import LEAST, brackets
from lf.benchmarks.report.figures import plotter
from lf.benchmarks.report.tables import SHORT, markdown
from lf.core import Array, files

# Tolerated drops of a quantized file, in the unit of the metric; units of the geometric score.
TOLERANCES = {
    "repeatability": 0.005,
    "localization_error": 0.02,  # px
    "correctness@1": 0.01,
    "correctness@3": 0.01,
    "mma@1": 0.005,
    "mma@3": 0.005,
    "matching_score": 0.01,
}
PALE = 0.4  # opacity of bars that are not distinguished from noise
COLOURS = {"weights": "#0072B2", "activations": "#D55E00"}

Row = Mapping[str, Any]  # {"layer", "part", "kept", "bits", "sqnr_db": {head: dB}, "drops": {metric: {"drop", ...}}}


def score(row: Row) -> float:
    """Return the geometric score of a layer: its largest drop, in units of TOLERANCES."""
    return max(_drop(row, metric) / TOLERANCES[metric] for metric in row["drops"])


def evidence(row: Row) -> str:
    """Return where the interval of the scored drop lies: `above 0`, `below 0`, `holds 0`, or `n/a` for few pairs."""
    drop = row["drops"][max(row["drops"], key=lambda metric: _drop(row, metric) / TOLERANCES[metric])]
    if drop["drop"] is None:
        return "no value"
    if drop["low"] is None:
        return f"n/a ({drop['pairs']} pairs)"
    return "above 0" if drop["low"] > 0 else "below 0" if drop["high"] < 0 else "holds 0"


def shown(row: Row) -> bool:
    """Return whether the score is distinguished from noise: its interval does not contain 0."""
    return evidence(row) in ("above 0", "below 0", "no value")


def worst(row: Row) -> float:
    """Return the lowest signal-to-noise ratio of the heads, dB; inf if no head changes."""
    return min((value for value in row["sqnr_db"].values() if value is not None), default=np.inf)


def _drop(row: Row, metric: str) -> float:
    drop = row["drops"][metric]["drop"]
    return np.inf if drop is None else float(drop)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the rank correlation of two sequences (N,), with average ranks for ties; None if one is constant.

    Spearman 1904: the Pearson correlation of the ranks.
    """
    a, b = (_ranks(np.asarray(values, np.float64)) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread else None


def _ranks(values: Array) -> Array:
    """Average ranks from 0 on."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse])


def correlations(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Return the rank correlation of noise and drop, per metric and for the score: 1 if noise predicts the drops.

    Returns:
        "weights", "activations" and "all", those with rows -> metric or "score" -> rho.
    """
    parts = {part: [row for row in rows if part in (row["part"], "all")] for part in (*COLOURS, "all")}
    return {part: _correlations(some) for part, some in parts.items() if some}


def _correlations(rows: Sequence[Row]) -> dict[str, float | None]:
    noise = [-worst(row) for row in rows]
    found = {metric: spearman(noise, [_drop(row, metric) for row in rows]) for metric in rows[0]["drops"]}
    return {"score": spearman(noise, [score(row) for row in rows]), **found}


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Sort the rows by score, the largest first."""
    return sorted(rows, key=score, reverse=True)


def document(identity: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Return the ranking as one JSON object. A score without a value is infinite."""
    scores = [score(row) for row in ranked(rows)]
    return {
        "identity": dict(identity),
        "tolerances": {metric: TOLERANCES[metric] for metric in rows[0]["drops"]},
        "ranking": [
            {**row, "score": value if np.isfinite(value) else None, "shown": shown(row)}
            for row, value in zip(ranked(rows), scores, strict=True)
        ],
        "spearman": correlations(rows),
    }


def table(rows: Sequence[Row]) -> str:
    """Format the ranking, and its correlation with the noise of tensors."""
    metrics = [*rows[0]["drops"]]
    body = [_cells(row, metrics) for row in ranked(rows)]
    names = [SHORT.get(metric, metric) for metric in metrics]
    head = ["layer", "part", "bits", "score", "SQNR dB", *names, "interval of the score"]
    pairs = max(drop["pairs"] for row in rows for drop in row["drops"].values())
    rho = [[part, *map(_rho, found.values())] for part, found in correlations(rows).items()]
    units = ", ".join(f"{SHORT.get(name, name)} {TOLERANCES[name]:g} {METRICS[name].unit}".rstrip() for name in metrics)
    return "\n\n".join(
        [
            f"drop of each layer alone from float, {pairs} pairs, paired 95 % interval; score: the largest in units of "
            f"{units}; SQNR: of the worst head; *: the scheme leaves this layer in float",
            markdown(head, body),
            f"{sum(not shown(row) for row in rows)} of {len(rows)} scores are not shown to differ from noise: the "
            f"interval holds 0, or there are fewer than {LEAST} pairs. The order of such rows means nothing.",
            "Spearman rank correlation of noise (-SQNR) with",
            markdown(["layers", "score", *names], rho),
        ]
    )


def _cells(row: Row, metrics: Sequence[str]) -> list[str]:
    drops = [row["drops"][metric] for metric in metrics]
    noise = worst(row)
    return [
        _name(row),
        row["part"],
        str(row["bits"]),
        f"{score(row):z.2f}",
        f"{noise:.1f}" if np.isfinite(noise) else "-",
        *map(change, drops),
        evidence(row),
    ]


def change(drop: Row) -> str:
    """Format a drop, given as a dictionary, with its interval; never -0."""
    if drop["drop"] is None:
        return "-"
    bounds = None if drop["low"] is None else (drop["low"], drop["high"])
    return f"{_signed(drop['drop'])} {brackets(bounds, drop['pairs'], _signed)}"


def _signed(value: float) -> str:
    return f"{value:+z.4f}"


def _rho(value: float | None) -> str:
    return "-" if value is None else f"{value:+z.2f}"


def _name(row: Row) -> str:
    return f"{row['layer']}{'*' if row['kept'] else ''}"


def draw(rows: Sequence[Row], title: str, out: Path) -> Path:
    """Draw the ranking, weights above activations: bars of the score, of each drop, and of the noise; returns `out`.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    blocks = [[row for row in ranked(rows) if row["part"] == part] for part in COLOURS]
    rows = [row for block in blocks for row in block]
    metrics = [*rows[0]["drops"]]
    figure = plotter()(figsize=(2.6 + 1.8 * (len(metrics) + 2), 1.4 + 0.2 * len(rows)), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(metrics) + 2, sharey=True, squeeze=False)[0]
    _panel(panels[0], rows, [score(row) for row in rows], "score: largest drop / tolerated", 1)
    for axes, metric in zip(panels[1:], metrics, strict=False):
        unit = METRICS[metric].unit
        name = f"drop of {metric.replace('_', ' ')}{f' ({unit})' if unit else ''}"
        _panel(axes, rows, [_drop(row, metric) for row in rows], name, TOLERANCES[metric])
        for place, drop in enumerate(row["drops"][metric] for row in rows):
            if drop["low"] is not None:
                axes.plot([drop["low"], drop["high"]], [place, place], color="0.25", linewidth=0.9)
    _panel(panels[-1], rows, [worst(row) for row in rows], "SQNR of the worst head (dB)", None)
    labels = [f"{_name(row)}, {row['part']}{'' if shown(row) else ' ?'}" for row in rows]
    panels[0].set_yticks(range(len(rows)), labels, fontsize=7)
    panels[0].invert_yaxis()
    for label, row in zip(panels[0].get_yticklabels(), rows, strict=True):
        label.set_color(COLOURS[row["part"]])
    figure.suptitle(title, fontsize=9)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return files.write_bytes(out, image.getvalue())


def _panel(axes: Any, rows: Sequence[Row], values: Sequence[float], title: str, limit: float | None) -> None:
    """Draw a bar for every row with a finite value."""
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        if np.isfinite(value):
            axes.barh(place, value, color=COLOURS[row["part"]], height=0.7, alpha=1 if shown(row) else PALE)
    axes.axvline(0, color="0.4", linewidth=0.6)
    if limit is not None:
        axes.axvline(limit, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_title(title, fontsize=7)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize=7)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
