"""Segmentation metrics: confusion matrices, mIoU over a data set, and the metric of pytorch-superpoint's fork.

A confusion matrix of an image is sparse: rows [truth, predicted, pixels]. Pixels with the truth VOID are left
out. A predicted class that the label set leaves out is stored as VOID: it is an error, and not a class.
Sections: docs/concepts/protocols.md, 9 and 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from lf.benchmarks.protocols.summary import CONFUSION, Aggregate, Statistic
from lf.core import Array, BadInput
from lf.data.masks import VOID, Labelled, LabelSet
from lf.extraction.segmentation import decide

Size = tuple[int, int]  # (H, W), pixels
Cells = list[list[int]]  # rows [truth, predicted, pixels]


class Seen(NamedTuple):
    """Prediction of a network for an image.

    Attributes:
        logits: (C, h, w) float32.
        shown: (H, W) of the input of the network.
        native: (H, W) of the image.
    """

    logits: Array
    shown: Size
    native: Size


def confusion(truth: Array, predicted: Array, classes: LabelSet) -> Cells:
    """The confusion matrix of an image.

    Args:
        truth: (H, W) uint8, VOID where a pixel is left out.
        predicted: (H, W) uint8.
        classes: the label set.
    """
    table = np.full(256, VOID)
    table[: len(classes)] = range(len(classes))
    table[[*classes.ignored]] = VOID
    counted = truth != VOID
    pairs = truth[counted].astype(np.int64) * 256 + table[predicted[counted]]
    cells, pixels = np.unique(pairs, return_counts=True)
    return [[cell // 256, cell % 256, count] for cell, count in zip(cells.tolist(), pixels.tolist(), strict=True)]


def score(seen: Seen, item: Labelled) -> dict[str, Any]:
    """Section 9, of one labelled image: its confusion matrix at the size of the truth."""
    truth = item.mask(seen.native)
    return {CONFUSION: confusion(truth, decide(seen.logits, (truth.shape[0], truth.shape[1])), item.classes)}


def fork(seen: Seen, item: Labelled) -> dict[str, Any]:
    """Section 10, of one labelled image: the truth has the size of the network's input, as in the fork's loader."""
    truth = item.ids(seen.native)
    if truth.shape != seen.shown:
        truth = np.asarray(cv2.resize(truth, seen.shown[::-1], interpolation=cv2.INTER_NEAREST))
    return {**fork_score(seen.logits.argmax(axis=0), truth)}


def fork_score(predicted: Array, truth: Array) -> dict[str, float]:
    """Section 10, of one image.

    Args:
        predicted: (h, w) uint8, the arg-max at the network's stride.
        truth: (H, W) uint8, ids of the file.
    """
    square = np.ones((3, 3), np.uint8)
    for step in (cv2.MORPH_OPEN, cv2.MORPH_CLOSE):  # as published, ids are treated as grey levels
        predicted = cv2.morphologyEx(np.asarray(predicted, np.uint8), step, square)
    full = cv2.resize(predicted, truth.shape[::-1], interpolation=cv2.INTER_NEAREST)
    matrix = np.bincount(truth.ravel().astype(np.int64) * 256 + full.ravel(), minlength=65536).reshape(256, 256)
    hits, rows, columns = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    seen, there = rows + columns > 0, rows > 0
    return {
        "miou": float((hits[seen] / (rows + columns - hits)[seen]).mean()),
        "pixel_accuracy": float(hits.sum() / matrix.sum()),
        "mean_accuracy": float((hits[there] / rows[there]).mean()),
    }


def class_sums(matrices: Sequence[Cells]) -> Array:
    """Count for each class the correct, true and predicted pixels: (n, 3 C) float64 of n images.

    All figures of section 9 are computed from the sums of these counts over images.

    Raises:
        BadInput: rows of another kind, such as of a damaged results file.
    """
    rows = [row for cells in matrices for row in cells]
    for row in rows:
        if len(row) != 3 or not (0 <= row[0] < VOID and 0 <= row[1] <= VOID and row[2] >= 0):
            raise BadInput(f"a confusion matrix holds {str(row)[:60]}; expected rows [truth, predicted, pixels]")
    classes = 1 + max((n for row in rows for n in row[:2] if n != VOID), default=0)
    sums = np.zeros((len(matrices), 3, classes))
    for image, cells in zip(sums, matrices, strict=True):
        for truth, predicted, pixels in cells:
            image[1, truth] += pixels
            if predicted != VOID:
                image[2, predicted] += pixels
            if predicted == truth:
                image[0, truth] += pixels
    return sums.reshape(len(matrices), -1)


def ious(sums: Array) -> Array:
    """Return the IoU (..., C) of each class from sums (..., 3 C); NaN if neither truth nor prediction has the class."""
    hits, rows, columns = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(hits / (rows + columns - hits))


def class_scores(matrices: Sequence[Cells]) -> dict[int, tuple[float, int]]:
    """Return for each class that occurs its IoU over all images, and its number of pixels in the truth."""
    sums = class_sums(matrices).sum(axis=0)
    found, pixels = ious(sums), sums.reshape(3, -1)[1]
    return {n: (float(iou), int(pixels[n])) for n, iou in enumerate(found.tolist()) if iou == iou}


def _miou(sums: Array) -> Array:
    return np.asarray(np.nanmean(ious(sums), axis=-1))


def _classes(sums: Array) -> Array:
    return np.asarray((~np.isnan(ious(sums))).sum(axis=-1).astype(np.float64))


def _pixel_accuracy(sums: Array) -> Array:
    hits, rows, _ = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    return np.asarray(hits.sum(axis=-1) / rows.sum(axis=-1))


def _mean_accuracy(sums: Array) -> Array:
    hits, rows, _ = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(hits / rows, axis=-1))


def _over_images(about: str, figure: Callable[[Array], Array]) -> Statistic:
    """Make a statistic of the summed confusion matrices; whole images are resampled, empty images do not count."""

    def value(sums: Array) -> Array:
        return figure(sums.sum(axis=-2))

    def resampled(sums: Array, draws: Array) -> Array:
        times = np.stack([np.bincount(draw, minlength=len(sums)) for draw in draws]).astype(np.float64)
        return figure(times @ sums)

    return Statistic(about, lambda cells: cells or None, value, gather=class_sums, resampled=resampled)


_ABOUT = "of the confusion matrix summed over the images"
AGGREGATES = {
    "miou": Aggregate(CONFUSION, _over_images(f"mean IoU of the defined classes {_ABOUT}", _miou)),
    "n_classes": Aggregate(CONFUSION, _over_images(f"defined classes {_ABOUT}", _classes)),
    "pixel_accuracy": Aggregate(CONFUSION, _over_images(f"share of right pixels {_ABOUT}", _pixel_accuracy)),
    "mean_accuracy": Aggregate(
        CONFUSION, _over_images(f"mean share of right pixels by class {_ABOUT}", _mean_accuracy)
    ),
}
