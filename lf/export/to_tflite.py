"""Export ONNX or a checkpoint to a float .tflite file with a fixed input size."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from lf.core import Artifact, UsageError
from lf.export import parity, to_onnx
from lf.export.to_onnx import OWN
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.formats import onnx_model, onnx_to_tflite, tflite_heads
from lf.formats.derive import Draft, derive
from lf.models import check_size, check_tflite
from lf.runtimes import CHECKPOINTS


def export(
    artifact: Artifact,
    out: Path,
    *,
    size: tuple[int, int] | None = OWN,
    opset: int | None = None,
    images: Path | None = None,
    half: bool = False,
) -> Artifact:
    """Export a float ONNX file or a checkpoint.

    Args:
        artifact: the file to export.
        out: the .tflite file.
        size: fixed input size (H, W), see OWN.
        opset: operator set of the intermediate ONNX file of a checkpoint.
        images: folder of images for the parity check; None draws them.
        half: store the weights in float16; computation stays in float32.

    Raises:
        UsageError: neither float ONNX nor a checkpoint, a size that does not fit, or a network without a TFLite form.
        GateFailed: the file does not agree with its parent; nothing is written.
        Unavailable: onnx2tf or TensorFlow is not installed.
        LfError: the converter failed.
    """
    if size is None:
        raise UsageError("a .tflite file takes one size; type for example: `size=240x320`")
    check_tflite(artifact)
    with tempfile.TemporaryDirectory(prefix="lf-export-") as folder:
        parent = artifact
        if artifact.path.suffix in CHECKPOINTS:
            parent = to_onnx.through(artifact, Path(folder), size, opset, images)
        elif opset is not None:
            raise UsageError(f"{artifact.path}: has its operator set; `opset` is for checkpoints")
        parent = _sized(parent, size)
        return derive(parent, out, "export", lambda _: _converted(parent, images, half))


def _sized(parent: Artifact, size: tuple[int, int]) -> Artifact:
    """Return the float ONNX file with a fixed input size."""
    card = parent.card
    if card.features:
        raise UsageError(f"{parent.path}: contains its decoder; export to tflite starts from the file it was made from")
    if parent.path.suffix != ".onnx" or card.scheme != "fp32":
        raise UsageError(
            f"{parent.path}: export to tflite starts from float .onnx or a checkpoint, this one is {card.scheme} "
            f"{parent.path.suffix}; for 8 bits type: `quantize(MODEL.onnx, writer=tflite, images=DIR)`"
        )
    onnx_model.refuse_rewritten(parent.path, "export")
    wanted = (card.size or to_onnx.usual_size(card)) if size == OWN else size
    if card.size not in (None, wanted):
        own = "x".join(map(str, card.size))
        raise UsageError(f"{parent.path}: takes images of {own} only; leave `size` out, or export it again with it")
    model = Extractor(parent, "ort-cpu").model
    check_size(wanted, model, card.model)
    return replace(parent, card=replace(card, input=(card.input[0], *wanted)))


def _converted(parent: Artifact, images: Path | None, half: bool) -> Draft:
    size = parent.card.size
    assert size is not None
    graph = onnx_to_tflite.static(onnx_model.read(parent.path), size)
    reference = Extractor(parent, "ort-cpu")
    agreement.refuse_broken(reference)
    picture = next(agreement.drawn(size, 1))
    tensor = reference.tensor(reference.fit(picture))
    relative = tflite_heads.HALF if half else tflite_heads.RELATIVE

    def compare(made: Artifact) -> dict[str, Any]:
        return {"parity": parity.check(parent, made, "ort-cpu", "tflite", images, relative, exact=not half)}

    return Draft(
        data=tflite_heads.named(onnx_to_tflite.convert(graph, half), tensor, reference.session.run(tensor), relative),
        card=parent.card,
        options={"to": "tflite", "size": list(size), **({"half": True} if half else {})},
        versions=onnx_to_tflite.versions(),
        compare=compare,
        notes={"opset": onnx_to_tflite.opset(graph)},
    )
