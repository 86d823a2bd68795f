"""Wren, a small network for int8 on one core: rows of the family."""

from __future__ import annotations

from lf.models.row import Model
from lf.models.wren.decode import describe_wren, wren

ROWS: dict[str, Model] = {
    "wren": Model(
        module=f"{__name__}.network",
        channels=1,
        multiple=8,
        heads={"detector": (65, 8), "descriptor": (64, 8)},
        decode=wren,
        decode_onnx="lf.models.wren.decode_onnx:wren",
        describe=describe_wren,
        settings={"threshold": 0.01, "nms_radius": 4, "border": 4, "refine": "soft"},
        keep_float=("detector",),
        about="the default of lf: greyscale network of 0.5 M parameters, for int8 on small CPUs",
        code_licence="Apache-2.0",
        parameters=466_241,
        multiply_adds=3_748_300_800,
        on_cpu=(),
    ),
}
