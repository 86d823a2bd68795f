"""The float ONNX file of a network that is given as a checkpoint or by the name of shipped weights."""

from __future__ import annotations

from pathlib import Path

from lf.core import Artifact, BadInput, console
from lf.export import export
from lf.formats import model_file
from lf.runtimes import CHECKPOINTS


def float_onnx_of(artifact: Artifact, folder: Path) -> Artifact:
    """Return the artifact itself, or the ONNX file that a checkpoint is exported to.

    Args:
        artifact: an ONNX file, which stays what it is, or a checkpoint.
        folder: where the ONNX file is kept; one of the same checkpoint that is there is used again.

    Raises:
        GateFailed: the ONNX file gives other numbers than the checkpoint.
    """
    if artifact.path.suffix not in CHECKPOINTS:
        return artifact
    out = folder / f"{artifact.path.stem.removesuffix('.pth')}.onnx"
    made = _made_of(artifact, out) or export(artifact, "onnx", out)
    console.note(f"{artifact.path.name} is exported first: {made.path}")
    return made


def _made_of(artifact: Artifact, out: Path) -> Artifact | None:
    """The file at `out`, if it is a float export of free size of the same checkpoint."""
    try:
        there = model_file.load(out)
    except BadInput:
        return None
    last = there.card.made[-1] if there.card.made else {}
    same = last.get("command") == "export" and last.get("parent") == artifact.sha256
    return there if same and there.card.size is None and there.card.scheme == "fp32" else None
