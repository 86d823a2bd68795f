"""Features of an image under a protocol, kept on disk so that a run can resume.

The key of cached features is the pixels of the network's input, so protocols with the same preparation share them. A
note beside them maps image and geometry to that key, so that the image need not be read again.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lf.benchmarks.protocols.geometry import image_size
from lf.benchmarks.protocols.protocol import Protocol
from lf.core import Array, Features, LfError, UsageError, files, ledger
from lf.core.fingerprint import versions
from lf.data import Picture
from lf.extraction.extractor import Extractor
from lf.formats import npz

MOST = 256 << 20  # bytes of features in memory; further features are extracted again

Native = tuple[int, int]  # (H, W), pixels, before the protocol's geometry


def published(extractor: Extractor, protocol: Protocol) -> bool:
    """Return whether the protocol uses the network's published multi-scale extraction instead of a single scale."""
    alone = extractor.keypoints is None and not extractor.pyramidal
    return protocol.size is None and extractor.model.pyramid is not None and alone


def check_resize(protocol: Protocol) -> None:
    """Raise UsageError if a protocol has no image size, so that points cannot be mapped back from another size."""
    if protocol.size is None:
        raise UsageError(f"`size`: protocol {protocol.name} evaluates at the native size of every image; leave it out")


class Memory:
    """Features of one extractor in memory, shared by protocols with the same input pixels; up to MOST bytes."""

    def __init__(self) -> None:
        """Start empty."""
        self._features: dict[bytes, Features] = {}
        self._room = MOST

    def features(self, prepared: Array, how: str, extract: Callable[[Array], Features]) -> Features:
        """Return the features of a prepared image, extracted or from memory; `how` identifies the settings."""
        key = hashlib.sha256(f"{how} {prepared.shape}".encode() + prepared.tobytes()).digest()
        found = self._features.get(key)
        if found is None:
            found = extract(prepared)
            size = sum(array.nbytes for array in (found.keypoints, found.scores, found.descriptors))
            if size <= self._room:
                self._room -= size
                self._features[key] = found
        return found


class Predictor:
    """Extracts features of images with one extractor, at the size of one protocol."""

    def __init__(
        self, extractor: Extractor, protocol: Protocol, cache: Path | None, memory: Memory | None = None
    ) -> None:
        """Keep features below `cache`, or in `memory`, or nowhere.

        Raises:
            UsageError: the file has a fixed size and the protocol evaluates at another; or `size` is given, and the
                protocol has no image size.
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
        self._memory = memory

    def __call__(self, picture: Picture) -> tuple[Features, Native]:
        """Return features in pixels of the prepared image, and the native size (H, W) of the image."""
        features, native = self._predicted(picture)
        least = self.protocol.above.get(self.extractor.model.family)
        return (features if least is None else features.take(features.scores > least)), native

    def _predicted(self, picture: Picture) -> tuple[Features, Native]:
        """Return the same without the protocol's own threshold, from the cache if possible."""
        if self._cache is None:
            image = picture.load()
            prepared = self._prepare(image)
            if self._memory is None:
                return self._extract(prepared), image_size(image)
            how = str(published(self.extractor, self.protocol))
            return self._memory.features(prepared, how, self._extract), image_size(image)
        seen = f"{picture.key} {picture.digest} {geometry(self.protocol)}"
        note = self._cache / f"{_digest(seen.encode('utf-8', 'surrogateescape'))}.json"
        if (kept := _noted(note)) is not None:
            return kept
        image = picture.load()
        prepared = self._prepare(image)
        path = self._cache / f"{_digest(repr(prepared.shape).encode() + prepared.tobytes())}.npz"
        features = _load(path)
        if features is None:
            features = self._extract(prepared)
            _save(path, features)
        files.write_json(note, {"features": path.name, "native": image_size(image)})
        return features, image_size(image)

    def _prepare(self, image: Array) -> Array:
        return self.protocol.prepare(image, self.extractor.model.colours)[0]

    def _extract(self, prepared: Array) -> Features:
        return (self.extractor.pyramid if published(self.extractor, self.protocol) else self.extractor)(prepared)


def identity(extractor: Extractor, protocol: Protocol, by: str) -> dict[str, Any]:
    """Return the identity of a prediction without its pixels; `by` is the module that computes it."""
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
        "published": published(extractor, protocol),
    }


def geometry(protocol: Protocol) -> list[Any]:
    """Return the identity of the preparation of an image."""
    return [protocol.geometry.name, protocol.version, protocol.size]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]


def _save(path: Path, features: Features) -> None:
    buffer = io.BytesIO()
    arrays = {"keypoints": features.keypoints, "scores": features.scores, "descriptors": features.descriptors}
    np.savez(buffer, **arrays, size=np.array(features.size), allow_pickle=False)
    files.write_bytes(path, buffer.getvalue())


def _noted(note: Path) -> tuple[Features, Native] | None:
    """Read the features that a note names, and the native size; None if a file is missing or damaged."""
    try:
        kept = files.read_json(note, "a note of the cache")
        features, (height, width) = _load(note.with_name(str(kept["features"]))), kept["native"]
    except (LfError, KeyError, TypeError, ValueError):
        return None
    return None if features is None else (features, (int(height), int(width)))


def _load(path: Path) -> Features | None:
    try:
        kept = npz.read(path, "kept features", ("keypoints", "scores", "descriptors", "size"))
        return Features(kept["keypoints"], kept["scores"], kept["descriptors"], npz.size(path, "size", kept["size"]))
    except LfError:
        return None  # missing or damaged: predict again
