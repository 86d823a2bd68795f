"""Find the input range and colour order of a network by running it on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from lf.core import Array, BadInput, UsageError
from lf.core.registry import hint
from lf.data import images
from lf.data.drawn import procedural
from lf.export.adopt import graph
from lf.export.to_onnx import INPUT
from lf.extraction import agreement
from lf.formats import onnx_model
from lf.formats.onnx_graph import Graph

if TYPE_CHECKING:
    from onnx import ModelProto

    from lf.models import Model

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
RANGES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # name -> mean and deviation, for values in 0..1
    "0..1": ((0.0,), (1.0,)),
    "0..255": ((0.0,), (1 / 255,)),
    "-1..1": ((0.5,), (0.5,)),
    "-0.5..0.5": ((0.5,), (1.0,)),
    "imagenet": (MEAN, DEVIATION),
}
PLAIN = ("0..1", "0..255")
PUBLISHED = {"kp2d": ("-1..1", "-0.5..0.5"), "r2d2": ("imagenet",)}  # inputs of a family's tools besides PLAIN
PICTURES = 4
MARGIN = 16  # px by which an image is larger than the input, so that it can be shifted
BEST = 200  # number of points of an image to compare
NEAR = 1.5  # px
DECIDED = 0.15  # least lead in repeatability of the best variant
LEAST = 0.2  # least repeatability of the best variant

Decode = Callable[[Array], tuple[Array, Array, Array]]


@dataclass(frozen=True)
class Variant:
    """Conversion of values in 0..1, RGB, to the input of a network: (value - mean) / deviation, in BGR if `bgr`."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    bgr: bool
    name: str

    def fed(self, image: Array) -> Array:
        """Convert an image (1, C, H, W) float32."""
        image = image[:, ::-1] if self.bgr else image
        mean, deviation = (np.array(side, np.float32).reshape(1, -1, 1, 1) for side in (self.mean, self.deviation))
        return np.ascontiguousarray((image - mean) / deviation, np.float32)


def parse(text: str, channels: int) -> Variant:
    """Parse `0..255`, `imagenet,bgr` or `mean=0.5:0.5:0.5,std=0.2:0.2:0.2`.

    Raises:
        UsageError: an unknown word, or numbers that do not fit the channels.
    """
    words = text.split(",")
    bgr = "bgr" in words
    rest = [word for word in words if word not in ("bgr", "rgb")]
    if bgr and channels == 1:
        raise UsageError(f"`input={text}`: bgr, and the network takes grey images; leave bgr out")
    if len(rest) == 1 and rest[0] in RANGES:
        return variant(rest[0], bgr, channels)
    given = dict(word.partition("=")[::2] for word in rest)
    if {*given} != {"mean", "std"}:
        near = hint(rest[0] if rest else text, RANGES)
        raise UsageError(f"`input={text}`: {near}expected one of {', '.join(RANGES)}, or mean=M:M:M,std=S:S:S, and bgr")
    try:
        mean, deviation = (tuple(float(part) for part in given[key].split(":")) for key in ("mean", "std"))
    except ValueError:
        mean = deviation = ()
    if not {len(mean), len(deviation)} <= {1, channels} or not all(0 < side < float("inf") for side in deviation):
        raise UsageError(f"`input={text}`: expected 1 or {channels} numbers for each, deviations above 0")
    return Variant(mean, deviation, bgr, text)


def variant(name: str, bgr: bool, channels: int) -> Variant:
    """Make a variant from a row of RANGES, for grey or colour."""
    sides = RANGES[name]
    mean, deviation = sides if channels == 3 else ((float(np.mean(side)),) for side in sides)
    return Variant(tuple(mean), tuple(deviation), bgr, f"{name}{',bgr' * bgr}")


def candidates(row: Model, integer: bool, every: bool) -> list[Variant]:
    """Return possible inputs of the network: those of tools of its family, or `every` row of RANGES, in RGB and BGR.

    The range of an `integer` input is known: the graph converts values in 0..1 to integers.
    """
    names = [*PLAIN, *PUBLISHED.get(row.family, () if row.family else (*RANGES,)[2:])]
    names = ["0..1"] if integer else [*RANGES] if every else names
    return [variant(name, bgr, row.channels) for bgr in (False, True)[: row.channels // 3 + 1] for name in names]


def pictures(size: tuple[int, int], folder: Path | None, count: int | None = None) -> Iterator[Array]:
    """Yield images, uint8 (H, W, 3) RGB, larger than `size` by MARGIN, from a folder or drawn."""
    height, width = size[0] + MARGIN, size[1] + MARGIN
    count = count or PICTURES
    if folder is None:
        yield from (procedural.held_out_picture(index, (height, width)) for index in range(count))
        return
    for path in islice(images.list_images(folder), count):
        yield cv2.resize(images.read(path), (width, height), interpolation=cv2.INTER_AREA)


def view(picture: Array, size: tuple[int, int], shift: tuple[int, int] = (0, 0)) -> Array:
    """Crop an image of `pictures`; its content is moved by `shift` (x, y) px, each from -8 to 8."""
    x, y = MARGIN // 2 - shift[0], MARGIN // 2 - shift[1]
    return picture[y : y + size[0], x : x + size[1]]


def tensor(image: Array, channels: int) -> Array:
    """Convert uint8 (H, W, 3) to (1, C, H, W) float32 in 0..1."""
    image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if channels == 1 else image
    return np.ascontiguousarray(np.moveaxis(image, 2, 0)[None], np.float32) / np.float32(255)


def moved(before: Array, after: Array, shift: tuple[int, int], size: tuple[int, int]) -> float:
    """Return the share of points (N, 2) found at their shifted places, of those that stay in the image."""
    wanted = before + np.array(shift, np.float32)
    margin = MARGIN
    inside = ((wanted >= margin) & (wanted < np.array(size[::-1]) - margin)).all(1)
    return float(agreement.near(wanted[inside], after, NEAR).mean()) if inside.any() else 0.0


def repeatability(decode: Decode, shown: Variant, views: Sequence[Array], row: Model, size: tuple[int, int]) -> float:
    """Return the repeatability of points and descriptors under a shift or a change of brightness, the lower one."""
    found = []
    for picture in views:
        here = _best(decode(shown.fed(tensor(view(picture, size), row.channels))))
        each = []
        for shift, gain in (((5, 3), 1.0), ((0, 0), 0.6)):
            image = view(picture, size, shift) * np.float32(gain) + np.float32(30 * (gain < 1))
            there = _best(decode(shown.fed(tensor(image.astype(np.uint8), row.channels))))
            each.append((moved(here[0], there[0], shift, size) + _matched(here, there, shift)) / 2)
        found.append(min(each))
    return float(np.mean(found))


def _best(found: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    points, scores, descriptors = found
    order = np.argsort(-scores, kind="stable")[:BEST]
    return np.asarray(points[order], np.float32), np.asarray(descriptors[order], np.float32)


def _matched(here: tuple[Array, Array], there: tuple[Array, Array], shift: tuple[int, int]) -> float:
    """Return the share of points with a mutual nearest descriptor at the right place."""
    (points, first), (others, second) = here, there
    if not len(points) or not len(others):
        return 0.0
    likeness = first @ second.T
    index = likeness.argmax(1)
    mutual = likeness.argmax(0)[index] == np.arange(len(points))
    right = np.hypot(*(others[index] - points - np.array(shift, np.float32)).T) <= 2 * NEAR
    return float((mutual & right).mean())


def choose(tried: Mapping[str, float], path: Path) -> str:
    """Choose the variant with the most repeatable points.

    Raises:
        BadInput: no variant has repeatable points.
        UsageError: several variants are equally good.
    """
    best = max(tried, key=lambda name: tried[name])
    shown = ", ".join(f"{name} {value:.2f}" for name, value in tried.items())
    if tried[best] == 0:
        raise BadInput(
            f"{path}: the decode gives no points on any image, with the inputs {', '.join(tried)}; if the network "
            f"takes another range, type `input=mean=M,std=S`; if heads are swapped, name them: `outputs=OUTPUT=HEAD`"
        )
    if tried[best] < LEAST:
        raise BadInput(
            f"{path}: no input gives points that come back when an image is shifted or dimmed (repeatability "
            f"{shown}); expected {LEAST:g}; is it another family? If you know its input, type: `input={best}`"
        )
    rivals = [name for name in tried if tried[best] - tried[name] < DECIDED]
    if len(rivals) > 1:
        options = " or ".join(f"`input={name}`" for name in rivals)
        raise UsageError(
            f"{path}: images do not decide the range of its input (repeatability {shown}); type what the "
            f"network was trained with: {options}; or compare with its checkpoint: `reference=CHECKPOINT`"
        )
    return best


def insert(model: ModelProto, shown: Variant) -> None:
    """Insert the conversion from values in 0..1, RGB, at the input of the graph, in place."""
    g, made = Graph(f"{graph.PREFIX}range."), INPUT
    if shown.bgr:
        made = g("Gather", made, [2, 1, 0], axis=1)
    mean, deviation = (np.array(side, np.float32).reshape(1, -1, 1, 1) for side in (shown.mean, shown.deviation))
    if mean.any():
        made = g("Sub", made, mean)
    if (deviation != 1).any():
        made = g("Mul", made, 1 / deviation)
    if made == INPUT:
        return
    inner = f"{graph.PREFIX}fed"
    onnx_model.retitle(model, {INPUT: inner})
    model.graph.input[0].name = INPUT
    graph.prepend(model, g, made, inner)


def notes_of(shown: Variant, tried: Mapping[str, float], figure: str) -> dict[str, Any]:
    """Return the notes for the card: the variant, and the figure of each variant that was tried."""
    measured = {name: round(value, 3) for name, value in tried.items()}
    return {"values": shown.name, **({figure: measured} if measured else {"given": True})}
