"""Frames of a camera, a video or a folder, in order: uint8 (H, W, 3) RGB."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import cv2

from lf.core import MAX_PIXELS, Array, BadInput, Unavailable, files
from lf.core.console import quiet
from lf.data import images

RATE = 25.0  # frames per second if the source does not tell


@dataclass(frozen=True)
class Source:
    """Frames in order.

    Attributes:
        name: name for the title and for errors.
        frames: uint8 (H, W, 3) RGB.
        rate: frames per second.
        count: number of frames; 0 if unknown.
        endless: True for a camera, which the user stops.
    """

    name: str
    frames: Iterator[Array]
    rate: float = RATE
    count: int = 0
    endless: bool = False


def peek(source: Source) -> tuple[Array | None, Source]:
    """Return the first frame, or None, and a source that still gives all frames."""
    frames = iter(source.frames)
    first = next(frames, None)
    return first, source if first is None else replace(source, frames=chain([first], frames))


def camera(number: int) -> Source:
    """Open a camera by its number.

    Raises:
        Unavailable: there is no such camera; or, from `frames`, it stopped.
    """
    capture = _open(number)
    if not capture.isOpened():
        raise Unavailable(
            f"camera {number} cannot be opened: none is there, another program has it, or you may not (group video); "
            "see: ls /dev/video*"
        )

    def frames() -> Iterator[Array]:
        seen = yield from _read(capture)
        raise Unavailable(f"camera {number} stopped after {seen} frames; is it still plugged in?")

    return Source(f"camera {number}", frames(), _rate(capture), endless=True)


def video(path: Path) -> Source:
    """Open a video file.

    Raises:
        BadInput: no such file, or OpenCV cannot read it; from `frames`, it has no frame.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected a video")
    if not files.is_utf8(str(path)):
        raise BadInput(f"{path}: its name is not UTF-8, which OpenCV cannot open as a video; rename it")
    capture = _open(str(path))
    pixels = capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    if not capture.isOpened() or not 0 < pixels <= MAX_PIXELS:
        raise BadInput(f"{path}: no video that this OpenCV {cv2.__version__} reads (damaged, or of another kind)")

    def frames() -> Iterator[Array]:
        if not (yield from _read(capture)):
            raise BadInput(f"{path}: a video without a frame that can be decoded; it is damaged or cut short")

    return Source(path.name, frames(), _rate(capture), max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))))


def folder(path: Path) -> Source:
    """Open the images of a folder, in the order of their names.

    Raises:
        BadInput: no image in it; from `frames`, an image cannot be read.
    """
    found = images.list_images(path)
    return Source(path.name, map(images.read, found), count=len(found))


def _open(what: int | str) -> cv2.VideoCapture:
    with images.unheard(), quiet():
        return cv2.VideoCapture(what)


def _read(capture: cv2.VideoCapture) -> Generator[Array, None, int]:
    """Yield all frames, and return their number; the capture is released at the end."""
    seen = 0
    try:
        while (frame := _next(capture)) is not None:
            seen += 1
            yield frame
    finally:
        capture.release()
    return seen


def _next(capture: cv2.VideoCapture) -> Array | None:
    with quiet():
        there, frame = capture.read()
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if there and frame is not None else None


def _rate(capture: cv2.VideoCapture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return float(rate) if 1 <= rate <= 240 else RATE


def open_source(source: str) -> Source:
    """Open a camera (its number), a folder of images, or a video file.

    Raises:
        BadInput: the source is none of these.
        Unavailable: the camera cannot be opened.
    """
    path = Path(source)
    if source.isdecimal() and not path.exists():
        return camera(int(source))
    return folder(path) if path.is_dir() else video(path)
