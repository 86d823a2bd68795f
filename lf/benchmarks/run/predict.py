"""Predict once, score many: the features of a picture under a protocol, kept on disk so that a run resumes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lf.benchmarks.protocols.protocol import Protocol
from lf.core import Features, LfError, UsageError, files, ledger
from lf.core.fingerprint import versions
from lf.data import Picture
from lf.extraction.extractor import Extractor

Native = tuple[int, int]  # (H, W), pixels, before the protocol's geometry


def published(extractor: Extractor, protocol: Protocol) -> bool:
    """Whether the protocol means the network's published multi-scale extraction, not a single scale."""
    alone = extractor.keypoints is None and not extractor.pyramidal
    return protocol.size is None and extractor.model.pyramid is not None and alone


def check_resize(protocol: Protocol) -> None:
    """Raise UsageError if a protocol has no size of its own, to whose pixels the points of another could go back."""
    if protocol.size is None:
        raise UsageError(f"`size`: protocol {protocol.name} evaluates at the native size of every image; leave it out")


class Predictor:
    """The features of pictures from one extractor, under one protocol's geometry."""

    def __init__(self, extractor: Extractor, protocol: Protocol, cache: Path | None) -> None:
        """Keep features below `cache`, or nowhere.

        Raises:
            UsageError: the file takes one size only and the protocol evaluates at another; or one was asked for, and
                the protocol has none to go back to.
        """
        fixed, wanted = extractor.artifact.card.size, protocol.size
        if extractor.resize:
            check_resize(protocol)
        elif fixed is not None and not (wanted and extractor.takes(wanted, fixed)):
            at = f"at {wanted[0]}x{wanted[1]}" if wanted else "at the native size of every image"
            size = extractor.model.fitted(wanted) if wanted and extractor.model.prepare else wanted
            how = f"with `size={size[0]}x{size[1]}` or without `size`" if size else "without `size`"
            raise UsageError(
                f"{extractor.artifact.path} takes {fixed[0]}x{fixed[1]} only, protocol {protocol.name} evaluates {at}; "
                f"export it again {how}"
            )
        self.extractor = extractor
        self.protocol = protocol
        self._cache = cache / ledger.key(identity(extractor, protocol, __name__)) if cache else None

    def __call__(self, picture: Picture) -> tuple[Features, Native]:
        """Features in pixels of the prepared picture, and the picture's native size."""
        features, native = self._predicted(picture)
        least = self.protocol.above.get(self.extractor.model.family)
        return (features if least is None else features.take(features.scores > least)), native

    def _predicted(self, picture: Picture) -> tuple[Features, Native]:
        """The same before the protocol's own threshold; read from the cache, or kept there."""
        name = hashlib.sha256(f"{picture.key} {picture.digest}".encode("utf-8", "surrogateescape")).hexdigest()[:24]
        path = self._cache / f"{name}.npz" if self._cache else None
        if path is not None and (kept := _load(path)) is not None:
            return kept
        image = picture.load()
        prepared, _ = self.protocol.prepare(image, self.extractor.model.colours)
        extract = self.extractor.pyramid if published(self.extractor, self.protocol) else self.extractor
        features = extract(prepared)
        native = image.shape[0], image.shape[1]
        if path is not None:
            _save(path, features, native)
        return features, native


def identity(extractor: Extractor, protocol: Protocol, by: str) -> dict[str, Any]:
    """What a prediction depends on beside the picture; `by` is the module that makes it."""
    info = extractor.session.info
    return {
        **versions(by),
        "artifact": extractor.artifact.sha256,
        "keypoints": extractor.keypoints and extractor.keypoints.artifact.sha256,
        "engine": [info.engine, info.version, info.provider],
        "settings": sorted(extractor.settings.items()),
        "pyramid": extractor.pyramidal or (extractor.model.pyramid and dict(extractor.model.pyramid)),
        "resize": extractor.resize,
        "nms": extractor.nms,
        "geometry": [protocol.geometry.name, protocol.version, protocol.size],
    }


def _save(path: Path, features: Features, native: Native) -> None:
    buffer = io.BytesIO()
    arrays = {"keypoints": features.keypoints, "scores": features.scores, "descriptors": features.descriptors}
    np.savez(buffer, **arrays, size=np.array(features.size), native=np.array(native), allow_pickle=False)
    files.write_bytes(path, buffer.getvalue())


def _load(path: Path) -> tuple[Features, Native] | None:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            size, native = kept["size"].tolist(), kept["native"].tolist()
            features = Features(kept["keypoints"], kept["scores"], kept["descriptors"], (size[0], size[1]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, LfError):
        return None  # absent or damaged: predicted again
    return features, (native[0], native[1])
