"""Types that all folders share: Features, Card, Artifact, Session."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lf.core.errors import BadInput, BadModel, LfError
from lf.core.steps import Step

Array = NDArray[Any]

CARD_SCHEMA = 2  # newest version that can be read
OPTIONAL = ("refine", "network", "classes")  # fields that most cards leave empty; with one of them a card has schema 2
MAX_PIXELS = 100_000_000  # largest image; headers with more pixels are refused before memory is allocated
Class = tuple[str, tuple[int, int, int]]  # name and RGB colour
FEATURES = ("keypoints", "scores", "descriptors")  # outputs of a file with the decoder in its graph


@dataclass(frozen=True)
class Segmentation:
    """Segmentation of an image: logits of the classes of its pixels.

    Attributes:
        logits: (classes, h, w) float32, at the network's own resolution.
        covers: (height, width) of the covered part of the original image, from its top left, px.
    """

    logits: Array
    covers: tuple[int, int]


@dataclass(frozen=True)
class Features:
    """The keypoints of one image.

    Attributes:
        keypoints: (N, 2) float32, x then y, pixels of the original image, pixel centres at integers.
        scores: (N,) float32, higher is better; `extract` returns them in descending order.
        descriptors: (N, D) float32; `extract` returns unit vectors.
        size: (width, height) of the original image, pixels.
        scales: (N,) float32 diameter of the supporting patch in pixels, or None.
        scored: False if a file of another tool has no scores; `scores` are then all 1.
        segmentation: segmentation of the image, if requested from the extractor.

    Raises:
        LfError: lengths differ, or an axis is missing.
        BadModel: a value is not finite.
    """

    keypoints: Array
    scores: Array
    descriptors: Array
    size: tuple[int, int]
    scales: Array | None = None
    scored: bool = True
    segmentation: Segmentation | None = None

    def __post_init__(self) -> None:
        """Cast to float32 and check the shapes."""
        for name in ("keypoints", "scores", "descriptors", "scales"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.ascontiguousarray(value, dtype=np.float32))
        n = self.keypoints.shape[0] if self.keypoints.ndim else 0
        if self.keypoints.shape != (n, 2) or self.scores.shape != (n,) or self.descriptors.shape[:1] != (n,):
            raise LfError(
                f"features do not fit together: keypoints {self.keypoints.shape}, scores {self.scores.shape}, "
                f"descriptors {self.descriptors.shape}; expected (N, 2), (N,), (N, D)"
            )
        if self.descriptors.ndim != 2 or (self.scales is not None and self.scales.shape != (n,)):
            raise LfError(f"features need descriptors (N, D) and scales (N,) or None, got {self.descriptors.shape}")
        for name in ("keypoints", "scores", "descriptors"):
            if not np.isfinite(getattr(self, name)).all():
                raise BadModel.not_finite(f"the array of {name}")

    def __len__(self) -> int:
        return len(self.keypoints)

    def top(self, k: int | None) -> Features:
        """Keep the `k` best scores, in descending order of score; equal scores keep their order. None keeps all."""
        order = np.argsort(-self.scores, kind="stable")[:k]
        return self.take(order)

    def take(self, index: Array) -> Features:
        """Keep the rows of `index` (int or bool (N,)), in that order."""
        scales = None if self.scales is None else self.scales[index]
        keypoints, scores, descriptors = self.keypoints[index], self.scores[index], self.descriptors[index]
        return replace(self, keypoints=keypoints, scores=scores, descriptors=descriptors, scales=scales)


@dataclass(frozen=True)
class Card:
    """Card: description and provenance of a model file, embedded in the file.

    Attributes:
        model: name of its row in MODELS.
        weights: {"origin", "sha256", "licence"} of the float weights everything else was made from.
        input: (C, H, W); None for a free size.
        scheme: "fp32", or a name of SCHEMES.
        outputs: name -> (channels, stride) of each raw map, in file order; with the decoder in the graph the FEATURES,
            as (2, 0), (1, 0) and (length of a descriptor, 0).
        made: one `Step` per command that made the file; objects with the keys of a step become steps.
        refine: sub-pixel method, see `lf.models.decode.refined`; empty leaves it to the network.
        network: description of a network that is not in MODELS, for `lf.models.own`; otherwise empty.
        classes: (name, (R, G, B)) of each class of its segmentation, in the order of the channels; empty without a
            segmentation or names.
        schema: version of this layout: 2 with a field of OPTIONAL, which an older lf would ignore, otherwise 1.
    """

    model: str
    weights: dict[str, str]
    input: tuple[int, int | None, int | None]
    scheme: str = "fp32"
    outputs: dict[str, tuple[int, int]] = field(default_factory=dict)
    made: tuple[Step, ...] = ()
    refine: str = ""
    schema: int = 1
    network: dict[str, Any] = field(default_factory=dict)
    classes: tuple[Class, ...] = ()

    def __post_init__(self) -> None:
        """Check the steps: Mismatch names a field that is missing or of another type."""
        steps = tuple(Step.parse(step, f"made[{index}]") for index, step in enumerate(self.made))
        object.__setattr__(self, "made", steps)
        object.__setattr__(self, "schema", 2 if any(getattr(self, name) for name in OPTIONAL) else 1)

    @property
    def size(self) -> tuple[int, int] | None:
        """Fixed input size (H, W) in pixels, or None if it is free."""
        _, height, width = self.input
        return (height, width) if height and width else None

    @property
    def features(self) -> bool:
        """True if the graph contains the decoder: outputs are features, not raw maps."""
        return tuple(self.outputs) == FEATURES

    def step(self, **changes: Any) -> Card:
        """Return a copy with `changes`; `made=` is appended as a step."""
        made = changes.pop("made", None)
        return replace(self, made=(*self.made, made) if made else self.made, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the object for `to_json`, keys in field order; keys of OPTIONAL only if they are not empty."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        there = {name: value for name, value in own.items() if value or name not in OPTIONAL}
        return {**there, "made": [step.to_dict() for step in self.made]}

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str, where: str) -> Card:
        """Read what `to_json` wrote.

        Raises:
            BadInput: not a card, or its schema is newer; the text names `where`.
        """
        try:
            data = json.loads(text)
            schema = int(data["schema"])
            if schema > CARD_SCHEMA:
                raise BadInput(f"{where}: its card has schema {schema}, this lf reads up to {CARD_SCHEMA}; upgrade lf")
            known = {f.name for f in fields(cls)}
            card = cls(**{k: v for k, v in data.items() if k in known})
            words = (card.model, card.scheme, card.refine, *{**card.weights}.values())
            if not all(isinstance(word, str) for word in words):
                raise TypeError(f"model, scheme, refine and weights should be words, they are {words}")
            channels, *sides = card.input
            height, width = (None if side is None else int(side) for side in sides)
            return replace(
                card,
                input=(int(channels), height, width),
                outputs={k: (int(c), int(s)) for k, (c, s) in card.outputs.items()},
                network={**card.network},
                classes=_classes(card),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BadInput(f"{where}: its embedded card is damaged ({error}); make the file again") from error


def _classes(card: Card) -> tuple[Class, ...]:
    """Check the class table of a card read from JSON.

    Raises:
        ValueError: an entry is not a name with a colour, or their number is not that of the channels.
    """
    found = tuple((name, (int(red), int(green), int(blue))) for name, (red, green, blue) in card.classes)
    if not all(isinstance(name, str) and 0 <= min(colour) <= max(colour) <= 255 for name, colour in found):
        raise ValueError("classes: expected a name and three levels from 0 to 255 each")
    channels = [int(count) for count, _ in card.outputs.values()]
    if found and not card.features and len(found) not in channels:
        raise ValueError(f"{len(found)} classes, and outputs of {', '.join(map(str, channels))} channels")
    return found


@dataclass(frozen=True)
class Artifact:
    """A model file and the card it carries."""

    path: Path
    card: Card

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the whole file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def bytes(self) -> int:
        """File size in bytes."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class SessionInfo:
    """The engine that runs: name, version, provider, threads, details."""

    engine: str
    version: str
    provider: str
    threads: int
    notes: dict[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """An opened model file with one method. It handles layout, dtype and quantized inputs and outputs itself."""

    info: SessionInfo

    def run(self, image: Array) -> dict[str, Array]:
        """Run on (B, C, H, W) float32 in [0, 1]: {head: (B, c, h, w) float32}, or FEATURES for B = 1, see `decode`."""
        ...
