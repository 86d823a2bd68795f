"""Export a checkpoint to ONNX by torch.export: raw heads as outputs, batch norm folded, parity checked.

No simplifier follows. Measured with torch 2.13, onnxsim 0.8.1, onnxslim 0.1.98 on superpoint, r2d2, fast-r2d2 and wren,
static and dynamic: 25, 22, 24, 22 nodes from the exporter; onnxsim leaves 25, 22, 24, 21 (it folds the factor of wren),
onnxslim 25, 22, 24, 22; outputs equal to the last bit. The exporter's own optimiser has done their work.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lf import __version__
from lf.core import Artifact, Card, ConversionFailed, UsageError, pick
from lf.export import parity
from lf.formats import onnx_model
from lf.formats.derive import Draft, derive
from lf.models import NETWORKS, check_size, row_of
from lf.runtimes import CHECKPOINTS

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18  # read by every engine here; 4 and 16-bit types would need 21
OPSETS = range(18, 24)  # below, the exporter does not guarantee its conversion; above, ONNX Runtime may refuse
SIZE = (240, 320)  # H, W
OWN = (0, 0)  # stands for the fixed size of the file, otherwise `usual_size`
INPUT = "image"


def export(
    artifact: Artifact,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    opset: int = OPSET,
    images: Path | None = None,
) -> Artifact:
    """Export a checkpoint.

    Args:
        artifact: a checkpoint that torch reads.
        out: the .onnx file.
        size: fixed input size (H, W); None leaves it free.
        opset: version of the ONNX operator set, one of OPSETS.
        images: folder of images for the parity check; None draws them.

    Raises:
        UsageError: not a checkpoint, or a size or opset that does not fit.
        GateFailed: the file does not agree with the network; nothing is written.
        ConversionFailed: a batch normalisation could not be folded.
    """
    if artifact.path.suffix not in CHECKPOINTS:
        raise UsageError(f"{artifact.path}: export to onnx starts from a checkpoint ({', '.join(CHECKPOINTS)})")
    pick(NETWORKS, artifact.card.model, "network")
    model = row_of(artifact.card)
    if opset not in OPSETS:
        raise UsageError(f"`opset={opset}`: expected {OPSETS[0]} to {OPSETS[-1]}")
    check_size(size, model, artifact.card.model)

    def convert(folder: Path) -> Draft:
        return Draft(
            data=trace(artifact, size, opset).SerializeToString(),
            card=artifact.card.step(input=(model.channels, *(size or (None, None))), outputs=dict(model.heads)),
            options={"to": "onnx", "size": list(size) if size else None, "opset": opset},
            versions=_versions(),
            compare=lambda made: {"parity": parity.check(artifact, made, "torch", "ort-cpu", images)},
            notes={"opset": opset},
        )

    return derive(artifact, out, "export", convert)


def usual_size(card: Card) -> tuple[int, int]:
    """Return the default (H, W) of a file with fixed input size: SIZE rounded to the multiples of the network."""
    return pick(NETWORKS, card.model, "network").fitted(SIZE)


def through(
    artifact: Artifact, folder: Path, size: tuple[int, int] | None, opset: int | None, images: Path | None
) -> Artifact:
    """Export a checkpoint to an ONNX file in `folder`, as a step to another format; see `export`, and OWN."""
    wanted = usual_size(artifact.card) if size == OWN else size
    return export(artifact, Path(folder, "through.onnx"), size=wanted, opset=opset or OPSET, images=images)


def trace(artifact: Artifact, size: tuple[int, int] | None, opset: int, batch: int = 1) -> ModelProto:
    """Convert the network of a checkpoint to an ONNX model for `batch` images, without data of this machine.

    Raises:
        ConversionFailed: a batch normalisation remains; quantization would then be silently wrong.
    """
    import onnx
    import torch

    from lf.models import checkpoint

    model, network = NETWORKS[artifact.card.model], checkpoint.network(artifact)
    for part in [*network.modules()]:
        if fold := getattr(part, "fold", None):
            fold()
    free = torch.export.Dim.DYNAMIC
    height, width = size or parity.sizes(model.multiple)[1]  # any size that fits
    with quiet():
        program = torch.onnx.export(
            network.eval(),
            (torch.zeros(batch, model.channels, height, width),),
            dynamo=True,
            opset_version=opset,
            external_data=False,
            verbose=False,
            input_names=[INPUT],
            output_names=list(model.heads),
            dynamic_shapes=None if size else ({2: free, 3: free},),
        )
    assert program is not None
    proto = tidy(program.model_proto, artifact.card.model)
    onnx.checker.check_model(proto, full_check=True)
    left = [node.name for node in proto.graph.node if node.op_type == "BatchNormalization"]
    if left:
        raise ConversionFailed(
            f"{artifact.path}: batch normalisation {', '.join(left)} was not folded; export it in eval mode"
        )
    return proto


def tidy(proto: ModelProto, name: str) -> ModelProto:
    """Name graph, sizes and layers; remove the exporter's notes, including paths of this machine."""
    graph = proto.graph
    proto.producer_name, proto.producer_version, proto.doc_string, graph.name = "lf", __version__, "", name
    for holder in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    for node in graph.node:
        if node.op_type == "Conv":  # the exporter's names are meaningless
            node.ClearField("name")
    onnx_model.named(proto)
    free = [dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim if dim.dim_param]
    called = dict(zip(free, ("height", "width"), strict=False))
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: called.get(word[0], word[0]), dim.dim_param)
    return proto


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporter's warnings about its own code and its log of missing optional packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _versions() -> dict[str, str]:
    import onnx
    import onnxruntime
    import onnxscript
    import torch

    modules = {"torch": torch, "onnx": onnx, "onnxscript": onnxscript, "onnxruntime": onnxruntime}
    return {name: module.__version__ for name, module in modules.items()}
