"""EdgePoint2 (arXiv 2504.17280): rows of the family, five sizes with two or three lengths of descriptors."""

from __future__ import annotations

from lf.models.edgepoint2.decode import describe_edgepoint2, edgepoint2
from lf.models.edgepoint2.picture import MULTIPLE, prepare
from lf.models.row import Model

Costs = dict[int, tuple[int, int]]  # length of a descriptor -> parameters, multiply-adds

_SIZES: dict[str, tuple[tuple[int, ...], int, Costs]] = {  # channels at 1/2, 1/2, 1/8, 1/32, of the score; costs
    "t": ((8, 8, 16, 24), 8, {32: (27_524, 485_068_800), 48: (28_308, 499_814_400)}),
    "s": (
        (8, 8, 24, 32),
        8,
        {32: (43_780, 593_126_400), 48: (44_820, 612_787_200), 64: (45_860, 632_448_000)},
    ),
    "m": (
        (8, 16, 32, 48),
        8,
        {32: (85_516, 1_154_956_800), 48: (87_068, 1_184_448_000), 64: (88_620, 1_213_939_200)},
    ),
    "l": (
        (8, 16, 48, 64),
        8,
        {32: (144_396, 1_478_400_000), 48: (146_460, 1_517_721_600), 64: (148_524, 1_557_043_200)},
    ),
    "e": (
        (16, 16, 48, 64),
        16,
        {32: (150_500, 1_876_070_400), 48: (152_564, 1_915_392_000), 64: (154_628, 1_954_713_600)},
    ),
}


def _row(size: str, widths: tuple[int, ...], score: int, depth: int, costs: tuple[int, int]) -> Model:
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
        code_licence="MIT",
        source=f"GitHub HITCSC/EdgePoint2, weights/{size.upper()}{depth}.pth",
        about=f"EdgePoint2 {size.upper()}{depth} (arXiv 2504.17280), the public {size.upper()}{depth}.pth",
        parameters=costs[0],
        multiply_adds=costs[1],
    )


ROWS: dict[str, Model] = {
    f"edgepoint2-{size}{depth}": _row(size, widths, score, depth, costs)
    for size, (widths, score, depths) in _SIZES.items()
    for depth, costs in depths.items()
}
