"""Files of lf, from image to features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lf.core import Array, Features
from lf.extraction.extractor import Extractor
from lf.extraction.store import backend_for
from lf.models.resolve import resolve
from scripts.peers.peer import Peer

SETTINGS = {"superpoint": {"threshold": 0.005}}  # that of transformers, so that both find as many points


def opened(words: str, points: int) -> Peer:
    """`FILE` or `FILE@BACKEND` -> what extracts the best `points` with it."""
    name, _, backend = words.partition("@")
    artifact = resolve(name)
    settings = SETTINGS.get(artifact.card.model, {})
    extractor = Extractor(artifact, backend or backend_for(artifact), **settings)
    info = extractor.session.info
    label = f"{artifact.card.model} {artifact.card.scheme}".removesuffix(" fp32")
    return Peer(label, "lf", f"{info.engine} {info.version}", partial(_extract, extractor, points), "lf")


def reference(path: str, points: int) -> Callable[[Array], Features]:
    """The float network of a checkpoint in PyTorch, as `opened` opens it."""
    return opened(f"{path}@torch", points).extract


def _extract(extractor: Extractor, points: int, picture: Array) -> Features:
    return extractor(picture, top_k=points)
