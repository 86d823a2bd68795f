"""Evaluate a segmentation on labelled images; logits are kept on disk.

The prediction is always the network's own output, never a file of labels.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from lf.benchmarks.protocols.protocol import Protocol
from lf.benchmarks.protocols.segmentation import Seen, Size
from lf.benchmarks.run.predict import geometry, identity
from lf.core import Array, BadModel, LfError, UsageError, blaming, files, ledger
from lf.data import Picture
from lf.data.masks import LabelSet
from lf.data.masks.units import Unit
from lf.extraction.extractor import Extractor
from lf.formats import npz

HEAD = "segmentation"


class Segmenter:
    """Predicts logits of images with one extractor, at the size of one protocol."""

    def __init__(self, extractor: Extractor, protocol: Protocol, cache: Path | None) -> None:
        """Keep logits below `cache`, or nowhere.

        Images are resized to the size of the variant if it has one, otherwise of the file, otherwise of the protocol,
        rounded down to a size that the network takes.

        Raises:
            UsageError: the network has no segmentation.
        """
        check_head(extractor)
        wanted = extractor.resize or extractor.artifact.card.size or protocol.size
        assert wanted, "a protocol of segmentation has a size"
        self.extractor, self.protocol = extractor, protocol
        self.size = extractor.model.fitted(wanted)
        kept = {**identity(extractor, protocol, __name__), "geometry": geometry(protocol)}
        self._cache = cache / ledger.key(kept) if cache else None

    def __call__(self, picture: Picture) -> Seen:
        """Return the logits of an image, from the cache if possible.

        Raises:
            BadModel: a logit is not finite.
        """
        name = hashlib.sha256(f"{picture.key} {picture.digest}".encode("utf-8", "surrogateescape")).hexdigest()[:24]
        path = self._cache / f"{name}.npz" if self._cache else None
        if path is not None and (kept := _load(path)) is not None:
            return Seen(kept[0], self.size, kept[1])
        image = picture.load()
        seen = Seen(self.logits(image), self.size, (image.shape[0], image.shape[1]))
        if path is not None:
            buffer = io.BytesIO()
            np.savez(buffer, logits=seen.logits, native=np.array(seen.native), allow_pickle=False)
            files.write_bytes(path, buffer.getvalue())
        return seen

    def logits(self, image: Array) -> Array:
        """Return logits (C, h, w) float32 of an image, uint8 (H, W, 3) RGB."""
        prepared = self.protocol.geometry.prepare(image, self.extractor.model.colours, self.size)
        with blaming(self.extractor.artifact.path):
            logits = self.extractor.maps(prepared)[HEAD]
            if not np.isfinite(logits).all():
                raise BadModel.not_finite(f"the map {HEAD}")
        return np.ascontiguousarray(logits, np.float32)

    def score(self, unit: Unit) -> dict[str, Any]:
        """Return the scores of a labelled image."""
        check_classes(self.extractor, unit.labelled.classes)
        return dict(self.protocol.scorer(self(unit.first), unit.labelled, **self.protocol.params))


def check_head(extractor: Extractor) -> None:
    """Raise UsageError if a file has no segmentation."""
    artifact = extractor.artifact
    if HEAD not in artifact.card.outputs:
        has = ", ".join(artifact.card.outputs) or "none"
        raise UsageError(f"{artifact.path}: has no output {HEAD}, its outputs: {has}; expected a network that has one")


def check_classes(extractor: Extractor, classes: LabelSet) -> None:
    """Raise UsageError if a file has no segmentation, or another number of classes than the label set."""
    check_head(extractor)
    channels = extractor.artifact.card.outputs[HEAD][0]
    if channels != len(classes):
        raise UsageError(
            f"{extractor.artifact.path}: tells {channels} classes apart, label set {classes.name} has {len(classes)}; "
            "name the set that it was trained on"
        )


def _load(path: Path) -> tuple[Array, Size] | None:
    try:
        kept = npz.read(path, "kept logits", ("logits", "native"))
        logits, native = kept["logits"], npz.size(path, "native", kept["native"])
    except LfError:
        return None  # missing or damaged: predict again
    return (logits, native) if logits.ndim == 3 and logits.dtype == np.float32 else None
