"""SuperPoint (arXiv 1712.07629): rows of the family."""

from __future__ import annotations

from lf.models.row import Model
from lf.models.superpoint.decode import describe_superpoint, superpoint
from lf.models.wren.decode import describe_wren, wren

_SUPERPOINT = {"threshold": 0.015, "nms_radius": 4, "border": 4, "refine": "none"}

ROWS: dict[str, Model] = {
    "superpoint": Model(
        module=f"{__name__}.network",
        channels=1,
        multiple=8,
        heads={"detector": (65, 8), "descriptor": (256, 8)},
        decode=superpoint,
        decode_onnx="lf.models.superpoint.decode_onnx:superpoint",
        describe=describe_superpoint,
        settings=_SUPERPOINT,
        keep_float=("detector",),
        licence="Magic Leap: non-commercial research only, no redistribution",
        about="SuperPoint v1 (arXiv 1712.07629), the public 24-tensor state dict",
        parameters=1_300_865,
    ),
    "superpoint-bn": Model(
        module=f"{__name__}.network",
        options={"batch_norm": True},
        channels=1,
        multiple=8,
        heads={"detector": (65, 8), "descriptor": (256, 8)},
        decode=superpoint,
        decode_onnx="lf.models.superpoint.decode_onnx:superpoint",
        describe=describe_superpoint,
        settings=_SUPERPOINT,
        keep_float=("detector",),
        licence="MIT",
        about="SuperPoint with batch normalisation, as pytorch-superpoint trains it (.pth.tar)",
        parameters=1_304_067,
    ),
    "superpoint-open": Model(
        module=f"{__name__}.network",
        options={"batch_norm": True, "after": True},
        channels=1,
        multiple=8,
        heads={"detector": (65, 8), "descriptor": (256, 8)},
        decode=wren,
        decode_onnx="lf.models.wren.decode_onnx:wren",
        describe=describe_wren,
        settings={"threshold": 0.005, "nms_radius": 4, "border": 4, "refine": "none"},
        keep_float=("detector",),
        licence="MIT",
        about="the open SuperPoint of rpautrat/SuperPoint, converted from TensorFlow (superpoint_v6_from_tf.pth)",
        parameters=1_304_067,
    ),
    "superpoint-small": Model(
        module=f"{__name__}.network",
        options={"batch_norm": True, "width": 32},
        channels=1,
        multiple=8,
        heads={"detector": (65, 8), "descriptor": (256, 8)},
        decode=wren,
        decode_onnx="lf.models.wren.decode_onnx:wren",
        describe=describe_wren,
        settings={"threshold": 0.01, "nms_radius": 4, "border": 4, "refine": "soft"},
        keep_float=("detector",),
        about="superpoint-bn at half the width, decoded to sub-pixel as wren",
        parameters=352_899,
    ),
}
