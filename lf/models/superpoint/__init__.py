"""SuperPoint (arXiv 1712.07629): rows of the family."""

from __future__ import annotations

from typing import Any

from lf.models.row import SEGMENTATION, Model
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
_FORK = "the fork: personal and educational use only"
_CLASSES = 34  # of Cityscapes, by default; a file has as many as it was trained for
_SEGMENTED: dict[str, Any] = {
    **_PUBLISHED,
    "heads": {**_NETWORK["heads"], SEGMENTATION: (_CLASSES, 8)},
    "options": {"batch_norm": True, "classes": _CLASSES},
    "licence": _FORK,
    "code_licence": _FORK,
    "parent": "superpoint-bn",
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
        on_cpu=(),
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
        on_cpu=(),
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
        about="superpoint-bn at half the width, sub-pixel positions as wren",
        parameters=348_387,
        multiply_adds=6_655_795_200,
        on_cpu=(),
    ),
    "superpoint-seg": Model(
        **_SEGMENTED,
        about="superpoint-bn with a segmentation at 1/8 resolution (ASPP); parameters for 34 classes",
        parameters=2_145_957,
        multiply_adds=30_004_854_784,
        per_class=129,
    ),
    "superpoint-seg-refine": Model(
        **{
            **_SEGMENTED,
            "heads": {**_NETWORK["heads"], SEGMENTATION: (_CLASSES, 4)},
            "options": {**_SEGMENTED["options"], "refine": True},
        },
        about="the same with a segmentation at 1/4 resolution",
        parameters=2_176_485,
        multiply_adds=32_306_397_184,
        per_class=65,
    ),
    "superpoint-small-seg": Model(
        **{
            **_CENTRED,
            "heads": {**_NETWORK["heads"], SEGMENTATION: (_CLASSES, 8)},
            "options": {"batch_norm": True, "width": 32, "classes": _CLASSES},
        },
        settings={"threshold": 0.01, "nms_radius": 4, "border": 4, "refine": "soft"},
        code_licence="Apache-2.0",
        parent="superpoint-small",
        about="superpoint-small with a segmentation at 1/8 resolution; parameters for 34 classes",
        parameters=560_453,
        multiply_adds=7_649_284_096,
        per_class=65,
    ),
}
