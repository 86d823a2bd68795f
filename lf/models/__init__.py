"""MODELS: one row per network. The networks are torch and live in the named modules; decoding is numpy, in `decode`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lf.core import MAX_PIXELS, Array, Card, UsageError
from lf.models import decode, decode_kp2d

Decoder = Callable[..., tuple[Array, Array, Array]]
Describer = Callable[[Mapping[str, Array], Array], Array]

UNKNOWN_LICENCE = "unknown: see the publisher"


@dataclass(frozen=True)
class Model:
    """A network and how its raw maps become keypoints.

    Attributes:
        module: file in `lf.models` with `build(**options) -> torch.nn.Module` and
            `adopt(state) -> (row name, own state dict) | None`, which recognises a public checkpoint by its keys;
            None for a baseline without weights, which only the backend `opencv` runs.
        channels: 1 takes grey, 3 takes RGB.
        multiple: height and width must be multiples of this; `extract` cuts the right and bottom rest off.
        heads: output name -> (channels, stride), in output order.
        decode: (maps {name: (c, h, w)}, **settings) -> keypoints (N, 2) px, scores (N,), descriptors (N, D).
        describe: (maps, points (N, 2) px) -> unit descriptors (N, D) at any points, or None if it has no dense ones.
        settings: keyword arguments of `decode`: the published thresholds.
        keep_float: heads whose last convolutions stay float when quantized, because they were measured to be fragile.
        pyramid: arguments of the published multi-scale extraction, or None for a single scale.
        about: one line for `lf models`.
        parameters: trainable numbers.
        options: keyword arguments of `build`; for a baseline, what `lf.runtimes.opencv` makes it from.
        descriptor: the head of a network that holds its descriptors.
        maxima: the head whose 3x3 maxima are its points, where a pixel that loses still counts against its neighbours;
            None where suppression is greedy or there is none.
        licence: of its published weights.
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
    pyramid: Mapping[str, float] | None = None
    descriptor: str = "descriptor"
    maxima: str | None = None
    licence: str = UNKNOWN_LICENCE


_SUPERPOINT = {"threshold": 0.015, "nms_radius": 4, "border": 4}
_R2D2 = {"repeatability": 0.7, "reliability": 0.7}
_R2D2_PYRAMID = {"min_size": 256, "max_size": 1024, "min_scale": 0.0, "max_scale": 1.0, "top_k": 5000}
_R2D2_HEADS = {"descriptor": (128, 1), "reliability": (1, 1), "repeatability": (1, 1)}

_STRONGEST = {"detector": "SIFT", "contrastThreshold": 1e-5}  # every extremum; protocols take the strongest
_BASELINES: dict[str, tuple[int, Mapping[str, Any], str]] = {  # length of a descriptor, of which detector, what it is
    "sift": (128, _STRONGEST, "SIFT by OpenCV, contrast threshold 1e-5: the baseline of the papers"),
    "sift-1000": (
        128,
        {"detector": "SIFT", "nfeatures": 1000},
        "SIFT by OpenCV as it comes, 1000 features: what a program that needs features would call",
    ),
    "rootsift": (
        128,
        {**_STRONGEST, "root": True},
        "SIFT with the square roots of its L1-normalised descriptors (RootSIFT, CVPR 2012)",
    ),
    "orb": (
        256,
        {"detector": "ORB", "nfeatures": 1000},
        "ORB by OpenCV, 1000 features; its bits as +-1, so that dot products order as Hamming distances",
    ),
    "akaze": (486, {"detector": "AKAZE"}, "AKAZE by OpenCV where it has it (4, or 5 with contrib); bits as in orb"),
}


def _baseline(length: int, options: Mapping[str, Any], about: str) -> Model:
    return Model(
        module=None,
        options=options,
        channels=1,
        multiple=1,
        heads={"points": (4 + length, 1)},
        decode=decode.points,
        settings={},
        about=about,
        parameters=0,
    )


_TINY = {"widen": True, "slope": 0.0, "eps": 1e-3, "scale": 2.0, "dropout": 0.0, "linear_up": False}
_TINY_S = {**_TINY, "channels": (16, 32, 32, 64, 64), "up": 32, "depth": 32, "pools": 2}
_TINY_F = {**_TINY, "channels": (16, 32, 64, 128, 128), "up": 128, "depth": 64, "pools": 3}
_TINY_V3 = {**_TINY, "channels": (16, 32, 64, 64, 128), "up": 64, "depth": 128, "pools": 3}
_KEYPOINTNET = {"channels": (32, 64, 128, 256, 256), "up": 128, "depth": 256, "pools": 3}


def _kp2d(
    about: str,
    parameters: int,
    options: Mapping[str, Any],
    feat: tuple[int, int],
    cell: int = 8,
    multiple: int = 8,
    cross: bool = True,
    licence: str = UNKNOWN_LICENCE,
) -> Model:
    """A network with one point per cell of `cell` px, which may leave it if `cross`; `feat` is its descriptor head."""
    aligned = not options.get("resnet")
    return Model(
        module="kp2d",
        options=options,
        channels=3,
        multiple=multiple,
        heads={"score": (1, cell), "shift": (2, cell), "feat": feat},
        decode=partial(decode_kp2d.kp2d, cell=cell, align_corners=aligned),
        describe=partial(decode_kp2d.describe_kp2d, cell=cell, align_corners=aligned),
        settings={"threshold": 0.0, "cross": cross},
        keep_float=("score", "shift"),
        descriptor="feat",
        about=about,
        parameters=parameters,
        licence=licence,
    )


def _tiny(about: str, parameters: int, options: Mapping[str, Any], **changes: Any) -> Model:
    cell = 2 ** options["pools"]
    return _kp2d(about, parameters, {**options, **changes}, (options["depth"], cell // 2), cell, cell)


MODELS: dict[str, Model] = {
    "superpoint": Model(
        module="superpoint",
        channels=1,
        multiple=8,
        heads={"detector": (65, 8), "descriptor": (256, 8)},
        decode=decode.superpoint,
        describe=decode.describe_superpoint,
        settings=_SUPERPOINT,
        keep_float=("detector",),
        licence="Magic Leap: non-commercial research only, no redistribution",
        about="SuperPoint v1 (arXiv 1712.07629), the public 24-tensor state dict",
        parameters=1_300_865,
    ),
    "superpoint-bn": Model(
        module="superpoint",
        options={"batch_norm": True},
        channels=1,
        multiple=8,
        heads={"detector": (65, 8), "descriptor": (256, 8)},
        decode=decode.superpoint,
        describe=decode.describe_superpoint,
        settings=_SUPERPOINT,
        keep_float=("detector",),
        licence="MIT",
        about="SuperPoint with batch normalisation, as pytorch-superpoint trains it (.pth.tar)",
        parameters=1_304_067,
    ),
    "superpoint-small": Model(
        module="superpoint",
        options={"batch_norm": True, "width": 32},
        channels=1,
        multiple=8,
        heads={"detector": (65, 8), "descriptor": (256, 8)},
        decode=decode.wren,
        describe=decode.describe_wren,
        settings={"threshold": 0.01, "nms_radius": 4, "border": 4},
        keep_float=("detector",),
        about="superpoint-bn at half the width, decoded to sub-pixel as wren",
        parameters=352_899,
    ),
    "r2d2": Model(
        module="r2d2",
        channels=3,
        multiple=1,
        heads=_R2D2_HEADS,
        decode=decode.r2d2,
        describe=decode.describe_r2d2,
        settings=_R2D2,
        keep_float=("reliability", "repeatability"),
        pyramid=_R2D2_PYRAMID,
        maxima="repeatability",
        licence="CC BY-NC-SA 3.0",
        about="R2D2 N16 (arXiv 1906.06195)",
        parameters=484_387,
    ),
    "r2d2-big": Model(
        module="r2d2",
        options={"width": 6},
        channels=3,
        multiple=1,
        heads=_R2D2_HEADS,
        decode=decode.r2d2,
        describe=decode.describe_r2d2,
        settings=_R2D2,
        keep_float=("reliability", "repeatability"),
        pyramid=_R2D2_PYRAMID,
        maxima="repeatability",
        licence="CC BY-NC-SA 3.0",
        about="R2D2 N8 big: the same with 1.5 times the channels",
        parameters=1_038_899,
    ),
    "fast-r2d2": Model(
        module="r2d2",
        options={"fast": True},
        channels=3,
        multiple=2,
        heads=_R2D2_HEADS,
        decode=decode.r2d2,
        describe=decode.describe_r2d2,
        settings=_R2D2,
        keep_float=("reliability", "repeatability"),
        pyramid=_R2D2_PYRAMID,
        maxima="repeatability",
        licence="CC BY-NC-SA 3.0",
        about="Fast-R2D2 N16: half resolution inside, bilinear x2 before the heads",
        parameters=484_387,
    ),
    "kp2d": _kp2d("KP2D v4, KeypointNet (arXiv 1912.10615)", 5_312_227, {}, (256, 4), licence="MIT"),
    "kp2d-v1": _kp2d("KP2D v1: descriptors at the size of the cells", 4_131_555, {"upsample": False}, (256, 8)),
    "kp2d-v0": _kp2d(
        "KP2D v0: the same, and points stay in their cells", 4_131_555, {"upsample": False}, (256, 8), cross=False
    ),
    "kp2d-resnet": _kp2d(
        "KP2D on ResNet-18, KeypointResnet; the 17,451,243 of the reference count an unused classifier",
        16_938_243,
        {"resnet": True},
        (64, 2),
        multiple=32,
    ),
    "kp2dtiny-s": _tiny("KP2Dtiny S, with pixel shuffle", 386_099, _TINY_S),
    "kp2dtiny-s-coral": _tiny("KP2Dtiny S for the Edge TPU", 339_891, _TINY_S, nearest=True),
    "kp2dtiny-f": _tiny("KP2Dtiny F, with pixel shuffle", 1_845_779, _TINY_F),
    "kp2dtiny-f-coral": _tiny("KP2Dtiny F for the Edge TPU", 1_550_355, _TINY_F, nearest=True),
    "kp2dtiny-v3": _tiny("KP2Dtiny V3, with pixel shuffle", 736_915, _TINY_V3),
    "kp2dtiny-baseline": _tiny(
        "KP2Dtiny baseline: KeypointNet with steeper leaks", 5_312_227, _TINY | _KEYPOINTNET, widen=False, slope=0.3
    ),
    "wren": Model(
        module="wren",
        channels=1,
        multiple=8,
        heads={"detector": (65, 8), "descriptor": (64, 8)},
        decode=decode.wren,
        describe=decode.describe_wren,
        settings={"threshold": 0.01, "nms_radius": 4, "border": 4},
        keep_float=("detector",),
        about="the default of lf: strided grey network of 0.5 M parameters, made for int8 on small CPUs",
        parameters=466_241,
    ),
    **{name: _baseline(*row) for name, row in _BASELINES.items()},
}

NETWORKS = {name: model for name, model in MODELS.items() if model.module}


def row_of(card: Card) -> Model:
    """The row of a file's network; where the file decodes in its graph, one that reads features, at one scale."""
    row = MODELS[card.model]
    return replace(row, decode=decode.features, describe=None, settings={}, pyramid=None) if card.features else row


def check_size(size: tuple[int, int] | None, model: Model, name: str) -> None:
    """Raise UsageError if a side is not a positive multiple of what the network needs, or the picture far too large."""
    step = model.multiple
    if size and size[0] * size[1] > MAX_PIXELS:
        raise UsageError(f"--size {size[0]}x{size[1]}: expected at most {MAX_PIXELS // 1_000_000} million pixels")
    if size and (min(size) < step or any(side % step for side in size)):
        fits = "x".join(str(max(step, round(side / step) * step)) for side in size)
        raise UsageError(f"--size {size[0]}x{size[1]}: {name} needs multiples of {step}; for example --size {fits}")
