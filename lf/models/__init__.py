"""MODELS: one row per network. A family is a folder: rows, network (torch), decoders (numpy and ONNX)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from lf.core import MAX_PIXELS, Artifact, BadInput, Card, UsageError, pick
from lf.models import (
    alike,
    aliked,
    disk,
    edgepoint2,
    features,
    kp2d,
    opencv,
    own,
    posfeat,
    r2d2,
    superpoint,
    swift,
    wren,
    xfeat,
)
from lf.models.decode import REFINEMENTS as REFINEMENTS
from lf.models.row import COUNTED as COUNTED
from lf.models.row import SEGMENTATION as SEGMENTATION
from lf.models.row import UNKNOWN_LICENCE as UNKNOWN_LICENCE
from lf.models.row import Model as Model

DEFAULT = "swift"  # the network that demo, gate and documents use
FAMILIES = (superpoint, r2d2, kp2d, edgepoint2, alike, aliked, xfeat, disk, posfeat, swift, wren, opencv)

MODELS: dict[str, Model] = {name: row for family in FAMILIES for name, row in family.ROWS.items()}

NETWORKS = {name: model for name, model in MODELS.items() if model.module}


def row_of(card: Card) -> Model:
    """Return the row of a file's network, from MODELS or from the description in its card, with the card's changes.

    The number of classes of a segmentation is that of the card's outputs. For files with the decoder in the graph, the
    row reads features, at a single scale.

    Raises:
        BadInput: the card has a refinement that the network does not.
    """
    row = own.row(card.model, card.network) if card.network else MODELS[card.model]
    row = row.for_classes(card.outputs.get(SEGMENTATION, (None,))[0])
    if card.refine and ("refine" not in row.settings or card.refine not in REFINEMENTS):
        raise BadInput(f"its card says refine '{card.refine}', which {card.model} does not have; make the file again")
    if card.features:
        return replace(row, decode=features.features, describe=None, settings={}, pyramid=None)
    return replace(row, settings={**row.settings, "refine": card.refine}) if card.refine else row


def check_refinement(refine: str, card: Card, where: str) -> str:
    """Return `refine` after checking that the file supports this refinement.

    Raises:
        UsageError: unknown refinement, or the network has no score map, or the decoder is in the graph.
    """
    pick(dict.fromkeys(REFINEMENTS), refine, "refinement")
    if card.features:
        raise UsageError(f"`refine={refine}`: {where} contains its decoder; start from the file that it was made from")
    if "refine" not in row_of(card).settings:
        raise UsageError(f"`refine={refine}`: {card.model} gives its points, no score map; leave `refine` out")
    return refine


def settings_of(extraction: str, card: Card, where: str) -> Mapping[str, Any]:
    """Return the settings of a published extraction of a network by name.

    Raises:
        UsageError: the network has no extraction of that name, or the decoder is in the graph.
    """
    known = row_of(card).extractions
    if card.features:
        raise UsageError(
            f"`extraction={extraction}`: {where} contains its decoder; start from the file that it was made from"
        )
    if not known:
        some = ", ".join(name for name, row in MODELS.items() if row.extractions)
        raise UsageError(
            f"`extraction={extraction}`: {card.model} has no extraction but pyramid; named ones have {some}"
        )
    return pick(known, extraction, f"extraction of {card.model}")


def check_threshold(threshold: float, card: Card, where: str) -> float:
    """Return `threshold` after checking that the decoder can use it as smallest score of a point.

    Raises:
        UsageError: the decoder has no threshold or is in the graph, or no score can reach the number.
    """
    row, asked = row_of(card), f"`threshold={threshold:g}`"
    if card.features:
        raise UsageError(f"{asked}: {where} contains its decoder; leave `threshold` out")
    if "threshold" not in row.settings:
        raise UsageError(f"{asked}: the decode of {card.model} has no single threshold; leave `threshold` out")
    if not (0 <= threshold < row.loudest and isfinite(threshold)):
        below = f" and below {row.loudest:g}" if isfinite(row.loudest) else ""
        published = row.settings["threshold"]
        raise UsageError(f"{asked}: expected a score from 0{below}; {card.model} has {published:g} without `threshold`")
    return threshold


def check_size(size: tuple[int, int] | None, model: Model, name: str) -> None:
    """Raise UsageError if a side is not a positive multiple of the network's, or the image is far too large."""
    step = model.multiple
    if size and size[0] * size[1] > MAX_PIXELS:
        raise UsageError(f"`size={size[0]}x{size[1]}`: expected at most {MAX_PIXELS // 1_000_000} million pixels")
    if size and (min(size) < step or any(side % step for side in size)):
        fits = "x".join(str(max(step, round(side / step) * step)) for side in size)
        raise UsageError(f"`size={size[0]}x{size[1]}`: {name} needs multiples of {step}; for example `size={fits}`")


def check_tflite(artifact: Artifact) -> None:
    """Raise UsageError if its network cannot become a TFLite file."""
    if "tflite" in row_of(artifact.card).not_on:
        raise UsageError(
            f"{artifact.path}: no TFLite file can be made of {artifact.card.model}, TFLite lacks an operator that it "
            "needs; run its .onnx file, for example with `backend=ort-cpu`"
        )
