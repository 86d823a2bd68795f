"""Features of image files: of one, or of many in order and in parallel."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2

from lf.core import Array, BadInput, BadModel, Features, console
from lf.data import Picture, images
from lf.extraction.extractor import Extractor

AHEAD = 2  # items that are begun or waiting to be taken, for each worker: what bounds the memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def published(extractor: Extractor, image: Array, top_k: int | None = None) -> Features:
    """Extract the best points as the authors do: over their pyramid if they have one and the file takes every size."""
    remark_resize(extractor, image)
    plain = extractor.pyramidal or extractor.keypoints or extractor.artifact.card.size is not None
    if plain or not extractor.model.pyramid:
        return extractor(image, top_k=top_k)
    return extractor.pyramid(image).top(top_k)


def remark_resize(extractor: Extractor, image: Array) -> None:
    """Say once in a process that images are resized, if the file takes one size and the image has another."""
    fixed = extractor.artifact.card.size
    if fixed and extractor.resize is None and image.shape[:2] != fixed:
        _say_resized(extractor.artifact.path, fixed)


@cache
def _say_resized(path: Path, size: tuple[int, int]) -> None:
    console.note(
        f"{path}: takes images of {size[0]}x{size[1]} only; others are resized to it, which costs accuracy. "
        "A file of free size: lf export CHECKPOINT"
    )


def features_of(extractor: Extractor, path: Path | Picture, top_k: int | None = None) -> Features:
    """The features of an image file or of a picture, best first, as `lf extract` writes them.

    Raises:
        BadInput: the file cannot be read, or the image is too small.
        BadModel: the network's maps are broken.
        Unavailable: the engine does not run any more.
    """
    image = images.read(path) if isinstance(path, Path) else path.load()
    try:
        return published(extractor, image, top_k)
    except BadModel:
        raise
    except BadInput:
        extractor.check_engine()
        raise


def stream(
    extractor: Extractor, paths: Iterable[Path | Picture], top_k: int | None = None, workers: int = 1
) -> Generator[Features | BadInput, None, None]:
    """The features of image files, in the order of the files; for one that fails, why; see `in_order`.

    Args:
        extractor: the opened model; one of the workers has it.
        paths: image files or pictures; taken one by one.
        top_k: keep the best so many.
        workers: images at a time.

    Raises:
        BadModel: the network's maps are broken; at the turn of that image.
        Unavailable: the engine does not run any more; likewise.
    """

    def attempt(extractor: Extractor, path: Path | Picture) -> Features | BadInput:
        try:
            return features_of(extractor, path, top_k)
        except BadModel:  # no other image would fare better
            raise
        except BadInput as error:
            return error

    return in_order(extractor, paths, attempt, workers)


def in_order(
    extractor: Extractor, items: Iterable[Item], do: Callable[[Extractor, Item], Result], workers: int
) -> Generator[Result, None, None]:
    """Results of `do` in the order of the items, several at a time.

    Every worker is a thread with a session of its own, which is opened when its turn first comes. No more than AHEAD
    items for each worker are begun before they are taken. Close the iterator (`contextlib.closing`) to stop early:
    items that are begun are finished, and no other is begun.

    Args:
        extractor: the opened model; one of the workers has it.
        items: taken one by one.
        do: with the worker's extractor, what is to be done; what it raises is raised at the turn of its item.
        workers: items at a time; with 1 no thread is started.
    """
    if workers == 1:
        for item in items:
            yield do(extractor, item)
        return
    own, opening, first = threading.local(), threading.Lock(), [extractor]

    def work(item: Item) -> Result:
        if not hasattr(own, "extractor"):
            with opening:
                own.extractor = first.pop() if first else extractor.again()
        return do(own.extractor, item)

    waiting, rest = deque[Future[Result]](), iter(items)
    with _one_thread_each():
        pool = ThreadPoolExecutor(workers, "lf-worker")
        try:
            waiting.extend(pool.submit(work, item) for item in islice(rest, AHEAD * workers))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(rest, 1))
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """OpenCV's settings are the process's: no threads of its own, and no words while any worker decodes."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with images.unheard():
            yield
    finally:
        cv2.setNumThreads(threads)
