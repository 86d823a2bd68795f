"""Files of one size: that images are resized for them is said once, with the remedy."""

from __future__ import annotations

import numpy as np
import pytest

from lf.extraction import stream
from lf.extraction.extractor import Extractor


@pytest.mark.parametrize(("size", "said"), [((48, 64), 1), (None, 0)])
def test_a_resize_is_said_once(tiny, capfd, size, said):
    artifact = tiny(f"{size}.onnx", size=size)
    extractor = Extractor(artifact, "ort-cpu")
    for shape in ((48, 64), (64, 80), (80, 64)):
        stream.published(extractor, np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == said
    for line in lines:
        assert line == (
            f"{artifact.path}: takes images of 48x64 only; others are resized to it, which costs accuracy. "
            "A file of free size: lf export CHECKPOINT"
        )
