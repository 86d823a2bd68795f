"""Cost of the decoder in the graph: `python -m scripts.compare_decode HEADS.onnx FEATURES.onnx [PHOTOS]`.

The second file is the first after `lf export --cut features`. What was appended runs alone, in ONNX Runtime on one
thread, in turns with numpy's decode of the same raw heads; milliseconds are the processor's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lf.benchmarks.report.tables import markdown
from lf.core import Array, Artifact, UsageError
from lf.data import images
from lf.export.to_features import PREFIX
from lf.extraction.agreement import drawn
from lf.extraction.extractor import Extractor
from lf.formats import model_file, onnx_model
from lf.runtimes import open_session
from scripts import turns

SIZE = (480, 640)  # H, W
PICTURES, WARM_UP, REPEATS = 8, 2, 10


def appended(features: Artifact, heads: dict[str, tuple[int, int]]) -> Any:
    """A session of the decode alone: raw heads -> features.

    Args:
        features: a file that decodes in its graph.
        heads: name -> (channels, stride) of the raw heads.
    """
    import onnx
    import onnxruntime as ort

    model = onnx_model.read(features.path)
    nodes = [node for node in model.graph.node if node.name.startswith(PREFIX)]
    constants = [each for each in model.graph.initializer if each.name.startswith(PREFIX)]
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, None, None])
        for name, (channels, _) in heads.items()
    ]
    graph = onnx.helper.make_graph(nodes, "decode", inputs, list(model.graph.output), constants)
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(heads: Artifact, features: Artifact, pictures: Iterable[Array]) -> Array:
    """(turns, 2) milliseconds of the processor: in the graph, in numpy.

    Raises:
        UsageError: the second file does not decode, the first does, or they are not of one network.
        BadInput: a damaged file.
    """
    fits = heads.card.model == features.card.model and features.path.suffix == ".onnx"
    if heads.card.features or not features.card.features or not fits:
        raise UsageError(f"expected raw heads and features (lf export --cut features): {heads.path}, {features.path}")
    open_session(features, "ort-cpu")  # says what is wrong with a damaged file
    extractor, session = Extractor(heads, "ort-cpu"), appended(features, heads.card.outputs)
    top_k = features.card.made[-1].options["top_k"]
    rows = []
    for picture in pictures:
        maps = extractor.session.run(extractor.tensor(extractor.fit(cv2.resize(picture, SIZE[::-1]))))
        single = {name: value[0] for name, value in maps.items()}
        ways = (
            partial(session.run, None, maps),
            partial(extractor.model.decode, single, **extractor.settings, top_k=top_k),
        )
        rows += [[turns.milliseconds(way) for way in ways] for _ in range(WARM_UP + REPEATS)][WARM_UP:]
    return np.array(rows)


def main(heads: Path, features: Path, photos: Path | None = None) -> str:
    """The table."""
    cv2.setNumThreads(1)
    pictures = map(images.read, images.list_images(photos, limit=PICTURES)) if photos else islice(drawn(SIZE), PICTURES)
    times = measure(model_file.load(heads), model_file.load(features), pictures)
    graph, numpy = np.median(times, axis=0)
    share = turns.times(times[:, 0], times[:, 1])
    head = [f"{SIZE[0]}x{SIZE[1]}", "graph, ms", "numpy, ms", "graph / numpy"]
    return markdown(head, [[heads.name, f"{graph:.1f}", f"{numpy:.1f}", share]])


if __name__ == "__main__":
    turns.command(
        "compare_decode HEADS.onnx FEATURES.onnx [PHOTOS]", 2, 3, lambda words, given: main(*map(Path, words))
    )
