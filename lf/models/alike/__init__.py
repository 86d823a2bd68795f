"""ALIKE (arXiv 2112.02906): rows of the family, four sizes of one network."""

from __future__ import annotations

from lf.models.alike.decode import alike, describe_alike
from lf.models.alike.picture import MULTIPLE, prepare
from lf.models.row import Model

_SIZES = {  # channels at 1/1, 1/2, 1/8, 1/32; length of a descriptor; one more layer in the head; costs
    "t": ((8, 16, 32, 64), 64, False, 82_728, 1_944_268_800),
    "s": ((8, 16, 48, 96), 96, False, 175_992, 3_648_998_400),
    "n": ((16, 32, 64, 128), 128, False, 329_168, 7_605_043_200),
    "l": ((32, 64, 128, 128), 128, True, 653_984, 19_293_388_800),
}


def _row(size: str, widths: tuple[int, ...], depth: int, deeper: bool, parameters: int, multiply_adds: int) -> Model:
    return Model(
        module=f"{__name__}.network",
        options={"widths": widths, "depth": depth, "deeper": deeper},
        channels=3,
        multiple=MULTIPLE,
        heads={"score": (1, 1), "descriptor": (depth, 1)},
        decode=alike,
        describe=describe_alike,
        settings={"threshold": 0.2, "nms_radius": 2, "border": 2, "temperature": 0.1, "refine": "soft"},
        prepare=prepare,
        pads="end",
        keep_float=("score",),
        licence="BSD-3-Clause",
        code_licence="BSD-3-Clause",
        source=f"GitHub Shiaoming/ALIKE, models/alike-{size}.pth",
        about=f"ALIKE-{size.upper()} (arXiv 2112.02906), the public alike-{size}.pth",
        parameters=parameters,
        multiply_adds=multiply_adds,
        on_cpu=(),
    )


ROWS: dict[str, Model] = {f"alike-{size}": _row(size, *row) for size, row in _SIZES.items()}
