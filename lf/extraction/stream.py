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

AHEAD = 2  # items per worker that are begun or waiting; it limits the memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def published(extractor: Extractor, image: Array, top_k: int | None = None) -> Features:
    """Extract the best points as published: over the network's pyramid if it has one and the file takes every size."""
    remark_resize(extractor, image)
    plain = extractor.pyramidal or extractor.keypoints or extractor.artifact.card.size is not None
    if plain or not extractor.model.pyramid:
        return extractor(image, top_k=top_k)
    return extractor.pyramid(image).top(top_k)


def remark_resize(extractor: Extractor, image: Array) -> None:
    """Print once per process that images are resized, if the file has a fixed size and the image has another."""
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
    """Extract the features of an image file or image, best first, as in `lf extract`.

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
    """Yield the features of image files, in the order of the files, or the error of a file; see `in_order`.

    Args:
        extractor: the opened model, which one of the workers uses.
        paths: image files or images; read one by one.
        top_k: number of best keypoints to keep.
        workers: number of images in parallel.

    Raises:
        BadModel: the network's maps are broken; raised at that image.
        Unavailable: the engine has stopped working; raised at that image.
    """

    def attempt(extractor: Extractor, path: Path | Picture) -> Features | BadInput:
        try:
            return features_of(extractor, path, top_k)
        except BadModel:  # it would fail for all images
            raise
        except BadInput as error:
            return error

    return in_order(extractor, paths, attempt, workers)


def in_order(
    extractor: Extractor, items: Iterable[Item], do: Callable[[Extractor, Item], Result], workers: int
) -> Generator[Result, None, None]:
    """Yield the results of `do` in the order of the items, computed in parallel.

    Every worker is a thread with its own session, which is opened when it is first needed. At most AHEAD items per
    worker are begun before their results are taken. Close the iterator (`contextlib.closing`) to stop early: items that
    are begun are finished, and no others are begun.

    Args:
        extractor: the opened model, which one of the workers uses.
        items: items, read one by one.
        do: (the worker's extractor, item) -> result; its errors are raised at the item.
        workers: number of items in parallel; with 1 no thread is started.
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
    """Disable OpenCV's own threads and log for the process while workers decode."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with images.unheard():
            yield
    finally:
        cv2.setNumThreads(threads)
