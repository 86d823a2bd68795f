"""Fixtures that more than one room needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lf import files
from lf.core import Artifact, Card
from lf.models import MODELS


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data beside the repository; without it the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    return folder if folder.is_dir() else pytest.skip("needs ../shared (development data)")


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Artifact]:
    """(name, row of MODELS, size) -> an ONNX file with the heads of that row, a random convolution each."""
    return lambda name="tiny.onnx", row="wren", size=None: files.save(tmp_path / name, *_convolutions(row, size))


def _convolutions(row: str, size: tuple[int, int] | None) -> tuple[bytes, Card]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model, rng = MODELS[row], np.random.default_rng(0)
    sides = size or ("height", "width")
    nodes, weights, outputs = [], [], []
    for head, (channels, stride) in model.heads.items():
        kernel = rng.standard_normal((channels, model.channels, stride, stride)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{head}.weight"))
        nodes.append(helper.make_node("Conv", ["image", f"{head}.weight"], [head], strides=[stride, stride]))
        outputs.append(helper.make_tensor_value_info(head, TensorProto.FLOAT, [1, channels, None, None]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, model.channels, *sides])
    graph = helper.make_graph(nodes, row, [image], outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto)
    weights_card = {"origin": "random numbers", "sha256": "00", "licence": "none"}
    card = Card(row, weights_card, (model.channels, *(size or (None, None))), outputs=dict(model.heads))
    return proto.SerializeToString(), card
