"""KP2D (arXiv 1912.10615) and KP2Dtiny: rows of the family."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lf.models.kp2d.decode import describe_kp2d, kp2d
from lf.models.row import UNKNOWN_LICENCE, Model

_TINY = {"widen": True, "slope": 0.0, "eps": 1e-3, "scale": 2.0, "dropout": 0.0, "linear_up": False}
_TINY_S = {**_TINY, "channels": (16, 32, 32, 64, 64), "up": 32, "depth": 32, "pools": 2}
_TINY_F = {**_TINY, "channels": (16, 32, 64, 128, 128), "up": 128, "depth": 64, "pools": 3}
_TINY_V3 = {**_TINY, "channels": (16, 32, 64, 64, 128), "up": 64, "depth": 128, "pools": 3}
_ARCHIVE = "GitHub TRI-ML/KP2D, pretrained_models.tar.gz"
_KEYPOINTNET = {"channels": (32, 64, 128, 256, 256), "up": 128, "depth": 256, "pools": 3}


def _kp2d(
    about: str,
    parameters: int,
    multiply_adds: int,
    options: Mapping[str, Any],
    feat: tuple[int, int],
    cell: int = 8,
    multiple: int = 8,
    cross: bool = True,
    licence: str = UNKNOWN_LICENCE,
    source: str = "",
    on_cpu: tuple[str, ...] | None = None,
) -> Model:
    """Make the row of a network with one point per cell of `cell` px; with `cross`, points may leave their cells."""
    aligned = not options.get("resnet")
    return Model(
        module=f"{__name__}.network",
        options=options,
        channels=3,
        multiple=multiple,
        heads={"score": (1, cell), "shift": (2, cell), "feat": feat},
        decode=partial(kp2d, cell=cell, align_corners=aligned),
        describe=partial(describe_kp2d, cell=cell, align_corners=aligned),
        decode_onnx="lf.models.kp2d.decode_onnx:kp2d",
        settings={"threshold": 0.0, "cross": cross},
        keep_float=("score", "shift"),
        descriptor="feat",
        about=about,
        parameters=parameters,
        multiply_adds=multiply_adds,
        licence=licence,
        code_licence="MIT",
        source=source,
        on_cpu=on_cpu,
    )


def _tiny(about: str, parameters: int, multiply_adds: int, options: Mapping[str, Any], **changes: Any) -> Model:
    cell = 2 ** options["pools"]
    on_cpu = () if changes.get("nearest") else None
    full = {**options, **changes}
    return _kp2d(about, parameters, multiply_adds, full, (options["depth"], cell // 2), cell, cell, on_cpu=on_cpu)


ROWS: dict[str, Model] = {
    "kp2d": _kp2d(
        "KP2D v4, KeypointNet (arXiv 1912.10615)",
        5_312_227,
        52_674_969_600,
        {},
        (256, 4),
        licence="MIT",
        source=f"{_ARCHIVE}/v4.ckpt",
    ),
    "kp2d-v1": _kp2d(
        "KP2D v1: descriptors at the size of the cells",
        4_131_555,
        30_025_728_000,
        {"upsample": False},
        (256, 8),
        source=f"{_ARCHIVE}/v1.ckpt",
    ),
    "kp2d-v0": _kp2d(
        "KP2D v0: as v1, with keypoints inside their cells",
        4_131_555,
        30_025_728_000,
        {"upsample": False},
        (256, 8),
        cross=False,
        source=f"{_ARCHIVE}/v0.ckpt",
    ),
    "kp2d-resnet": _kp2d(
        "KP2D on ResNet-18, KeypointResnet; the 17,451,243 of the reference count an unused classifier",
        16_938_243,
        41_925_427_200,
        {"resnet": True},
        (64, 2),
        multiple=32,
    ),
    "kp2dtiny-s": _tiny("KP2Dtiny S, with pixel shuffle", 386_099, 15_737_241_600, _TINY_S),
    "kp2dtiny-s-coral": _tiny("KP2Dtiny S for the Edge TPU", 339_891, 15_383_347_200, _TINY_S, nearest=True),
    "kp2dtiny-f": _tiny("KP2Dtiny F, with pixel shuffle", 1_845_779, 19_259_596_800, _TINY_F),
    "kp2dtiny-f-coral": _tiny("KP2Dtiny F for the Edge TPU", 1_550_355, 19_967_385_600, _TINY_F, nearest=True),
    "kp2dtiny-v3": _tiny("KP2Dtiny V3, with pixel shuffle", 736_915, 12_350_361_600, _TINY_V3),
    "kp2dtiny-baseline": _tiny(
        "KP2Dtiny baseline: KeypointNet with steeper leaks",
        5_312_227,
        52_674_969_600,
        _TINY | _KEYPOINTNET,
        widen=False,
        slope=0.3,
    ),
}
