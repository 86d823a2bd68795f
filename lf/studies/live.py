"""Draw keypoints and tracks of a camera, a video or a folder.

Frames are uint8 (H, W, 3) RGB; BGR is used only for writing videos with OpenCV.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from lf.benchmarks.protocols.matching import mutual
from lf.benchmarks.report import match_pictures
from lf.core import Array, Features, Unavailable, UsageError, files
from lf.data.contact_sheets import drawable
from lf.data.frames import Source
from lf.extraction.extractor import Extractor
from lf.extraction.stream import remark_resize

Progress = Callable[[int, int, str], None]
CODECS = {".avi": "MJPG", ".mp4": "mp4v"}
TRAIL = 15  # length of a drawn track, frames
REACH = 0.1  # share of the diagonal; longer matches are not taken as motion
DOT = 1.6  # px


@dataclass
class Tracks:
    """Earlier positions of the keypoints of the last frame.

    Attributes:
        features: features of the last frame.
        trails: for each of its keypoints, its (x, y) in px in earlier frames, oldest first.
    """

    features: Features | None = None
    trails: list[list[Array]] = field(default_factory=list)

    def follow(self, features: Features) -> list[list[Array]]:
        """Link the keypoints of the next frame to their mutual nearest neighbours; return the trail of each."""
        trails: list[list[Array]] = [[] for _ in range(len(features))]
        if self.features is not None:
            i, j = mutual(self.features.descriptors, features.descriptors, "dot")
            moved = np.linalg.norm(features.keypoints[j] - self.features.keypoints[i], axis=1)
            near = moved <= REACH * np.hypot(*features.size)
            for before, now in zip(i[near].tolist(), j[near].tolist(), strict=True):
                trails[now] = self.trails[before]
        for trail, point in zip(trails, features.keypoints, strict=True):
            trail.append(point)
            del trail[:-TRAIL]
        self.features, self.trails = features, trails
        return trails


def draw(frame: Array, trails: list[list[Array]], text: str) -> Array:
    """Draw a disc at each keypoint of a frame, blue if it is followed and grey if it is new, and its trail."""
    canvas = np.ascontiguousarray(frame).copy()
    for trail in trails:
        if len(trail) > 1:
            line = np.rint(np.stack(trail) * 16).astype(np.int32)  # sixteenths of a pixel: shift=4
            cv2.polylines(canvas, [line], False, match_pictures.ORANGE, 1, cv2.LINE_AA, 4)
    points = np.rint(np.reshape([trail[-1] for trail in trails], (-1, 2)) * 16).astype(int)
    shades = [match_pictures.SKY if len(trail) > 1 else match_pictures.FAINT for trail in trails]
    match_pictures.discs(canvas, points, shades, DOT, rim=True)
    for width, shade in ((3, match_pictures.INK), (1, match_pictures.WHITE)):
        cv2.putText(canvas, drawable(text), (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, shade, width, cv2.LINE_AA)
    return canvas


@contextmanager
def writer(out: Path, rate: float) -> Iterator[Callable[[Array], None]]:
    """Yield a function that writes annotated frames to a video or a folder of images; no file is left half written.

    Raises:
        UsageError: an unsupported type of file; a frame with another size than the first; or see
            `lf.core.files.atomic`.
        Unavailable: this OpenCV cannot write such videos.
    """
    if out.suffix not in CODECS:
        if out.suffix:
            raise UsageError(f"{out}: expected a folder, or a video: {', '.join(CODECS)}")
        count = 0

        def keep(frame: Array) -> None:
            nonlocal count
            match_pictures.save(out / f"{count:06}.png", frame)
            count += 1

        yield keep
        return
    if not files.is_utf8(str(out)):
        raise UsageError(f"{out}: its name is not UTF-8, in which OpenCV writes no video; choose another")
    with files.atomic(out) as temporary:
        opened: list[tuple[cv2.VideoWriter, tuple[int, ...]]] = []

        def write(frame: Array) -> None:
            if not opened:
                size = frame.shape[1], frame.shape[0]
                code = cv2.VideoWriter.fourcc(*CODECS[out.suffix])
                opened.append((cv2.VideoWriter(str(temporary), code, rate, size), frame.shape))
                if not opened[0][0].isOpened():
                    raise Unavailable(f"{out}: this OpenCV {cv2.__version__} does not write such videos; try .avi")
            video, shape = opened[0]
            if frame.shape != shape:
                raise UsageError(f"{out}: a video has frames of one size; give a folder for images of several sizes")
            video.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

        try:
            yield write
        finally:
            for video, _ in opened:
                video.release()


@dataclass
class Seen:
    """Counts of a run: extraction in ms, keypoints and followed keypoints of each frame."""

    milliseconds: list[float] = field(default_factory=list)
    keypoints: list[int] = field(default_factory=list)
    followed: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        """Format the counts as one line."""
        after = self.followed[1:]
        return (
            f"{len(self.keypoints)} frames, {np.median(self.milliseconds):.1f} ms each to extract (median), "
            f"{np.mean(self.keypoints):.0f} keypoints, {np.mean(after) if after else 0:.0f} of them followed"
        )


def run(
    source: Source,
    extractor: Extractor,
    out: Path,
    top_k: int = 300,
    limit: int | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Seen:
    """Extract, follow, draw and write until the source ends, `limit` frames are done, or a camera is interrupted.

    Raises:
        BadInput, Unavailable: see `lf.data.frames`.
        UsageError: see `writer`.
    """
    tracks, seen, total = Tracks(), Seen(), limit or source.count
    stop: tuple[type[BaseException], ...] = (KeyboardInterrupt,) if source.endless else ()
    with writer(out, source.rate) as write, suppress(*stop):
        for index, frame in enumerate(source.frames):
            start = time.perf_counter()
            if isinstance(extractor, Extractor):
                remark_resize(extractor, frame)
            features = extractor(frame).top(top_k)
            seen.milliseconds.append((time.perf_counter() - start) * 1e3)
            trails = tracks.follow(features)
            seen.keypoints.append(len(features))
            seen.followed.append(sum(len(trail) > 1 for trail in trails))
            write(draw(frame, trails, f"{source.name}  {seen.milliseconds[-1]:.0f} ms  {len(features)} keypoints"))
            progress(index + 1, total, source.name)
            if index + 1 == limit:
                break
    return seen
