"""Recipe: settings of a training run, changed by `--set`.

It is a dataclass, not a pydantic model: rules use several settings at once, and an error is one line that names the
setting as the user types it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lf.core import UsageError, pick
from lf.models import MODELS

ABOVE_ZERO = (  # every other number may be 0
    *("steps", "batch", "lr", "picture_size", "size"),
    *("scale", "adaptations", "temperature", "io_points", "patch_ratio", "trials"),
    *("cell", "line_steps", "search_window", "mask", "max_turn"),
)
GIVEN = ("model", "method", "about", "data", "settings")  # identify the recipe; all other fields can be overridden

BITS = {"weight_bits": (0, 3, 4, 8), "activation_bits": (0, 8)}  # 0 leaves them float

CHOICES: dict[str, tuple[str, ...]] = {  # values of settings that are words; METHOD.NAME for a single method
    "optimiser": ("adamw", "adam", "sgd", "sgd-plain"),
    "schedule": ("cosine", "step", "constant"),
    "view_pairs": ("wide", "published"),
    "detector_loss": ("categorical", "binary", "l2"),
    "corner_labels": ("trusted", "soft", "drawn"),
    "magicpoint.corner_labels": ("soft", "drawn"),
    "repeat_loss": ("cosim", "dice", "jaccard", "czekanowski", "sqchord"),
    "patch_norm": ("auto", "l2", "l1", "none"),
    "reliability_loss": ("ap", "hardnet"),
    "source": ("synthetic", "flow", "both"),
    "descriptor_loss": ("dual-softmax", "sparse", "dense"),
    "matchability": ("found", "none", "reward"),
    "rivals": ("batch", "pair"),
    "batch_loss": ("per_pair", "published"),
    "kp2d.descriptor_loss": ("triplet", "dual-softmax"),
    "trunk": ("joint", "detached", "frozen"),
    "keypoints": ("labels", "parent"),
    "segmentation_loss": ("cross-entropy", "dice", "dice-fork", "cross-entropy+dice"),
}

# published recipes have no warm-up, gradient clipping or half precision
PLAIN: dict[str, Any] = {"optimiser": "adam", "schedule": "constant", "warmup": 0, "clip": 0.0, "bf16": False}

Rule = Callable[[Any, Mapping[str, Any]], bool]  # of the value of a setting, and all settings

RULES: dict[str, tuple[Rule, str]] = {  # conditions on settings, and the text that an error gives as expected
    "relabel": (lambda value, _: max(value, default=0) < 1, "shares of the run below 1, as 0.3,0.6"),
    "ema": (lambda value, _: value < 1, "below 1"),
    "points": (lambda value, given: value or given.get("descriptor_loss") != "sparse", "at least 1 for sparse"),
    "patch_ratio": (lambda value, _: value <= 1, "at most 1"),
    "scaling": (lambda value, _: value < 2, "below 2"),
    "perspective": (lambda value, given: value < 2 * given["patch_ratio"], "below twice patch_ratio"),
    "jitter": (lambda value, _: len(value) == 4, "brightness, contrast, saturation, hue, as 0.2,0.2,0.2,0.1"),
    "window": (lambda value, given: 2 <= value <= min(given["size"]), "from 2 to the shorter side of a view"),
    "bins": (lambda value, _: value >= 2, "at least 2"),
    "shorter": (lambda value, _: len(value) == 2, "two sides in px, as 256,1024"),
    "batch": (
        lambda value, given: value >= 2 or "segmentation_loss" not in given,
        "at least 2: batch normalisation learns nothing from one value, and the head pools each image to one value",
    ),
    "trunk": (
        lambda value, given: value == "joint" or not given["weight_bits"],
        "joint where weights have few bits",
    ),
    "keypoints": (
        lambda value, given: (
            value == "labels" or given["trunk"] == "frozen" or bool(given["init"] and not given["weight_bits"])
        ),
        "`keypoints=labels`, or a float network and `init=CHECKPOINT`, whose keypoints stay",
    ),
    "init": (
        lambda value, given: value or given.get("trunk") != "frozen",
        "a checkpoint, whose trunk stays as it is: `change=init=CHECKPOINT`, or `change=trunk=joint`",
    ),
    "labels": (
        lambda value, given: value != "teacher" or given.get("teacher") != "",
        "`labels=corners`, or the teacher that finds them: `change=teacher=CHECKPOINT`",
    ),
    "flow": (lambda value, given: value or given["source"] == "synthetic", "the folder of the pairs with flow"),
}


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run; all are stored in the card of the weights.

    Attributes:
        model: row of MODELS.
        method: file in `lf.train.methods` with a class `Method(recipe, pictures, device)`, or the dotted name of such
            a module of another package.
        about: one line for `lf train --help`.
        data: default source of images, see `lf.train.pictures.collect`.
        steps: optimiser steps.
        batch: pairs of views per step, over all processes.
        size: (H, W) of a view, pixels; `size=240x320`, or one number for a square.
        lr: peak learning rate; linear warm-up over `warmup` steps, then the schedule.
        optimiser: adamw, adam (weight decay as L2, as in published recipes), sgd (momentum 0.9) or sgd-plain (no
            momentum).
        schedule: `cosine` to zero; `step`: multiply the rate by `decay` after each of the `decay_steps`; `constant`.
        clip: largest gradient norm; 0 does not clip.
        ema: decay per step of the running mean of the weights, which becomes the result; 0 takes the last weights.
        pictures: number of squares drawn, or cut from photos, before the first step; 0 takes every photo once.
        picture_size: side of a square, pixels.
        seed: seed of the weights, the images and all views.
        bf16: run the network in bfloat16 (losses stay float32).
        init: checkpoint or shipped weights to fine-tune; empty starts from fresh weights.
        weight_bits: bits of convolution weights in quantization-aware training: 3, 4 or 8, see
            `lf.train.fake_quantize`; 0 trains a float network.
        activation_bits: bits of activations: 8; 0 leaves them float.
        settings: settings of the method; its docstring explains them.
    """

    model: str
    method: str
    about: str
    steps: int
    batch: int
    size: tuple[int, int]
    lr: float
    optimiser: str = "adamw"
    schedule: str = "cosine"
    decay: float = 0.5
    decay_steps: tuple[int, ...] = ()
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 5.0
    ema: float = 0.0
    pictures: int = 1_500
    picture_size: int = 320
    seed: int = 1
    bf16: bool = True
    init: str = ""
    weight_bits: int = 0
    activation_bits: int = 0
    data: str = "procedural"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the settings, so that no run fails in the middle.

        Raises:
            UsageError: a number is not finite, too small, or an unsupported number of bits; a size does not fit;
                a word is unknown; or a rule is broken.
        """
        row = pick(MODELS, self.model, "model")
        multiple = row.multiple
        if row.prepare:
            raise UsageError(
                f"recipe: model={self.model} prepares images on the host; expected one that does not: lf models"
            )
        given = self.flat()
        for name, value in given.items():
            numbers = [n for n in (value if isinstance(value, tuple) else (value,)) if isinstance(n, int | float)]
            least, expected = (1e-300, "above") if name in ABOVE_ZERO else (0.0, "from")
            if not all(least <= number < math.inf for number in numbers):
                raise UsageError(f"recipe: {name}={show(name, value)}; expected a number {expected} 0")
            if name == "size" and any(side % multiple for side in value):
                raise UsageError(f"recipe: {name}={show(name, value)}; {self.model} needs multiples of {multiple}")
            if words := CHOICES.get(f"{self.method}.{name}", CHOICES.get(name)):
                pick(dict.fromkeys(words), value, name)
            if name in RULES and not RULES[name][0](value, given):
                raise UsageError(f"recipe: {name}={show(name, value)}; expected {RULES[name][1]}")
            if name in BITS and value not in BITS[name]:
                raise UsageError(f"recipe: {name}={value}; expected one of {', '.join(map(str, BITS[name]))}")
        if self.activation_bits and not self.weight_bits:
            raise UsageError(f"recipe: activation_bits={self.activation_bits} needs weight_bits too, for example 8")

    def flat(self) -> dict[str, Any]:
        """Return all settings that `--set` can change, by name."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in GIVEN}
        return {**own, **self.settings}

    def override(self, assignments: Sequence[str]) -> Recipe:
        """Apply `key=value` assignments; each value is parsed as the type of the current value.

        Raises:
            UsageError: the key is unknown, or the value has another type or is out of range.
        """
        changes = dict(self._parse(text) for text in assignments)
        settings = {key: changes.pop(key, value) for key, value in self.settings.items()}
        return dataclasses.replace(self, settings=settings, **changes)

    def _parse(self, text: str) -> tuple[str, Any]:
        key, _, value = text.partition("=")
        known = self.flat()
        default = pick(known, key, "recipe setting")
        try:
            return key, _read(key, value, default)
        except (ValueError, KeyError) as error:
            kind = {"size": "HxW", "tuple": "numbers"}.get(key, type(default).__name__.replace("tuple", "numbers"))
            raise UsageError(
                f"`change={text}`: expected {key}=<{kind}>, for example {key}={show(key, default)}"
            ) from error


def _read(key: str, value: str, default: Any) -> Any:
    if key == "size":
        sides = [int(side) for side in value.split("x")]
        height, width = sides if len(sides) > 1 else sides * 2
        return height, width
    if isinstance(default, bool):
        return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
    if isinstance(default, tuple):
        kind = int if key == "decay_steps" else float
        return tuple(kind(v) for v in value.split(",") if v)
    return type(default)(value)


def show(name: str, value: Any) -> str:
    """Format the value of a setting as `--set` takes it."""
    return ("x" if name == "size" else ",").join(map(str, value)) if isinstance(value, tuple) else str(value)
