"""Draw a segmentation: truth beside prediction, and matches in the colours of their classes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from lf.benchmarks.protocols.matching import mutual
from lf.benchmarks.report import match_pictures
from lf.benchmarks.report.match_pictures import Found, Images
from lf.benchmarks.run.segment import Segmenter, check_classes, check_head
from lf.core import Array, Features, UsageError, pick
from lf.data import contact_sheets
from lf.data.masks import VOID, LabelSet
from lf.data.masks.label_sets import FROM_CS34, label_set, of_card
from lf.data.masks.pictures import beside, legend
from lf.data.masks.units import Unit
from lf.extraction import segmentation
from lf.extraction.extractor import Extractor
from lf.extraction.segmentation import decide

STABLE = "stable"  # classes 0 and 1 of cs4: static structure and flat surfaces
MIXED = (242, 242, 242)  # colour of a match between two classes
LIGHT = 200  # least value of the strongest channel of a class, because matches are drawn over dark images


def prediction(segment: Segmenter, unit: Unit, title: str, note: str = "") -> Array:
    """Draw the truth of a labelled image, the prediction, and their differences, at the protocol's size."""
    image, truth = unit.labelled.load()
    predicted = decide(segment(unit.first).logits, (truth.shape[0], truth.shape[1]))
    panels, strip = beside(image, truth, predicted, unit.labelled.classes)
    return contact_sheets.sheet(title, panels, 3, note, [strip])


def classes_for(extractor: Extractor, name: str | None) -> LabelSet:
    """Return the label set `name`, or the classes in the card of the model.

    Raises:
        UsageError: the network has no segmentation, or another number of classes, or its card names no classes.
    """
    check_head(extractor)
    artifact = extractor.artifact
    if name is None and not artifact.card.classes:
        raise UsageError(
            f"{artifact.path}: its card names no classes; name their label set: `classes=SET`, such as cs34"
        )
    classes = of_card(artifact) if name is None else label_set(name)
    check_classes(extractor, classes)
    return classes


def classes_of(extractor: Extractor, image: Array) -> Array:
    """Predict the class of every pixel of an image: (H, W) uint8."""
    return segmentation.classes(segmentation.look(extractor, image), (image.shape[0], image.shape[1]))


def chosen(classes: LabelSet, names: str | None) -> set[int]:
    """Return the ids of classes: names separated by commas, or `stable`; None means all.

    Raises:
        UsageError: unknown class, or a label set without stable classes.
    """
    if names is None:
        return {*range(len(classes))}
    if names == STABLE:
        return _stable(classes)
    known = {name: n for n, name in enumerate(classes.names)}
    return {pick(known, name.strip(), f"class of label set {classes.name}") for name in names.split(",")}


def _stable(classes: LabelSet) -> set[int]:
    if classes.name not in FROM_CS34:
        raise UsageError(
            f"label set {classes.name} does not say which classes are stable; name them: `only=NAME,NAME` with some of "
            f"{', '.join(classes.names)}"
        )
    to, four = FROM_CS34[classes.name], FROM_CS34["cs4"]
    return {int(to[n]) for n in range(34) if four[n] in (0, 1)} - {VOID}


def matches(
    images: Images,
    features: Found,
    masks: tuple[Array, Array],
    classes: LabelSet,
    keep: Collection[int],
    title: str,
) -> Array:
    """Draw the mutual nearest neighbours in the colours of their classes.

    Args:
        images: both images.
        features: their keypoints.
        masks: the class of every pixel of each image.
        classes: the label set.
        keep: ids of classes; both ends of a match must have one of them.
        title: title of the page.
    """
    first, second = features
    i, j = mutual(first.descriptors, second.descriptors, "dot")
    ends = at(masks[0], first)[i], at(masks[1], second)[j]
    kept = np.isin(ends[0], [*keep]) & np.isin(ends[1], [*keep])
    one, other = ends[0][kept], ends[1][kept]
    same = one == other
    palette = lightened(classes.palette)
    shades = np.where(same[:, None], palette[one], MIXED)
    order = np.argsort(same, kind="stable")  # matches within one class are drawn last
    text = f"{len(one)} of {len(i)} mutual matches, {int(same.sum())} of them with both ends on one class"
    note = "Lines and discs: class of a match whose ends have the same; white where they differ. Dots: no such match."
    words = (title, text, note)
    present = np.unique(one[same]).tolist()
    return match_pictures.drawn(
        images,
        features,
        (i[kept][order], j[kept][order]),
        shades[order],
        words,
        lambda width: legend(classes, present, max(width, match_pictures.NARROWEST), palette),
    )


def lightened(palette: Array) -> Array:
    """Lighten the dark colours of a palette (N, 3) to LIGHT, with the same hue; black becomes grey."""
    colours = palette.astype(np.float64)
    most = colours.max(axis=1, keepdims=True)
    light = np.where(most == 0, LIGHT * 0.6, colours * np.maximum(1, LIGHT / np.maximum(most, 1)))
    return np.asarray(np.rint(light).astype(np.uint8))


def at(mask: Array, features: Features) -> Array:
    """Return the class (N,) of the pixel of each keypoint."""
    x, y = np.rint(features.keypoints).astype(int).T
    return np.asarray(mask[np.clip(y, 0, mask.shape[0] - 1), np.clip(x, 0, mask.shape[1] - 1)])
