"""Draw samples of a benchmark or of a training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lf.core import Array, UsageError, console, files, pick
from lf.data.masks import PREFIX

if TYPE_CHECKING:
    from lf.data import Pair
    from lf.data.contact_sheets import Panel
    from lf.data.masks import LabelSet
    from lf.train import Recipe
    from lf.train.sample import Sample

PAIRS, SINGLES, COLUMNS = 4, 9, 3  # default numbers of pairs and of single images, and columns of single images
PICTURES = 48  # images made for the sheet of a recipe, which has thousands of similar ones
SHAPES = "shapes"
SIZE = (240, 320)  # px of a drawn shape
NUMBER_NOTE = "Numbers: the same point of the scene in both images."
BOARD_NOTE = (
    "Last column: a checkerboard of the first image and of the second as seen from the first; edges run on from square "
    "to square where the pair is right. Dark: not in both."
)
PAIR_NOTE = f"{NUMBER_NOTE} {BOARD_NOTE}"
LINE_NOTE = "Lines: epipolar lines, on which the points of the same colour lie."
LABEL_NOTE = "Rings: labelled points."
CLASS_NOTE = "Colours: classes, over the grey image. Dark: left out, or outside of the image."
MASK_NOTE = f"{CLASS_NOTE} The warp is one random homography."


class Page(NamedTuple):
    """A sheet of panels, see `lf.data.contact_sheets.sheet`."""

    title: str
    panels: list[Panel]
    columns: int
    note: str
    legends: Sequence[Array] = ()


def draw(
    spec: str,
    output: Path,
    photos: list[str] | None = None,
    change: Sequence[str] = (),
    labels: Path | None = None,
    count: int | None = None,
    progress: console.Progress = lambda done, total, text: None,
) -> Path:
    """Draw what a source holds as one image.

    Args:
        spec: a dataset, labelled images, a recipe, `shapes`, or a folder of photos with labels.
        output: image file to write.
        photos: with a recipe: sources of training images.
        change: with a recipe: settings, KEY=VALUE.
        labels: with a folder of photos: the folder of their labels.
        count: pairs or images to draw.
        progress: called with (done, total, text).

    Raises:
        UsageError: an unknown name, or options that do not belong to it.
    """
    from lf.benchmarks.report.match_pictures import save
    from lf.data import contact_sheets
    from lf.train import RECIPES

    if (photos or change) and (spec not in RECIPES or labels):
        known = ", ".join(RECIPES)
        raise UsageError(f"`photos` and `change` belong to a recipe, not to {spec}; for example: lf data show {known}")
    if labels:
        page = _labelled(Path(spec), labels, count)
    elif spec in RECIPES:
        page = _recipe(spec, RECIPES[spec].override(change), photos, count, progress)
    elif spec.startswith(PREFIX):
        page = _masks(spec, count)
    elif spec == SHAPES:
        page = _shapes(count)
    else:
        page = _dataset(spec, count)
    return save(output, contact_sheets.sheet(*page))


def _dataset(spec: str, count: int | None) -> Page:
    from lf.data import DATASETS, contact_sheets, open_dataset
    from lf.train import RECIPES

    if ":" not in spec and "/" not in spec and not Path(spec).exists():
        pick({**RECIPES, **DATASETS, SHAPES: None}, spec, "recipe, dataset or folder")
    pairs = open_dataset(spec)
    if pairs[0].kind == "pose":
        return _posed(spec, pairs, count)
    panels = []
    chosen = _spread(len(pairs), count or PAIRS)
    for pair in (pairs[i] for i in chosen):
        first, second = pair.first.load(), pair.second.load()
        size, other = first.shape[:2], second.shape[:2]
        known = contact_sheets.flow(pair.homography, (size[0], size[1]), (other[0], other[1]))
        panels += contact_sheets.pair(first, second, known, None, f"{pair.sequence} {pair.name}")
    return Page(f"{spec}: {len(chosen)} of {len(pairs)} pairs", panels, 3, PAIR_NOTE)


def _posed(spec: str, pairs: list[Pair], count: int | None) -> Page:
    """Draw pairs with a relative pose; for drawn scenes, with the flow from their depth."""
    from lf.data import contact_sheets
    from lf.data.posed import correspond, scenes

    views = [pair for scene in scenes(spec) for pair in scene.pairs] if spec.startswith("scenes") else None
    panels: list[Panel] = []
    chosen = _spread(len(pairs), count or PAIRS)
    for index in chosen:
        pair = pairs[index]
        first, second = pair.first.load(), pair.second.load()
        sizes = (first.shape[0], first.shape[1]), (second.shape[0], second.shape[1])
        known = correspond.flow(views[index].first, views[index].second, *sizes) if views else None
        panels += contact_sheets.posed(first, second, pair.pose, known, f"{pair.sequence} {pair.name}")
    title, note = f"{spec}: {len(chosen)} of {len(pairs)} pairs", LINE_NOTE
    return Page(title, panels, 3 if views else 2, f"{note} {PAIR_NOTE}" if views else note)


def _masks(spec: str, count: int | None) -> Page:
    from lf.data.masks import labelled, pictures

    found = labelled(spec)
    chosen = _spread(len(found), count or PAIRS)
    panels, masks = pictures.warped([found[i] for i in chosen])
    classes = f"label set {found.classes.name}, {len(found.classes)} classes"
    title = f"{spec}: {len(chosen)} of {len(found)} labelled images, {classes}"
    return Page(title, panels, 4, MASK_NOTE, [pictures.legend(found.classes, pictures.seen(masks))])


def _labelled(photos: Path, folder: Path, count: int | None) -> Page:
    from lf.data import images
    from lf.data.contact_sheets import Panel
    from lf.train.label_photos import MANIFEST, points_of, read_labels

    found = read_labels(folder)
    files.read_json(folder / MANIFEST, "the manifest of lf label")
    names = [name for name in found if (photos / name).is_file()]
    if not names:
        example = f", such as {next(iter(found))}" if found else ""
        raise UsageError(f"{photos}: holds none of the {len(found)} photos that {folder} has labels of{example}")
    chosen = [names[i] for i in _spread(len(names), count or SINGLES)]
    panels = []
    for name in chosen:
        photo = images.picture(photos / name, name)
        points = points_of(found, folder, name, photo.digest)
        panels.append(Panel(photo.load(), f"{name}: {len(points)} points", points))
    return Page(f"{folder}: labels of {len(chosen)} of {len(names)} photos in {photos}", panels, COLUMNS, LABEL_NOTE)


def _shapes(count: int | None) -> Page:
    import numpy as np

    from lf.data.contact_sheets import Panel
    from lf.data.drawn import synthetic_shapes
    from lf.data.drawn.primitives import PRIMITIVES

    panels = []
    for n in range(count or len(PRIMITIVES)):
        name = list(PRIMITIVES)[n % len(PRIMITIVES)]
        image, points = synthetic_shapes.draw(name, np.random.default_rng(n), SIZE)
        found = np.column_stack([points, np.ones(len(points))])
        panels.append(Panel(image, f"{name}: {len(points)} points", found))
    title = f"{SHAPES}: primitives at {SIZE[0]} x {SIZE[1]} px, with the points that a detector learns"
    return Page(title, panels, COLUMNS, LABEL_NOTE)


def _recipe(name: str, recipe: Recipe, data: list[str] | None, count: int | None, progress: console.Progress) -> Page:
    from lf.data.contact_sheets import Panel
    from lf.train.labelled import label_set

    sources = data or [recipe.data]
    classes = label_set(recipe, sources)
    made, pictures = _samples(name, recipe, sources, count, progress)
    what = "views" if made[0].flow is None else "pairs"
    title = f"recipe {name}, method {recipe.method}: {what} of {recipe.size[0]} x {recipe.size[1]} px as in its first "
    title += f"steps, of {pictures} images ({', '.join(sources)})"
    if made[0].flow is not None:
        return _pairs(title, made, classes)
    panels = [
        Panel(sample.views[0], f"{n + 1}", None if sample.labels is None else sample.labels[0])
        for n, sample in enumerate(made)
    ]
    return Page(title, panels, COLUMNS, LABEL_NOTE)


def _pairs(title: str, made: Sequence[Sample], classes: LabelSet | None) -> Page:
    """Draw pairs of views; for a recipe that learns classes, with masks."""
    from lf.data import contact_sheets
    from lf.data.masks import pictures

    panels: list[Panel] = []
    for n, sample in enumerate(made):
        assert sample.flow is not None, "a pair"
        found = contact_sheets.pair(sample.views[0], sample.views[1], sample.flow, sample.labels, f"{n + 1}")
        if classes and sample.masks:
            found = [*found[:2], *pictures.masked(sample.views, sample.masks, classes, f"{n + 1}"), found[-1]]
        panels += found
    bare = made[0].labels is None
    if not classes:
        return Page(title, panels, 3 if bare else 5, PAIR_NOTE if bare else f"{LABEL_NOTE} {PAIR_NOTE}")
    note = f"{NUMBER_NOTE if bare else LABEL_NOTE} {CLASS_NOTE} {BOARD_NOTE}"
    seen = pictures.seen(mask for sample in made for mask in sample.masks or ())
    return Page(title, panels, 5, note, [pictures.legend(classes, seen)])


def _samples(
    name: str, recipe: Recipe, data: list[str], count: int | None, progress: console.Progress
) -> tuple[list[Sample], int]:
    """Return the samples of the first steps, and the number of images made for them."""
    import tempfile

    import torch

    from lf.train.loop import method_of
    from lf.train.pictures import collect
    from lf.train.views.random_views import Dice

    kind = method_of(recipe)
    if not hasattr(kind, "sample"):
        raise UsageError(
            f"recipe {name}: its method {recipe.method} cannot show what it sees; "
            f"give the class Method in {kind.__module__} a sample(), see lf/train/sample.py"
        )
    own = getattr(kind, "collect", None)  # for methods that learn from posed pairs
    cpu = torch.device("cpu")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if own:
            few = dataclasses.replace(recipe, pictures=min(PICTURES, recipe.pictures or PICTURES))
            pictures = own(few, data, Path(folder), progress).on(cpu)
        else:
            few, sources = _few(recipe, data)
            pictures = collect(few, sources, Path(folder), progress).on(cpu)
        method = kind(few, pictures, cpu)
        found: list[Sample] = []
        wanted, step = count or SINGLES, 0
        while len(found) < wanted:
            with torch.no_grad():
                found += method.sample(Dice(recipe.seed, step, recipe.batch, cpu, slice(0, wanted)))
            wanted, step = count or (SINGLES if found[0].flow is None else PAIRS), step + 1
    return found[:wanted], len(pictures)


def _few(recipe: Recipe, data: list[str]) -> tuple[Recipe, list[str]]:
    """Reduce a recipe to PICTURES images; also return the sources with their counts."""
    from lf.train.pictures import shares

    some = [(source, n * PICTURES // recipe.pictures if n else PICTURES) for source, n in shares(data, recipe.pictures)]
    few = [(source, min(max(1, n), recipe.pictures or PICTURES)) for source, n in some]
    return dataclasses.replace(recipe, pictures=sum(n for _, n in few)), [f"{source}:{n}" for source, n in few]


def _spread(total: int, count: int) -> list[int]:
    """Return `count` indices below `total`, evenly spaced from the first to the last."""
    count = min(total, count)
    return [round(i * (total - 1) / max(1, count - 1)) for i in range(count)]
