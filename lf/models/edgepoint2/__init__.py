"""EdgePoint2 (arXiv 2504.17280): rows of the family, five sizes with two or three lengths of descriptors."""

from __future__ import annotations

from lf.models.edgepoint2.decode import describe_edgepoint2, edgepoint2
from lf.models.edgepoint2.picture import MULTIPLE, prepare
from lf.models.row import Model

_SIZES = {  # channels at 1/2, 1/2, 1/8, 1/32, of the score; length of a descriptor -> parameters
    "t": ((8, 8, 16, 24), 8, {32: 27_524, 48: 28_308}),
    "s": ((8, 8, 24, 32), 8, {32: 43_780, 48: 44_820, 64: 45_860}),
    "m": ((8, 16, 32, 48), 8, {32: 85_516, 48: 87_068, 64: 88_620}),
    "l": ((8, 16, 48, 64), 8, {32: 144_396, 48: 146_460, 64: 148_524}),
    "e": ((16, 16, 48, 64), 16, {32: 150_500, 48: 152_564, 64: 154_628}),
}


def _row(size: str, widths: tuple[int, ...], score: int, depth: int, parameters: int) -> Model:
    return Model(
        module=f"{__name__}.network",
        options={"widths": widths, "score": score, "depth": depth},
        channels=1,
        multiple=MULTIPLE,
        heads={"score": (4, 2), "descriptor": (depth, 4)},
        decode=edgepoint2,
        decode_onnx="lf.models.edgepoint2.decode_onnx:edgepoint2",
        describe=describe_edgepoint2,
        settings={"threshold": 0.006692851, "radius": 2, "border": 4, "refine": "none"},
        prepare=prepare,
        maxima="score",
        keep_float=("score",),
        licence="MIT",
        about=f"EdgePoint2 {size.upper()}{depth} (arXiv 2504.17280), the public {size.upper()}{depth}.pth",
        parameters=parameters,
    )


ROWS: dict[str, Model] = {
    f"edgepoint2-{size}{depth}": _row(size, widths, score, depth, parameters)
    for size, (widths, score, depths) in _SIZES.items()
    for depth, parameters in depths.items()
}
