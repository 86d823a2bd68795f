"""MODELS: one row per network. A family is a folder: rows, network (torch), decoders (numpy and ONNX)."""

from __future__ import annotations

from dataclasses import replace

from lf.core import MAX_PIXELS, Card, UsageError
from lf.models import features, kp2d, opencv, r2d2, superpoint, swift, wren
from lf.models.row import UNKNOWN_LICENCE as UNKNOWN_LICENCE
from lf.models.row import Model as Model

DEFAULT = "wren"  # the network that demo, gate and documents use
FAMILIES = (superpoint, r2d2, kp2d, swift, wren, opencv)

MODELS: dict[str, Model] = {name: row for family in FAMILIES for name, row in family.ROWS.items()}

NETWORKS = {name: model for name, model in MODELS.items() if model.module}


def row_of(card: Card) -> Model:
    """The row of a file's network; where the file decodes in its graph, one that reads features, at one scale."""
    row = MODELS[card.model]
    return replace(row, decode=features.features, describe=None, settings={}, pyramid=None) if card.features else row


def check_size(size: tuple[int, int] | None, model: Model, name: str) -> None:
    """Raise UsageError if a side is not a positive multiple of what the network needs, or the picture far too large."""
    step = model.multiple
    if size and size[0] * size[1] > MAX_PIXELS:
        raise UsageError(f"`size={size[0]}x{size[1]}`: expected at most {MAX_PIXELS // 1_000_000} million pixels")
    if size and (min(size) < step or any(side % step for side in size)):
        fits = "x".join(str(max(step, round(side / step) * step)) for side in size)
        raise UsageError(f"`size={size[0]}x{size[1]}`: {name} needs multiples of {step}; for example `size={fits}`")
