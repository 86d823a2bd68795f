"""RECIPES: one frozen dataclass per training run. A method is a file: its batches and its loss; the loop is shared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lf.core import UsageError, pick
from lf.models import MODELS

ZERO = ("warmup", "weight_decay", "seed", "bf16", "descriptor_weight")  # the numbers of a recipe that may be 0
GIVEN = ("model", "method")  # what makes it that recipe; all else can be overridden


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of; everything here is stored in the card of the weights.

    Attributes:
        model: row of MODELS.
        method: file in `lf.train` with a class `Method(recipe, pictures, device)`.
        steps: optimiser steps.
        batch: pairs of views per step.
        size: side of a square view, pixels.
        lr: peak learning rate of AdamW; linear warm-up over `warmup` steps, then a cosine to zero.
        clip: largest gradient norm.
        pictures: how many pictures are drawn (or read) before the first step.
        picture_size: side of a picture, pixels.
        seed: of the weights, the pictures and every view.
        bf16: run the network in bfloat16 (losses stay float32).
        relabel: fractions of the run at which the network labels the pictures anew.
        points: correspondences per pair that enter the descriptor loss.
    """

    model: str
    method: str
    steps: int = 12_000
    batch: int = 8
    size: int = 160
    lr: float = 2e-3
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 5.0
    pictures: int = 1_500
    picture_size: int = 320
    seed: int = 1
    bf16: bool = True
    relabel: tuple[float, ...] = (0.3, 0.6)
    adaptations: int = 6
    points: int = 256
    temperature: float = 0.07
    descriptor_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what would fail in the middle of a run.

        Raises:
            UsageError: a number is not finite or too small, or a size does not fit the network.
        """
        multiple = pick(MODELS, self.model, "model").multiple
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, int | float) and not (0 <= value < math.inf and (value or name in ZERO)):
                raise UsageError(f"recipe: {name}={value}; expected a number {'from' if name in ZERO else 'above'} 0")
            if name in ("size", "picture_size") and value % multiple:
                raise UsageError(f"recipe: {name}={value}; {self.model} needs a multiple of {multiple}")

    def override(self, assignments: Sequence[str]) -> Recipe:
        """Apply `key=value` assignments, each parsed by the type of the field.

        Raises:
            UsageError: unknown key, or a value of another type or out of range.
        """
        return dataclasses.replace(self, **dict(self._parse(text) for text in assignments))

    def _parse(self, text: str) -> tuple[str, Any]:
        key, _, value = text.partition("=")
        known = {f.name: None for f in dataclasses.fields(self) if f.name not in GIVEN}
        pick(known, key, "recipe setting")
        kind = type(getattr(self, key))
        try:
            if kind is bool:
                return key, {"true": True, "false": False, "1": True, "0": False}[value.lower()]
            if kind is tuple:
                return key, tuple(float(v) for v in value.split(",") if v)
            return key, kind(value)
        except (ValueError, KeyError) as error:
            raise UsageError(
                f"--set {text}: expected {key}=<{kind.__name__}>, for example {key}={getattr(self, key)}"
            ) from error


RECIPES: dict[str, Recipe] = {
    "wren": Recipe(model="wren", method="wren"),
}
