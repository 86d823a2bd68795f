"""Pictures that are read or drawn once where several models look at them one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from lf.core import Array
from lf.data import Pair, Picture

MOST = 256 << 20  # bytes of pixels in memory; further images are read again


class _Memory:
    def __init__(self) -> None:
        self._pixels: dict[str, Array] = {}
        self._room = MOST

    def load(self, load: Callable[[], Array], key: str) -> Array:
        """Return the pixels of an image, read-only."""
        found = self._pixels.get(key)
        if found is None:
            found = load()
            found.flags.writeable = False
            if found.nbytes <= self._room:
                self._room -= found.nbytes
                self._pixels[key] = found
        return found


def kept(pairs: Sequence[Pair]) -> list[Pair]:
    """Return pairs that keep loaded images in memory, up to MOST bytes; their pixels are read-only.

    Example:
        for model in models:
            evaluate(model, pairs)  # with `pairs = kept(pairs)` the second model waits for no image file
    """
    memory = _Memory()

    def once(picture: Picture) -> Picture:
        return replace(picture, load=partial(memory.load, picture.load, f"{picture.key} {picture.digest}"))

    return [replace(pair, first=once(pair.first), second=once(pair.second)) for pair in pairs]
