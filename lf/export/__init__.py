"""TARGETS: one row per export format. Every target checks parity."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lf.core import Artifact, UsageError, files, pick
from lf.formats import cards
from lf.models import check_refinement


@dataclass(frozen=True)
class Target:
    """A target format.

    Attributes:
        module: its code, with `export(artifact, out, **options) -> Artifact`, which writes nothing unless the new file
            agrees with its parent.
        suffix: suffix of its files.
        about: one line for the help.
        parent: type of the parent: a checkpoint, an onnx or a tflite file.
        codec: storage of the card in its files, for a new suffix; see `lf.formats.cards.appended`.
    """

    module: str
    suffix: str
    about: str
    parent: str = "checkpoint"
    codec: cards.Codec | None = None

    def register(self) -> None:
        """Register the codec of its suffix for reading and writing."""
        cards.register([self.suffix], self.codec)


TARGETS: dict[str, Target] = {
    "onnx": Target("lf.export.to_onnx", ".onnx", "ONNX in one file, raw heads as outputs, static or free size"),
    "tflite": Target("lf.export.to_tflite", ".tflite", "float TFLite of one size, by onnx2tf and TensorFlow", "onnx"),
    "edgetpu": Target(
        "lf.edgetpu.compiler",
        "_edgetpu.tflite",
        "an int8 .tflite compiled for Coral's Edge TPU by Google's compiler",
        "tflite",
    ),
}

for _row in TARGETS.values():
    _row.register()

CUTS = {  # the ends of graphs
    "heads": "raw heads, which lf decodes: for every engine, and what is quantized",
    "features": "keypoints, scores, descriptors in so many slots: for engines that run the decode as well",
}


def export(
    artifact: Artifact,
    target: str,
    out: Path | None = None,
    *,
    cut: str = "heads",
    refine: str | None = None,
    **options: Any,
) -> Artifact:
    """Convert a model file to another format.

    Args:
        artifact: the file to export.
        target: a row of TARGETS.
        out: the file to write; `<name of the parent><suffix>` in the current folder by default.
        cut: a row of CUTS.
        refine: sub-pixel method, see `lf.models.decode.refined`, for the card or the graph. None does not change it.
        options: options of the target; see its module.

    Raises:
        UsageError: unknown target, or a file or option that does not fit it.
        GateFailed: the new file does not agree with its parent; nothing is written.
    """
    row = pick(TARGETS, target, "export target")
    if pick(CUTS, cut, "cut") != CUTS["heads"]:
        if target != "onnx":
            raise UsageError(f"`cut={cut}` belongs to `to=onnx`; a {row.suffix} file ends at its raw heads")
        out, row = out or Path(f"{_stem(artifact)}.{cut}{row.suffix}"), replace(row, module="lf.export.to_features")
    out = out or Path(_stem(artifact) + row.suffix)
    if not out.name.endswith(row.suffix):
        raise UsageError(f"{out}: target {target} writes {row.suffix} files; type: -o {out.stem}{row.suffix}")
    files.refuse_own(out, artifact.path)
    if refine:
        check_refinement(refine, artifact.card, str(artifact.path))
        artifact = replace(artifact, card=artifact.card.step(refine=refine))
    made: Artifact = importlib.import_module(row.module).export(artifact, out, **options)
    return made


def _stem(artifact: Artifact) -> str:
    return artifact.path.stem.removesuffix(".pth")
