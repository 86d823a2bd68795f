"""ALIKED (arXiv 2304.03608): rows of the family, two sizes of one network, with 16 or 32 samples per descriptor."""

from __future__ import annotations

from lf.models.aliked.decode import aliked
from lf.models.aliked.describe import describe_aliked
from lf.models.aliked.picture import MULTIPLE, prepare
from lf.models.row import Model

_SIZES = {  # channels at 1/1, 1/2, 1/8, 1/32, the last the length of a descriptor; samples of its head; costs
    "t16": ((8, 16, 32, 64), 16, 192_100, 901_881_600),
    "n16": ((16, 32, 64, 128), 16, 677_356, 2_859_916_800),
    "n16rot": ((16, 32, 64, 128), 16, 677_356, 2_859_916_800),
    "n32": ((16, 32, 64, 128), 32, 979_500, 2_859_916_800),
}


def _row(size: str, widths: tuple[int, ...], samples: int, parameters: int, multiply_adds: int) -> Model:
    depth = widths[-1]
    maps = {f"x{index}": (depth // 4, stride) for index, stride in enumerate((1, 2, 8, 32), 1)}
    weights = {"offset": (2 * samples, 0), "project": (depth, 0), "descriptor": (depth, 0)}  # see `describe`
    return Model(
        module=f"{__name__}.network",
        options={"widths": widths, "samples": samples},
        channels=3,
        multiple=MULTIPLE,
        heads={"score": (1, 1), **maps, **weights},
        decode=aliked,
        describe=describe_aliked,
        settings={
            **{"threshold": 0.2, "nms_radius": 2, "border": 2, "temperature": 0.1, "rounds": 3, "limit": 5000},
            "refine": "soft",
        },
        prepare=prepare,
        pads="both",
        keep_float=("score",),
        float_layers=("stages.2.", "stages.3.", "quarters.", "votes.", "score."),  # 8 bits do not make these faster
        licence="BSD-3-Clause",
        code_licence="BSD-3-Clause",
        source=f"GitHub Shiaoming/ALIKED, models/aliked-{size}.pth",
        about=f"ALIKED-{size.upper()} (arXiv 2304.03608), the public aliked-{size}.pth",
        parameters=parameters,
        multiply_adds=multiply_adds,
        not_on=("tflite", "edgetpu"),  # TFLite has no GridSample
    )


ROWS: dict[str, Model] = {f"aliked-{size}": _row(size, *row) for size, row in _SIZES.items()}
