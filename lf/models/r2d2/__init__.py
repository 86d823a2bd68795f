"""R2D2 (arXiv 1906.06195): rows of the family."""

from __future__ import annotations

from lf.models.r2d2.decode import describe_r2d2, r2d2
from lf.models.row import Model

_R2D2 = {"repeatability": 0.7, "reliability": 0.7, "refine": "none"}
_R2D2_PYRAMID = {"min_size": 256, "max_size": 1024, "min_scale": 0.0, "max_scale": 1.0, "top_k": 5000}
_LICENCE = "CC BY-NC-SA 3.0"
_R2D2_HEADS = {"descriptor": (128, 1), "reliability": (1, 1), "repeatability": (1, 1)}


ROWS: dict[str, Model] = {
    "r2d2": Model(
        module=f"{__name__}.network",
        channels=3,
        multiple=1,
        heads=_R2D2_HEADS,
        decode=r2d2,
        decode_onnx="lf.models.r2d2.decode_onnx:r2d2",
        describe=describe_r2d2,
        settings=_R2D2,
        keep_float=("reliability", "repeatability"),
        pyramid=_R2D2_PYRAMID,
        maxima="repeatability",
        licence=_LICENCE,
        code_licence=_LICENCE,
        source="GitHub naver/r2d2, models/r2d2_WASF_N16.pt",
        multiply_adds=148_547_174_400,
        about="R2D2 N16 (arXiv 1906.06195)",
        parameters=484_387,
    ),
    "r2d2-big": Model(
        module=f"{__name__}.network",
        options={"width": 6},
        channels=3,
        multiple=1,
        heads=_R2D2_HEADS,
        decode=r2d2,
        decode_onnx="lf.models.r2d2.decode_onnx:r2d2",
        describe=describe_r2d2,
        settings=_R2D2,
        keep_float=("reliability", "repeatability"),
        pyramid=_R2D2_PYRAMID,
        maxima="repeatability",
        licence=_LICENCE,
        code_licence=_LICENCE,
        source="GitHub naver/r2d2, models/r2d2_WASF_N8_big.pt",
        multiply_adds=318_785_126_400,
        about="R2D2 N8 big: the same with 1.5 times the channels",
        parameters=1_038_899,
    ),
    "fast-r2d2": Model(
        module=f"{__name__}.network",
        options={"fast": True},
        channels=3,
        multiple=2,
        heads=_R2D2_HEADS,
        decode=r2d2,
        decode_onnx="lf.models.r2d2.decode_onnx:r2d2",
        describe=describe_r2d2,
        settings=_R2D2,
        keep_float=("reliability", "repeatability"),
        pyramid=_R2D2_PYRAMID,
        maxima="repeatability",
        licence=_LICENCE,
        code_licence=_LICENCE,
        source="GitHub naver/r2d2, models/faster2d2_WASF_N16.pt",
        multiply_adds=43_794_432_000,
        about="Fast-R2D2 N16: half resolution inside, bilinear x2 before the heads",
        parameters=484_387,
    ),
}
