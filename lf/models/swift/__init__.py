"""Swift, a score for every pixel: rows of the family."""

from __future__ import annotations

from typing import Any

from lf.models.row import Model
from lf.models.swift.decode import describe_swift, swift


def _row(about: str, parameters: int, multiply_adds: int, depth: int = 64, **options: Any) -> Model:
    """Make the row of a network with four scores per position of its head, and descriptors of `depth` every 4 px."""
    return Model(
        module=f"{__name__}.network",
        options={"depth": depth, **options},
        channels=1,
        multiple=16,
        heads={"score": (4, 2), "descriptor": (depth, 4)},
        decode=swift,
        decode_onnx="lf.models.swift.decode_onnx:swift",
        describe=describe_swift,
        settings={"threshold": 0.01, "nms_radius": 4, "border": 4, "temperature": 1.0, "refine": "soft"},
        keep_float=("score",),
        code_licence="Apache-2.0",
        about=about,
        parameters=parameters,
        multiply_adds=multiply_adds,
        on_cpu=(),
    )


_TINY = {"widths": (8, 16, 32, 32), "convs": (1, 1, 1, 0), "score": 8}
_LARGE = {"widths": (32, 64, 128, 128), "score": 32}

ROWS: dict[str, Model] = {
    "swift": _row("the default of lf: a score for every pixel, precise positions", 324_900, 2_496_921_600),
    "swift-tiny": _row("a score for every pixel in 54 thousand parameters", 53_972, 573_849_600, 32, **_TINY),
    "swift-large": _row("a score for every pixel in 1.3 million parameters", 1_294_916, 9_859_891_200, 128, **_LARGE),
}
