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

SEGMENTATION = "segmentation"  # the head with a channel per class
CLASS_LAYER = "segmentation.out.bias"  # tensor of a network with a number per class
UNKNOWN_LICENCE = "unknown: see the publisher"
COUNTED = (480, 640)  # H, W of the image for `multiply_adds`


@dataclass(frozen=True)
class Model:
    """A network, and the decoder of its raw maps to keypoints.

    Attributes:
        module: dotted name of the module of the network: `build(**options) -> torch.nn.Module` and
            `adopt(state) -> (row name, own state dict) | None`, which recognises a public checkpoint by its keys.
            None for a baseline without weights, which only the backend `opencv` runs.
        channels: input channels: 1 is grey, 3 is RGB, unless `prepare` makes the input.
        multiple: height and width are multiples of this; `extract` crops the image at the right and the bottom, unless
            `prepare` fits it.
        heads: output name -> (channels, stride), in output order. A stride of 0 marks weights of the decoder,
            (1, channels, rows, columns), the same for every image.
        decode: (maps {name: (c, h, w)}, **settings, top_k) -> keypoints (N, 2) px, scores (N,), descriptors (N, D).
        describe: (maps, points (N, 2) px) -> unit descriptors (N, D) at any points; None without dense descriptors.
        settings: keyword arguments of `decode`: the published thresholds.
        keep_float: heads with last convolutions that stay float when quantized; they were measured to be fragile.
        float_layers: prefixes of the names of other convolutions that stay float.
        pyramid: arguments of the published multi-scale extraction, or None for a single scale.
        about: one line for `lf models`.
        parameters: number of trainable parameters.
        multiply_adds: multiply-adds of the network for an image of COUNTED; a test counts them and prints the number.
        options: keyword arguments of `build`; for a baseline, those of `lf.runtimes.opencv`.
        descriptor: the head with the descriptors.
        maxima: the head with keypoints at its local maxima by the max-filter rule (`peaks.local_maxima`). With one
            channel per pixel of a square, its squares are unfolded first; 65 channels are those of SuperPoint. None if
            suppression is greedy or missing. The setting `radius` is the radius of maxima, 1 by default.
        licence: licence of its published weights.
        code_licence: licence of its published code.
        source: source of its published weights, `PUBLISHER OWNER/NAME, FILE`; "" if there are none.
        not_on: rows of BACKENDS that cannot run it; the conformance suite checks that they refuse it.
        on_cpu: kinds of operators of its int8 TFLite file that stay on the CPU, as `lf check` predicts after `--fix`;
            None if no such file was made.
        decode_onnx: `MODULE:FUNCTION` that builds the same decoder inside an ONNX graph, or None.
        prepare: image (H, W, 3) RGB in [0, 1] -> input (channels, h, w) with sides that fit; None if the network takes
            the image itself. It runs on the host, in float, before every engine.
        extractions: name -> settings of a published extraction, which replace `settings`; `top_k` is the largest number
            of keypoints.
        loudest: upper limit of scores; 1 for probabilities.
        pads: side at which `prepare` pads to the next multiples: `end` is right and bottom; `both` sides, with the
            smaller half at the left and the top. Maps at full size are cut to the image. Empty: `prepare` resizes down
            to multiples, and points are mapped back by W / w and H / h, as published.
        parent: row of the same network without its segmentation, for initial weights of training; otherwise "".
        per_class: number of parameters for each class of the segmentation; 0 without a segmentation. The number of
            classes differs from file to file.
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
        """Number of classes of the segmentation; 0 without a segmentation."""
        return self.heads[SEGMENTATION][0] if self.per_class else 0

    def for_classes(self, count: int | None) -> Model:
        """Return the row for `count` classes; it does not change for None or without a segmentation."""
        if not self.per_class or not count or count == self.classes:
            return self
        heads = {**self.heads, SEGMENTATION: (count, self.heads[SEGMENTATION][1])}
        parameters = self.parameters + (count - self.classes) * self.per_class
        return replace(self, heads=heads, options={**self.options, "classes": count}, parameters=parameters)

    @property
    def colours(self) -> int:
        """Channels of the images before `prepare`: 1 for grey, 3 for RGB."""
        return 3 if self.prepare else self.channels

    @property
    def family(self) -> str:
        """Name of the folder of the network, or of its module if it has no folder; "" for a baseline."""
        return self.module.split(".")[-2:][0] if self.module else ""

    @property
    def length(self) -> int:
        """Length of a descriptor; in bits if it is binary."""
        return self.heads[self.descriptor][0] if self.descriptor in self.heads else self.heads["points"][0] - 4

    def fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the input size (H, W) of the network for an image of `size`, after cropping, resizing or padding."""
        more = self.multiple - 1 if self.pads else 0
        height, width = ((side + more) // self.multiple * self.multiple for side in size)
        return height, width

    def cut(self, maps: Mapping[str, Array], size: tuple[int, int]) -> Mapping[str, Array]:
        """Return the maps of an image of `size` (H, W), with padding removed from maps at full size."""
        if not self.pads:
            return maps
        room = (whole - side for whole, side in zip(self.fitted(size), size, strict=True))
        top, left = (each // 2 if self.pads == "both" else 0 for each in room)
        inner = slice(top, top + size[0]), slice(left, left + size[1])
        return {name: maps[name][:, *inner] if self.heads[name][1] == 1 else maps[name] for name in maps}

    def build(self) -> nn.Module:
        """Build the network with fresh weights."""
        network: nn.Module = importlib.import_module(self.module or "").build(**self.options)
        return network
