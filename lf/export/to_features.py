"""Append the decoder to an ONNX file with raw heads, float or quantized, and compare it with numpy's."""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import FEATURES, Array, Artifact, BadInput, Card, Features, GateFailed, UsageError, one_line
from lf.export import parity, to_onnx
from lf.export.to_onnx import OWN
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.formats import onnx_model
from lf.formats.derive import Draft, derive
from lf.formats.onnx_graph import Graph
from lf.models import row_of
from lf.runtimes import CHECKPOINTS

if TYPE_CHECKING:
    from onnx import ModelProto

TOP_K = 1000
PREFIX = "decode."  # prefix of the names of appended nodes and tensors
NEAR = 1e-3  # largest difference of equal keypoints, px; SCORE * NEAR for scores
SCORE = 0.01
COSINE = 1e-5  # largest difference of the cosine of two descriptors from 1
ROUNDING = 1e-5  # relative difference of a score to a threshold, a rival or the last slot within which rounding decides


@dataclass
class Tally:
    """Accumulated results; `missed` is the largest 1 - cosine of two descriptors of a keypoint."""

    pictures: int = 0
    keypoints: int = 0
    differing: int = 0
    unexplained: int = 0
    missed: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Return the figures for the card."""
        identical = round(1 - self.differing / max(1, self.keypoints), 6)
        counts = {"pictures": self.pictures, "keypoints": self.keypoints, "identical": identical}
        return {**counts, "unexplained": self.unexplained, "cosine": float(f"{1 - self.missed:.7f}")}


def export(
    artifact: Artifact,
    out: Path,
    *,
    size: tuple[int, int] | None = OWN,
    opset: int | None = None,
    top_k: int = TOP_K,
    images: Path | None = None,
) -> Artifact:
    """Append the decoder to an ONNX file, or to the ONNX export of a checkpoint.

    Args:
        artifact: ONNX of any scheme, or a checkpoint.
        out: the .onnx file.
        size: fixed input size (H, W) of the export of a checkpoint; None leaves it free; see OWN.
        opset: operator set of the export of a checkpoint.
        top_k: number of slots of the outputs.
        images: folder of images for the parity check; None draws them.

    Raises:
        UsageError: neither ONNX nor a checkpoint, the decoder is in the graph already, or no slots.
        GateFailed: the decoder in the graph disagrees with the numpy decoder; nothing is written.
    """
    if top_k < 1:
        raise UsageError(f"`top_k={top_k}`: expected at least 1")
    if artifact.card.features:
        raise UsageError(f"{artifact.path}: contains its decoder; start from the file that it was made from")
    with tempfile.TemporaryDirectory(prefix="lf-export-") as folder:
        parent = artifact
        if artifact.path.suffix in CHECKPOINTS:
            parent = to_onnx.through(artifact, Path(folder), size, opset, images)
        elif artifact.path.suffix != ".onnx":
            raise UsageError(f"{artifact.path}: `cut=features` starts from an .onnx file or a checkpoint")
        elif size != OWN or opset is not None:
            raise UsageError(f"{artifact.path}: has its size and its operator set; leave `size` and `opset` out")
        return derive(parent, out, "export", lambda _: _appended(parent, top_k, images))


def _appended(parent: Artifact, top_k: int, images: Path | None) -> Draft:
    import onnx

    try:
        proto = append(onnx_model.read(parent.path), parent.card, top_k)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BadInput(
            f"{parent.path}: not a valid ONNX graph ({one_line(error, 200)}); make the file again: "
            "`export(CHECKPOINT, to=onnx)`"
        ) from error
    row = row_of(parent.card)
    lengths = dict(zip(FEATURES, (2, 1, row.length), strict=True))
    return Draft(
        data=proto.SerializeToString(),
        card=parent.card.step(outputs={name: (length, 0) for name, length in lengths.items()}),
        options={"to": "onnx", "cut": "features", "top_k": top_k, "settings": dict(row_of(parent.card).settings)},
        versions={"onnx": onnx.__version__},
        compare=lambda made: {"parity": check(parent, made, top_k, images)},
    )


def append(proto: ModelProto, card: Card, top_k: int) -> ModelProto:
    """Append the decoder of the raw heads, with the settings of the row and `top_k` slots, to the model.

    Raises:
        UsageError: the network's decoder has no ONNX form, or the operator set is too old.
        BadInput: the heads are not those of the card.
    """
    from onnx import TensorProto, checker, helper

    row, graph = row_of(card), proto.graph
    fixed = getattr(row.decode, "keywords", {})
    if row.decode_onnx is None:
        raise UsageError(f"{card.model}: has no decoder for graphs; leave `cut=features` out")
    version = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 0)
    if version < to_onnx.OPSET:
        raise UsageError(
            f"operator set {version}: `cut=features` needs {to_onnx.OPSET} or newer; export it with a newer `opset`"
        )
    heads = {output.name: output for output in graph.output}
    if set(heads) != set(row.heads):
        raise BadInput(f"a file of {card.model} gives {', '.join(row.heads)}, this one {', '.join(heads)}")
    for node in onnx_model.nodes(proto):
        if node.name.startswith(PREFIX):
            node.name = f"network.{node.name}"
    onnx_model.rename(proto, lambda name: name in FEATURES or name.startswith(PREFIX))
    g = Graph(PREFIX)
    module, _, function = row.decode_onnx.partition(":")
    build = getattr(importlib.import_module(module), function)
    results = build(g, {name: name for name in row.heads}, **fixed, **row.settings, top_k=top_k)
    for name, result in zip(FEATURES, results, strict=True):
        g.rename(g("Unsqueeze", result, [0]), name)
    graph.node.extend(g.nodes)
    graph.initializer.extend(g.constants)
    graph.value_info.extend(heads.values())
    del graph.output[:]
    for name, shape in zip(FEATURES, ([1, top_k, 2], [1, top_k], [1, top_k, row.length]), strict=True):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    checker.check_model(proto, full_check=True)
    return proto


def check(parent: Artifact, candidate: Artifact, top_k: int, folder: Path | None) -> dict[str, Any]:
    """Compare the decoder in a graph with the numpy decoder on its parent's heads, on images.

    Args:
        parent: the ONNX file with raw heads.
        candidate: the same with `top_k` slots of features.
        top_k: as above.
        folder: folder of images; None draws them, in several sizes for a file of free size.

    Returns:
        The figures for the card.

    Raises:
        GateFailed: they differ by more than rounding.
        BadModel: the parent itself gives non-finite values.
    """
    reference, new, tally = Extractor(parent, "ort-cpu"), Extractor(candidate, "ort-cpu"), Tally()
    for picture in parity.pictures(new, folder):
        tensor = new.tensor(new.fit(picture))
        maps = {name: value[0] for name, value in reference.session.run(tensor).items()}
        wanted = agreement.decode(reference, maps, tensor.shape[:-3:-1], top_k=top_k)
        with parity.gated(parent):
            found = agreement.look(new, tensor).features
        compare(wanted, found, maps, reference, top_k, tally)
    if not tally.pictures:
        raise BadInput(f"{parent.path}: no image to check the export on")
    figures = tally.figures()
    if figures["identical"] < parity.IDENTICAL or tally.unexplained or not tally.missed <= COSINE:
        raise GateFailed(
            f"{parent.path.name}: the decoder in its graph disagrees with the numpy decoder: "
            f"{figures['identical']:.3%} of {tally.keypoints} "
            f"keypoints are identical, {tally.unexplained} others are not ties, the worst cosine of descriptors "
            f"is {figures['cosine']}; expected {parity.IDENTICAL:.1%}, 0 and {1 - COSINE:g}; nothing was written; "
            "try other versions of onnx and onnxruntime: lf doctor"
        )
    return figures


def compare(a: Features, b: Features, maps: dict[str, Array], extractor: Extractor, top_k: int, tally: Tally) -> None:
    """Add the differences between `b` of the graph and `a` of numpy to `tally`; `maps` are the heads of both."""
    places = [np.column_stack([each.keypoints, each.scores * np.float32(SCORE**-1)]) for each in (a, b)]
    distance, index = agreement.nearest(*places)
    only = distance > NEAR, agreement.nearest(*places[::-1])[0] > NEAR
    cosine = np.einsum("nd,nd->n", a.descriptors[~only[0]], b.descriptors[index[~only[0]]])
    unsorted = int((np.diff(b.scores) > 0).sum())
    tally.pictures += 1
    tally.keypoints += len(a) + len(b)
    tally.missed = max(tally.missed, float(np.abs(1 - cosine).max(initial=0)))
    tally.differing += int(only[0].sum() + only[1].sum())
    tally.unexplained += int((~_explained(a, b, only, maps, extractor, top_k)).sum()) + unsorted


def _explained(
    a: Features, b: Features, only: tuple[Array, Array], maps: dict[str, Array], extractor: Extractor, top_k: int
) -> Array:
    """Return a mask of the keypoints of only one side, those of `a` then those of `b`, that rounding may explain.

    Rounding may decide at a threshold, at the last slot, and between two points with nearly equal scores that suppress
    each other; and for points in reach of such a point, which may or may not suppress them.
    """
    points = np.concatenate([a.keypoints[only[0]], b.keypoints[only[1]]])
    scores = np.concatenate([a.scores[only[0]], b.scores[only[1]]])
    thresholds = {name: value for name, value in extractor.settings.items() if isinstance(value, float)}
    loose, tight = (
        agreement.decode(extractor, maps, a.size, **{name: value + by for name, value in thresholds.items()})
        for by in (-ROUNDING, ROUNDING)
    )
    may = agreement.near(points, loose.keypoints, NEAR) & ~agreement.near(points, tight.keypoints, NEAR)
    for each in (a, b):
        if len(each) == top_k:
            may |= np.abs(scores - each.scores[-1]) <= ROUNDING
    if (score := parity.ranked(extractor.model, maps)) is not None:
        may |= parity.contested(score, points, extractor.settings.get("radius", 1))
    reach = parity.reach_of(extractor.settings)
    apart = np.hypot(*(points[:, None] - points[None]).T) <= reach
    others = np.arange(len(points)) < len(a.keypoints[only[0]])
    may |= (apart & (others[:, None] != others) & (np.abs(scores[:, None] - scores) <= ROUNDING)).any(1)
    while (further := ~may & (apart & may).any(1)).any():
        may |= further
    return may
