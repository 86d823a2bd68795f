"""Model: one row of MODELS."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lf.core import Array

if TYPE_CHECKING:
    from torch import nn

Decoder = Callable[..., tuple[Array, Array, Array]]
Describer = Callable[[Mapping[str, Array], Array], Array]

SEGMENTATION = "segmentation"  # the head whose channels are classes
CLASS_LAYER = "segmentation.out.bias"  # tensor of a network with as many numbers as it has classes
UNKNOWN_LICENCE = "unknown: see the publisher"
COUNTED = (480, 640)  # H, W of the picture that `multiply_adds` is of


@dataclass(frozen=True)
class Model:
    """A network and how its raw maps become keypoints.

    Attributes:
        module: dotted name of the module of the network: `build(**options) -> torch.nn.Module` and
            `adopt(state) -> (row name, own state dict) | None`, which recognises a public checkpoint by its keys.
            None for a baseline without weights, which only the backend `opencv` runs.
        channels: of what the network takes: 1 is grey, 3 is RGB, unless `prepare` makes it.
        multiple: height and width must be multiples of this; `extract` cuts the right and bottom rest off, unless
            `prepare` fits the picture.
        heads: output name -> (channels, stride), in output order; the stride is 0 where an output holds weights of the
            decode, (1, channels, rows, columns), the same for every picture.
        decode: (maps {name: (c, h, w)}, **settings, top_k) -> keypoints (N, 2) px, scores (N,), descriptors (N, D).
        describe: (maps, points (N, 2) px) -> unit descriptors (N, D) at any points, or None if it has no dense ones.
        settings: keyword arguments of `decode`: the published thresholds.
        keep_float: heads whose last convolutions stay float when quantized, because they were measured to be fragile.
        float_layers: what the names of convolutions begin with that stay float as well.
        pyramid: arguments of the published multi-scale extraction, or None for a single scale.
        about: one line for `lf models`.
        parameters: trainable numbers.
        multiply_adds: of the network for a picture of COUNTED; a test counts them, and says what to type here.
        options: keyword arguments of `build`; for a baseline, what `lf.runtimes.opencv` makes it from.
        descriptor: the head of a network that holds its descriptors.
        maxima: the head whose local maxima are its points, where a pixel that loses still counts against its
            neighbours; with one channel per pixel of a square it is laid out first, and 65 are SuperPoint's. None where
            suppression is greedy or there is none. The setting `radius` says how far maxima reach, 1 without it.
        licence: of its published weights.
        code_licence: of its published code.
        source: where its published weights are, `PUBLISHER OWNER/NAME, FILE`; "" if nobody publishes any.
        not_on: rows of BACKENDS that cannot run it; the conformance suite checks that they refuse it.
        on_cpu: kinds of operators of its int8 TFLite file that the Edge TPU does not take, as `lf check` predicts once
            `--fix` has repaired what it can; None where no such file was made.
        decode_onnx: `MODULE:FUNCTION` that builds the same decode inside an ONNX graph, or None if there is none.
        prepare: picture (H, W, 3) RGB in [0, 1] -> (channels, h, w) that the network takes, of sides that fit it; None
            where it takes the picture itself. The host does it in float, in front of every engine.
        extractions: name -> settings of a published extraction, which replace those of `settings`; with `top_k`, the
            most keypoints.
        loudest: no score of its decode is larger; 1 for probabilities.
        pads: what `prepare` adds up to the next multiples lies at the `end`, right and bottom, or at `both` sides, the
            smaller half at the left and the top; maps of every pixel are cut to the picture. Where it is empty,
            `prepare` stretches down to the multiples below, and points go back by W / w and H / h, as published.
        parent: row of the same network without its segmentation, whose weights training starts from; else "".
        per_class: parameters for each class of the segmentation, whose number differs from file to file; 0 where there
            is no segmentation.
    """

    module: str | None
    channels: int
    multiple: int
    heads: Mapping[str, tuple[int, int]]
    decode: Decoder
    settings: Mapping[str, Any]
    about: str
    parameters: int
    options: Mapping[str, Any] = field(default_factory=dict)
    describe: Describer | None = None
    keep_float: tuple[str, ...] = ()
    float_layers: tuple[str, ...] = ()
    pyramid: Mapping[str, float] | None = None
    descriptor: str = "descriptor"
    maxima: str | None = None
    licence: str = UNKNOWN_LICENCE
    code_licence: str = UNKNOWN_LICENCE
    source: str = ""
    multiply_adds: int = 0
    not_on: tuple[str, ...] = ()
    on_cpu: tuple[str, ...] | None = None
    decode_onnx: str | None = None
    prepare: Callable[[Array], Array] | None = None
    pads: Literal["", "end", "both"] = ""
    extractions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    loudest: float = 1.0
    parent: str = ""
    per_class: int = 0

    @property
    def classes(self) -> int:
        """Number of classes of the segmentation; 0 where there is none."""
        return self.heads[SEGMENTATION][0] if self.per_class else 0

    def for_classes(self, count: int | None) -> Model:
        """The row of a network for `count` classes; None, or no segmentation, leaves the row as it is."""
        if not self.per_class or not count or count == self.classes:
            return self
        heads = {**self.heads, SEGMENTATION: (count, self.heads[SEGMENTATION][1])}
        parameters = self.parameters + (count - self.classes) * self.per_class
        return replace(self, heads=heads, options={**self.options, "classes": count}, parameters=parameters)

    @property
    def colours(self) -> int:
        """Of the pictures that it is shown: 1 for grey, 3 for RGB."""
        return 3 if self.prepare else self.channels

    @property
    def family(self) -> str:
        """Name of the folder of the network, or of its module where that is in none; "" for a baseline."""
        return self.module.split(".")[-2:][0] if self.module else ""

    @property
    def length(self) -> int:
        """Numbers in a descriptor; bits, where it is binary."""
        return self.heads[self.descriptor][0] if self.descriptor in self.heads else self.heads["points"][0] - 4

    def fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (H, W) that the network is shown of a picture of `size`, whose rest is cut off, stretched or padded."""
        more = self.multiple - 1 if self.pads else 0
        height, width = ((side + more) // self.multiple * self.multiple for side in size)
        return height, width

    def cut(self, maps: Mapping[str, Array], size: tuple[int, int]) -> Mapping[str, Array]:
        """The maps of a picture (H, W) of `size`, those of every pixel without what `pads` added."""
        if not self.pads:
            return maps
        room = (whole - side for whole, side in zip(self.fitted(size), size, strict=True))
        top, left = (each // 2 if self.pads == "both" else 0 for each in room)
        inner = slice(top, top + size[0]), slice(left, left + size[1])
        return {name: maps[name][:, *inner] if self.heads[name][1] == 1 else maps[name] for name in maps}

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        network: nn.Module = importlib.import_module(self.module or "").build(**self.options)
        return network
