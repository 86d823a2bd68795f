"""Files of lf, from picture to features."""

from __future__ import annotations

from functools import partial

from lf.core import Array, Features
from lf.extraction.extractor import Extractor
from lf.extraction.store import backend_for
from lf.models.resolve import resolve
from scripts.peers.peer import Peer


def opened(words: str, points: int) -> Peer:
    """`FILE` or `FILE@BACKEND` -> what extracts the best `points` with it."""
    name, _, backend = words.partition("@")
    artifact = resolve(name)
    extractor = Extractor(artifact, backend or backend_for(artifact))
    info = extractor.session.info
    label = f"{artifact.card.model} {artifact.card.scheme}".removesuffix(" fp32")
    return Peer(label, "lf", f"{info.engine} {info.version}", partial(_extract, extractor, points), "lf")


def reference(path: str, points: int, **settings: float) -> partial[Features]:
    """The float network of a checkpoint in PyTorch with the decoder settings of a peer."""
    return partial(_extract, Extractor(resolve(path), "torch", **settings), points)


def _extract(extractor: Extractor, points: int, picture: Array) -> Features:
    return extractor(picture, top_k=points)
