"""Draw a pair of images: matches coloured by error, keypoints coloured by repeatability.

uint8 RGB, OpenCV only. Good is sky blue, bad is orange, of the Okabe-Ito palette: colour-blind eyes tell them apart.
The images are dimmed to grey, so that nothing else has a colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from lf.benchmarks.protocols import metrics
from lf.benchmarks.protocols.matching import mutual
from lf.core import Array, Features, UsageError, files
from lf.data.cameras import RelativePose, epipolar_distance
from lf.data.contact_sheets import drawable
from lf.data.homography import warp_image, warp_points
from lf.extraction.extractor import restore

Colour = tuple[int, int, int]  # RGB
Images = tuple[Array, Array]  # uint8 (H, W) or (H, W, 3), of the size of their features
Found = tuple[Features, Features]

SKY, WHITE, ORANGE = (86, 180, 233), (242, 242, 242), (230, 159, 0)
INK, GREY, FAINT = (30, 30, 30), (110, 110, 110), (170, 170, 170)
TICKS = (0.3, 1.0, 3.0, 10.0, 30.0)  # px of the scale of errors: logarithmic, its middle the usual threshold
CORRECT = 3.0  # px
LINES = 150  # more hide each other and the images
WIDTH, HEIGHT = 1500, 540  # px that both images together take on the page at most
GAP, MARGIN = 10, 12  # px
NARROWEST = 720  # px of the page: the legends take as much


def matches(images: Images, features: Found, truth: Array | RelativePose | None, title: str, note: str = "") -> Array:
    """Draw the mutual nearest neighbours: a disc at both ends of each, a line for `LINES` of them, evenly chosen.

    Args:
        images: both images.
        features: their keypoints.
        truth: homography (3, 3) first -> second image; colours each match by its error. Or the relative pose; colours
            it by its distance from its epipolar line. None leaves all in one colour.
        title: heads the page.
        note: small print below.
    """
    first, second = features
    i, j = mutual(first.descriptors, second.descriptors, "dot")
    start, end = first.keypoints[i], second.keypoints[j]
    errors = _errors(start, end, truth)
    order = np.argsort(-np.nan_to_num(errors, nan=np.inf), kind="stable")  # the better a match, the later it is drawn
    text = f"{len(i)} mutual matches of {len(first)} and {len(second)} points"
    if truth is not None:
        of = " of their epipolar lines" if isinstance(truth, RelativePose) else ""
        text += f", {_share(int(np.count_nonzero(errors <= CORRECT)), len(i))} within {CORRECT:g} px{of}"
    legend = None if truth is None else _scale
    return drawn(images, features, (i[order], j[order]), colours(errors)[order], (title, text, note), legend)


def drawn(
    images: Images,
    features: Found,
    pairs: tuple[Array, Array],
    shades: Array,
    words: tuple[str, str, str],
    legend: Callable[[int], Array] | None = None,
) -> Array:
    """Draw matches in colours of their own, the later ones over the earlier ones.

    Args:
        images: both images.
        features: their keypoints; those without a match are dots.
        pairs: (M,) indices of the keypoints of each image.
        shades: (M, 3) RGB.
        words: title, text below it, and small print.
        legend: width of the page -> a strip below the images.
    """
    first, second = features
    body, scales, offset = _side_by_side(images, None)
    start = _place(first.keypoints[pairs[0]], scales[0], 0)
    end = _place(second.keypoints[pairs[1]], scales[1], offset)
    for points, scale, x in ((first.keypoints, scales[0], 0), (second.keypoints, scales[1], offset)):
        discs(body, _place(points, scale, x), [FAINT] * len(points), 1.2, rim=False)
    # evenly over the first keypoints, whatever the order of drawing
    rank = np.argsort(np.argsort(pairs[0], kind="stable"), kind="stable")
    count = len(rank)
    lined = np.isin(rank, np.linspace(0, count - 1, min(count, LINES)).astype(int)) if count else rank
    _lines(body, start[lined], end[lined], shades[lined])
    for ends in (start, end):
        discs(body, ends, shades, 3, rim=True)
    title, text, note = words
    text += f"; {LINES} of them as lines" if count > LINES else ""
    return _page(title, text, body, [legend(body.shape[1])] if legend else [], note)


def _errors(start: Array, end: Array, truth: Array | RelativePose | None) -> Array:
    """(M,) px that matches are off under the truth; 0 without one."""
    if truth is None:
        return np.zeros(len(start))
    if isinstance(truth, RelativePose):
        return epipolar_distance(start, end, truth.fundamental)
    return metrics.match_errors(start, end, truth)


def points(
    images: Images,
    features: Found,
    homography: Array,
    title: str,
    note: str = "",
    k: int | None = None,
    threshold: float = CORRECT,
) -> Array:
    """Draw which keypoints repeat: discs do, crosses do not, dots do not count. What only one image sees is darker.

    Args:
        images: both images.
        features: their keypoints.
        homography: (3, 3) first -> second image.
        title: heads the page.
        note: small print below.
        k: count the best so many of the points that both images see, as the protocols do; None counts all.
        threshold: pixels of the second image.
    """
    states = repeated(features, homography, k, threshold)
    sizes = [found.size[::-1] for found in features]
    maps = np.linalg.inv(homography), homography
    views = [warp_image(np.ones(sizes[1 - n], np.float32), maps[n], sizes[n]) for n in (0, 1)]
    body, scales, offset = _side_by_side(images, views)
    for found, state, scale, x in zip(features, states, scales, (0, offset), strict=True):
        placed = _place(found.keypoints, scale, x)
        discs(body, placed[state == 0], [FAINT] * int(np.count_nonzero(state == 0)), 1.2, rim=False)
        _crosses(body, placed[state == 1], ORANGE)
        discs(body, placed[state == 2], [SKY] * int(np.count_nonzero(state == 2)), 3.5, rim=True)
    counted = [(int(np.count_nonzero(state == 2)), int(np.count_nonzero(state > 0))) for state in states]
    hits, total = (sum(column) for column in zip(*counted, strict=True))
    each = " and ".join(f"{hit} of {count}" for hit, count in counted)
    text = f"repeatability {hits / max(total, 1):.3f} at {threshold:g} px: {each} points"
    return _page(title, text, body, [_markers(body.shape[1], k)], note)


def repeated(features: Found, homography: Array, k: int | None, threshold: float) -> tuple[Array, Array]:
    """For each point of both images: 2 it repeats, 1 it does not, 0 it does not count. See `metrics.repeatability`.

    Where both images have one size this counts what the protocols `superpoint` and `kp2d` count.
    """
    first, second = features
    moved, back = warp_points(first.keypoints, homography), warp_points(second.keypoints, np.linalg.inv(homography))
    chosen = (
        metrics.best(first.scores, k, metrics.in_view(moved, second.size)),
        metrics.best(second.scores, k, metrics.in_view(back, first.size)),
    )
    near = metrics.nearest_distances(moved[chosen[0]], second.keypoints[chosen[1]])
    states = np.zeros(len(first), int), np.zeros(len(second), int)
    for state, index, distance in zip(states, chosen, near, strict=True):
        state[index] = 1 + (distance <= threshold)
    return states


def colours(errors: Array) -> Array:
    """(N, 3) RGB of errors (N,) in px: sky blue to white to orange along the logarithm; nan is the worst."""
    low, high = TICKS[0], TICKS[-1]
    known = np.clip(np.nan_to_num(errors, nan=high, posinf=high), low, high)
    place = np.log(known / low) / np.log(high / low)
    stops = zip(SKY, WHITE, ORANGE, strict=True)
    return np.stack([np.interp(place, (0, 0.5, 1), channel) for channel in stops], axis=1)


def save(path: Path, picture: Array) -> Path:
    """Write uint8 (H, W, 3) RGB, whole or not at all; return `path`.

    Raises:
        UsageError: the suffix is of no image type, or see `lf.core.files.atomic`.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"{path}: cannot be written as an image; give a name that ends in .png or .jpg")
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return files.write_bytes(path, data.tobytes())


def _side_by_side(images: Images, views: Sequence[Array] | None) -> tuple[Array, list[float], int]:
    """(h, w, 3): both images in grey; their scales; where the second begins. Outside of `views` they are dark."""
    height = min(HEIGHT, int((WIDTH - GAP) / sum(image.shape[1] / image.shape[0] for image in images)))
    scales = [height / image.shape[0] for image in images]
    panels = []
    for n, (image, scale) in enumerate(zip(images, scales, strict=True)):
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        size = round(image.shape[1] * scale), height
        panel = cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA) * 0.55 + 20
        if views is not None:
            panel *= 0.35 + 0.65 * cv2.resize(views[n], size)
        panels.append(cv2.cvtColor(panel.astype(np.uint8), cv2.COLOR_GRAY2RGB))
    gap = np.full((height, GAP, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1), scales, panels[0].shape[1] + GAP


def _place(points: Array, scale: float, x: int) -> Array:
    """Keypoints on the page, in sixteenths of a pixel: what OpenCV draws with `shift=4`."""
    placed = restore(points, np.array([scale, scale])) + np.array([x, 0])
    return np.asarray(np.rint(placed * 16).astype(int))


def discs(canvas: Array, at: Array, shades: Sequence[Colour] | Array, radius: float, rim: bool) -> None:
    """Discs of `radius` px at (N, 2) sixteenths of a pixel; a dark rim parts them from what is behind them."""
    for centre, shade in zip(at.tolist(), shades, strict=True):
        if rim:
            cv2.circle(canvas, centre, round((radius + 1) * 16), INK, -1, cv2.LINE_AA, 4)
        cv2.circle(canvas, centre, round(radius * 16), [float(v) for v in shade], -1, cv2.LINE_AA, 4)


def _crosses(canvas: Array, at: Array, colour: Colour) -> None:
    for width, shade in ((3, INK), (1, colour)):
        for x, y in at.tolist():
            for dy in (-56, 56):  # sixteenths
                cv2.line(canvas, (x - 56, y - dy), (x + 56, y + dy), shade, width, cv2.LINE_AA, 4)


def _lines(canvas: Array, start: Array, end: Array, shades: Array) -> None:
    for a, b, shade in zip(start.tolist(), end.tolist(), shades.tolist(), strict=True):
        cv2.line(canvas, a, b, shade, 1, cv2.LINE_AA, 4)


def _page(title: str, text: str, body: Array, legend: Sequence[Array], note: str) -> Array:
    rows = [(title, 0.7, INK), (text, 0.55, INK)]
    width = max(body.shape[1], NARROWEST)
    strips = [*(_text(*row, width) for row in rows), body, *legend, *([_text(note, 0.42, GREY, width)] if note else [])]
    page = np.full((sum(len(s) for s in strips) + 2 * MARGIN, width + 2 * MARGIN, 3), 255, np.uint8)
    y = MARGIN
    for strip in strips:
        page[y : y + len(strip), MARGIN : MARGIN + strip.shape[1]] = strip
        y += len(strip)
    return page


def _text(text: str, size: float, colour: Colour, width: int) -> Array:
    """A strip (h, width, 3) of as many lines as the text takes."""
    text = drawable(text)
    (long, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    rows = textwrap.wrap(text, max(10, int(len(text) * width / max(long, 1) * 0.97)))
    step = tall + 10
    strip = np.full((step * len(rows) + 4, width, 3), 255, np.uint8)
    for n, row in enumerate(rows):
        at = 0, step * n + tall + 2
        cv2.putText(strip, row, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
    return strip


def _scale(width: int) -> Array:
    """The legend of `colours`."""
    strip = np.full((50, max(width, NARROWEST), 3), 255, np.uint8)
    left, right, bar = 130, 130 + 400, slice(10, 24)
    ramp = np.geomspace(TICKS[0], TICKS[-1], right - left)
    strip[bar, left:right] = colours(ramp)
    cv2.rectangle(strip, (left - 1, bar.start - 1), (right, bar.stop), FAINT, 1)
    labels = [f"<{TICKS[0]:g}", *(f"{tick:g}" for tick in TICKS[1:-1]), f">{TICKS[-1]:g} px"]
    for tick, label in zip(TICKS, labels, strict=True):
        x = left + round(float(np.log(tick / TICKS[0]) / np.log(TICKS[-1] / TICKS[0])) * (right - left - 1))
        cv2.line(strip, (x, 24), (x, 29), INK, 1)
        half = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0] // 2
        cv2.putText(strip, label, (x - half, 43), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    for x, text in ((0, "match error"), (right + 60, "dots: without a match")):
        cv2.putText(strip, text, (x, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    return strip


def _markers(width: int, k: int | None) -> Array:
    """The legend of `points`."""
    strip = np.full((34, max(width, NARROWEST), 3), 255, np.uint8)
    strip[4:30, :26] = strip[4:30, 130:156] = strip[4:30, 290:316] = 90
    discs(strip, np.array([[13, 17]]) * 16, [SKY], 3.5, rim=True)
    _crosses(strip, np.array([[143, 17]]) * 16, ORANGE)
    discs(strip, np.array([[303, 17]]) * 16, [FAINT], 1.2, rim=False)
    beyond = "" if k is None else f", or beyond the best {k}"
    for x, text in (
        (34, "repeats"),
        (164, "does not"),
        (324, f"does not count: where it is dark, unseen by the other image{beyond}"),
    ):
        cv2.putText(strip, text, (x, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    return strip


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / max(whole, 1):.0%})"
