"""Derive a model file from another: convert, compare with the source, note the step in the card, write."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lf import __version__
from lf.core import Artifact, Card
from lf.formats import model_file
from lf.formats.int32_bias import refuse_large


@dataclass(frozen=True)
class Draft:
    """A converted file before it is compared with its source.

    Attributes:
        data: the bytes, without a card.
        card: the card of the source with the changes of the conversion, without a new step.
        options: for the step: options of the conversion.
        versions: for the step: versions of the packages that made the file; that of lf is added.
        compare: compares the file, in a temporary folder, and returns figures for the step. It raises an error for a
            file that must not be written.
        notes: other fields of the step.
    """

    data: bytes
    card: Card
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    compare: Callable[[Artifact], Mapping[str, Any]]
    notes: Mapping[str, Any] = field(default_factory=dict)


def derive(source: Artifact, out: Path, command: str, convert: Callable[[Path], Draft]) -> Artifact:
    """Make the file `out` from `source`; write nothing unless it passes its comparison.

    Args:
        source: the file that the card names as the parent.
        out: the file to write.
        command: name of the step.
        convert: makes the new file; receives a temporary folder for intermediate files.

    Raises:
        GateFailed: a quantized bias is too large, see `lf.formats.int32_bias`.
        LfError: an error of `convert` or of the comparison.
    """
    with tempfile.TemporaryDirectory(prefix=f"lf-{command}-") as folder:
        draft = convert(Path(folder))
        step = {
            "command": command,
            "options": dict(draft.options),
            "parent": source.sha256,
            "versions": {"lf": __version__, **draft.versions},
            **draft.notes,
        }
        if draft.card.scheme != "fp32":
            refuse_large(source.path, out.suffix, draft.data)
        aside = model_file.save(Path(folder, f"draft{out.suffix}"), draft.data, draft.card.step(made=step))
        step |= draft.compare(aside)
    return model_file.save(out, draft.data, draft.card.step(made=step))
