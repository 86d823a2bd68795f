"""Draw a results document: curves of all runs, and the best and worst pairs of each run."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from lf.benchmarks import METRICS
from lf.benchmarks.protocols.protocol import Protocol
from lf.benchmarks.protocols.segmentation import class_scores
from lf.benchmarks.protocols.summary import SPLITS
from lf.benchmarks.report import class_pictures, match_pictures
from lf.benchmarks.report.curves import THRESHOLDS, measured
from lf.benchmarks.report.header import header
from lf.benchmarks.run.names import told_apart
from lf.benchmarks.run.predict import Predictor
from lf.benchmarks.run.record import PairScores, Run
from lf.benchmarks.run.segment import Segmenter
from lf.core import Array, BadInput, Unavailable, files
from lf.core.packages import pip
from lf.data import Pair, dataset_digest
from lf.data.cameras import RelativePose
from lf.data.masks.units import Unit
from lf.extraction.extractor import Extractor

Progress = Callable[[int, int, str], None]

# Okabe-Ito without yellow, which is invisible on white; dashes and widths separate coinciding lines
LINES = (
    ("#0072B2", "-", "o"),
    ("#E69F00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#56B4E9", "--", "v"),
    ("#D55E00", "-.", "P"),
)
PANELS = {"all": "overall", "i": "illumination", "v": "viewpoint"}
# the first of these that the protocol has ranks the pairs
RANKED_BY = (
    "mma@3",
    "mean_corner_error",
    "pose_error",
    "miou",
)
EXTREMES = 2  # number of best and of worst pairs


def draw(
    runs: Sequence[Run],
    extractors: Sequence[Extractor],
    pairs: Sequence[Pair],
    protocol: Protocol,
    cache: Path | None,
    out: Path,
    progress: Progress = lambda done, total, text: None,
) -> list[Path]:
    """Draw the curves of the runs of one protocol, and their best and worst pairs.

    Args:
        runs: of a results document.
        extractors: the extractor of each run.
        pairs: the evaluated pairs.
        protocol: the protocol of the runs.
        cache: folder with the features of the runs; missing features are extracted again.
        out: the folder to write to.
        progress: called with (images done, all, text).

    Returns:
        Paths of the curves, then for each run of the matches and points of its worst and best pairs. For labelled
        images: truth beside prediction, without curves.

    Raises:
        BadInput: the runs are not of these pairs or this protocol.
        Unavailable: matplotlib is not installed.
    """
    subject = dataset_digest(pairs), protocol.digest
    for run in runs:
        if (run.dataset_digest, run.protocol_digest) != subject:
            raise BadInput(f"the results are of {run.dataset} under {run.protocol}, not of what is to be drawn")
    made = [curves(runs, out / "curves.png")] if protocol.truth != "classes" else []
    for number, (run, extractor) in enumerate(zip(told_apart(runs), extractors, strict=True), 1):
        predict = predictor(extractor, protocol, cache)
        folder = out / _slug(f"{number} {run.label}")
        for text, stem, pair in _extremes(run, pairs):
            progress(len(made), 1 + 4 * EXTREMES * len(runs), f"drawing {folder.name} {stem}")
            drawn = draw_pair(predict, pair, f"{run.label}: {text}", header(run))
            made += [match_pictures.save(folder / f"{stem}-{kind}.png", picture) for kind, picture in drawn.items()]
    return made


def plotter() -> Any:
    """Return matplotlib's class of figures that are drawn without a screen.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unavailable(f"charts need the package matplotlib; type: {pip('plots')}") from error
    return Figure


def curves(runs: Sequence[Run], path: Path) -> Path:
    """Draw a line per run over 1 to 10 px, overall and by split: MMA, or correct homographies if MMA is not measured.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    splits = {s: p for s, p in SPLITS.items() if runs[0].of_split(p)}
    figure = plotter()(figsize=(3.6 * len(splits) + 0.4, 4.9), dpi=140, layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    share, threshold, _ = measured(runs[0])
    for axes, (split, prefix) in zip(panels, splits.items(), strict=True):
        _panel(axes, runs, prefix, PANELS[split])
        axes.set_xlabel(threshold)
    panels[0].set_ylabel(share)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=min(len(runs), len(splits)),
        frameon=False,
    )
    caption = "\n".join(textwrap.wrap(header(runs[0]), 56 * len(splits)))
    figure.supxlabel(caption, fontsize=7, color="0.35")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return files.write_bytes(path, image.getvalue())


def _panel(axes: Any, runs: Sequence[Run], prefix: str, title: str) -> None:
    records = [run.of_split(prefix) for run in runs]
    value = measured(runs[0])[2]
    for n, (run, rows) in enumerate(zip(told_apart(runs), records, strict=True)):
        colour, dashes, marker = LINES[n % len(LINES)]
        share = [np.mean([value(row, t) for row in rows]) for t in THRESHOLDS]
        size = 1 - n / len(runs)  # later lines are thinner, so that earlier lines stay visible
        style = {"color": colour, "marker": marker, "markersize": 4 + 3 * size, "linewidth": 1.2 + 1.8 * size}
        axes.plot(THRESHOLDS, share, dashes, **style, label=run.label, clip_on=False)
    axes.set_title(f"{title} ({len(records[0])} pairs)", pad=9)  # pt: clear of markers at 1
    axes.set(xlim=(0.7, 10.3), ylim=(0, 1))
    axes.set_xticks(THRESHOLDS)
    axes.grid(color="0.88")
    axes.spines[["top", "right"]].set_visible(False)


def _extremes(run: Run, pairs: Sequence[Pair]) -> Iterator[tuple[str, str, Pair]]:
    """Yield (description, stem of its files, pair) for the worst and the best pairs of a run."""
    records = [{**pair.extra, **image_miou(pair)} for pair in run.pairs]
    metric = next(name for name in RANKED_BY if name in records[0])
    sign = 1 if METRICS[metric].higher_is_better else -1

    def badness(index: int) -> tuple[bool, float, float]:
        value = records[index][metric]
        return value is None, -sign * (value or 0), -(records[index].get("n_matches") or 0)

    order = sorted(range(len(records)), key=badness, reverse=True)
    count = min(EXTREMES, len(order))
    ends = {"worst": order[:count], "best": order[: -count - 1 : -1]}
    for end, chosen in ends.items():
        for rank, index in enumerate(chosen, 1):
            pair, value = pairs[index], records[index][metric]
            figure = "undefined" if value is None else f"{value:.2f} {METRICS[metric].unit}".rstrip()
            text = f"{end} {rank} of {len(order)} {run.unit}, {pair.sequence} {pair.name}"
            yield (
                f"{text}, {metric.replace('_', ' ')} {figure}",
                _slug(f"{end} {rank} {pair.sequence} {pair.name}"),
                pair,
            )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._]+", "-", text.lower())


def image_miou(pair: PairScores) -> dict[str, float]:
    """Return the mIoU of one labelled image; empty without a confusion matrix or pixels."""
    scores = class_scores([pair.confusion]) if pair.confusion else {}
    return {"miou": mean(iou for iou, _ in scores.values())} if scores else {}


def predictor(extractor: Extractor, protocol: Protocol, cache: Path | None) -> Predictor | Segmenter:
    """Make the predictor or segmenter of a protocol."""
    kind = Segmenter if protocol.truth == "classes" else Predictor
    return kind(extractor, protocol, cache)


def draw_pair(predict: Predictor | Segmenter, pair: Pair, title: str, note: str = "") -> dict[str, Array]:
    """Draw one pair at the protocol's size: name -> RGB image.

    Matches and, for homographies, points; for labelled images, the segmentation.
    """
    if isinstance(predict, Segmenter):
        assert isinstance(pair, Unit), "`Protocol.check` lets no other pairs pass"
        return {"segmentation": class_pictures.prediction(predict, pair, title, note)}
    rule = predict.protocol
    (first, native0), (second, native1) = predict(pair.first), predict(pair.second)
    truth = rule.between(pair, native0, native1)
    images = [rule.prepare(picture.load(), 3)[0] for picture in (pair.first, pair.second)]
    both, k = (images[0], images[1]), rule.params.get("k")
    drawn = {"matches": match_pictures.matches(both, (first.top(k), second.top(k)), truth, title, note)}
    if isinstance(truth, RelativePose):  # without depth it is unknown which points repeat
        return drawn
    limit = rule.params.get("repeatability_px", match_pictures.CORRECT)
    return {**drawn, "points": match_pictures.points(both, (first, second), truth, title, note, k, limit)}
