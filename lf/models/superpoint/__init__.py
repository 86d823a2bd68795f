"""SuperPoint (arXiv 1712.07629): rows of the family."""

from __future__ import annotations

from typing import Any

from lf.models.row import Model
from lf.models.superpoint.decode import describe_superpoint, superpoint
from lf.models.wren.decode import describe_wren, wren

_MAGIC_LEAP = "Magic Leap: non-commercial research only, no redistribution"
_NETWORK: dict[str, Any] = {
    "module": f"{__name__}.network",
    "channels": 1,
    "multiple": 8,
    "heads": {"detector": (65, 8), "descriptor": (256, 8)},
    "keep_float": ("detector",),
}
_PUBLISHED: dict[str, Any] = {  # descriptors sampled as published
    **_NETWORK,
    "decode": superpoint,
    "decode_onnx": "lf.models.superpoint.decode_onnx:superpoint",
    "describe": describe_superpoint,
    "settings": {"threshold": 0.015, "nms_radius": 4, "border": 4, "refine": "none"},
}
_CENTRED: dict[str, Any] = {  # descriptors sampled at the true centres of cells
    **_NETWORK,
    "decode": wren,
    "decode_onnx": "lf.models.wren.decode_onnx:wren",
    "describe": describe_wren,
}

ROWS: dict[str, Model] = {
    "superpoint": Model(
        **_PUBLISHED,
        licence=_MAGIC_LEAP,
        code_licence=_MAGIC_LEAP,
        source="GitHub magicleap/SuperPointPretrainedNetwork, superpoint_v1.pth",
        about="SuperPoint v1 (arXiv 1712.07629), the public 24-tensor state dict",
        parameters=1_300_865,
        multiply_adds=26_051_788_800,
    ),
    "superpoint-bn": Model(
        **_PUBLISHED,
        options={"batch_norm": True},
        licence="MIT",
        code_licence="MIT",
        source="GitHub eric-yyjau/pytorch-superpoint, logs/superpoint_coco_heat2_0",
        about="SuperPoint with batch normalisation, as pytorch-superpoint trains it (.pth.tar)",
        parameters=1_304_067,
        multiply_adds=26_051_788_800,
    ),
    "superpoint-open": Model(
        **_CENTRED,
        options={"batch_norm": True, "after": True},
        settings={"threshold": 0.005, "nms_radius": 4, "border": 4, "refine": "none"},
        licence="MIT",
        code_licence="MIT",
        source="GitHub rpautrat/SuperPoint, weights/superpoint_v6_from_tf.pth",
        about="the open SuperPoint of rpautrat/SuperPoint, converted from TensorFlow (superpoint_v6_from_tf.pth)",
        parameters=1_304_067,
        multiply_adds=26_051_788_800,
    ),
    "superpoint-small": Model(
        **_CENTRED,
        options={"batch_norm": True, "width": 32},
        settings={"threshold": 0.01, "nms_radius": 4, "border": 4, "refine": "soft"},
        code_licence="Apache-2.0",
        about="superpoint-bn at half the width, decoded to sub-pixel as wren",
        parameters=348_387,
        multiply_adds=6_655_795_200,
    ),
}
