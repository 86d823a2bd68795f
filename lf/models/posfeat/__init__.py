"""PoSFeat (arXiv 2203.12993): rows of the family, the published network and a small one."""

from __future__ import annotations

from math import inf
from typing import Any

from lf.models.posfeat.decode import describe_posfeat, posfeat
from lf.models.row import Model

_EXTRACTIONS = {  # published evaluations, all at native size and one scale
    "hpatches": {"top_k": 8192, "radius": 1, "threshold": 0.9},
    "aachen": {"top_k": 20480, "radius": 3, "threshold": 0.5},
    "eth": {"top_k": 20480, "radius": 3, "threshold": 0.9},
}


def _row(about: str, parameters: int, channels: int, depth: int, **more: Any) -> Model:
    return Model(
        module=f"{__name__}.network",
        channels=channels,
        multiple=16,
        heads={"score": (1, 1), "descriptor": (depth, 4)},
        decode=posfeat,
        decode_onnx="lf.models.posfeat.decode_onnx:posfeat",
        describe=describe_posfeat,
        settings={"threshold": 0.9, "radius": 1, "refine": "soft"},
        extractions=_EXTRACTIONS,
        maxima="score",
        loudest=inf,
        keep_float=("score",),
        code_licence="Apache-2.0",
        about=about,
        parameters=parameters,
        **more,
    )


ROWS: dict[str, Model] = {
    "posfeat": _row(
        "PoSFeat (arXiv 2203.12993): ResNet-50 to layer 3, descriptors first, then points",
        21_006_466,
        3,
        128,
        multiply_adds=208_832_102_400,
    ),
    "posfeat-small": _row(
        "PoSFeat's two stages on a greyscale backbone of 0.4 M parameters, for two cores",
        433_682,
        1,
        64,
        options={"small": True},
        multiply_adds=5_030_707_200,
    ),
}
