"""Contact sheets of data: pairs, their correspondences, labelled points.

uint8 RGB, OpenCV only. All colours are of the Okabe-Ito palette, which colour-blind eyes tell apart. A flow (H, W, 2)
says where each pixel of a first image lies in a second one, x then y; NaN where the second does not show it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from lf.core import Array
from lf.data import homography
from lf.data.cameras import RelativePose, epipolar_lines

WIDTH, TALLEST = 1600, 520  # px: of a row of panels, of one panel
GAP, MARGIN, LINE = 10, 12, 20  # px
MAGNIFIED = 6  # largest magnification of small views
COLUMNS, ROWS, INSET = 6, 4, 0.08  # of numbered points; their distance from the border as a share of a side
SQUARES = 6  # squares of the checkerboard along the shorter side
INK, GREY, WHITE = (30, 30, 30), (110, 110, 110), (255, 255, 255)
LOW, MIDDLE, HIGH = (230, 159, 0), (242, 242, 242), (86, 180, 233)  # colours of scores: orange, white, sky blue
NUMBERED = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Panel:
    """One image of a sheet, with its overlays.

    Attributes:
        image: uint8 (H, W) or (H, W, 3) RGB.
        caption: text above it.
        labels: (N, 3) x, y, score: rings, coloured by score; score 0 is left out.
        places: (N, 2) numbered points; NaN points are left out, numbers do not change.
        lines: (N, 3) lines a x + b y + c = 0 in the colours of these points.
    """

    image: Array
    caption: str
    labels: Array | None = None
    places: Array | None = None
    lines: Array | None = None


def flow(matrix: Array, size: tuple[int, int], other: tuple[int, int]) -> Array:
    """Return the flow (H, W, 2) float32 of a homography (3, 3) from an image of `size` (H, W) to one of `other`."""
    y, x = np.mgrid[: size[0], : size[1]]
    grid = np.stack([x, y], -1).reshape(-1, 2)
    there = homography.warp_points(grid, matrix)
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2, 1])
    depth = np.column_stack([grid, np.ones(len(grid))]) @ matrix[2] * (matrix[2] @ middle)
    there[~homography.inside(there, other) | (depth <= 0)] = np.nan  # not visible behind the line at infinity
    return there.reshape(*size, 2).astype(np.float32)


def pair(first: Array, second: Array, known: Array, labels: Sequence[Array] | None, name: str) -> list[Panel]:
    """Make the panels of a pair: both images with labels, if any; numbered correspondences; a checkerboard.

    Args:
        first: uint8 image of (H, W).
        second: another.
        known: flow (H, W, 2) from first to second.
        labels: of both images, (N, 3) each; None leaves their two panels out.
        name: of the pair, for the captions.
    """
    here = _grid(first.shape[:2])
    there = known[here[:, 1], here[:, 0]]
    seen = ~np.isnan(there[:, 0])
    marked = np.where(seen[:, None], here, np.nan)
    overlap = f"{name} both, {1 - np.isnan(known[..., 0]).mean():.0%} of first is in second"
    panels = []
    if labels is not None:
        counts = [f"{np.count_nonzero(found[:, 2] > 0)} labels" for found in labels]
        panels.append(Panel(first, f"{name} first, {counts[0]}", labels[0]))
        panels.append(Panel(second, f"{name} second, {counts[1]}", labels[1]))
    panels.append(Panel(first, f"{name} first, {np.count_nonzero(seen)} points", places=marked))
    panels.append(Panel(second, f"{name} second, correspondences", places=there))
    return [*panels, Panel(checkerboard(first, second, known), overlap)]


def posed(first: Array, second: Array, pose: RelativePose, known: Array | None, name: str) -> list[Panel]:
    """Make the panels of a pair with a relative pose: numbered points, epipolar lines, and with a flow those of `pair`.

    Args:
        first: uint8 image of (H, W).
        second: another.
        pose: of their cameras.
        known: flow (H, W, 2) from first to second; None without depth.
        name: of the pair, for the captions.
    """
    here = _grid(first.shape[:2])
    lines = epipolar_lines(here, pose.fundamental)
    if known is None:
        marked = Panel(first, f"{name} first, {len(here)} points", places=here)
        return [marked, Panel(second, f"{name} second, the lines on which they lie", lines=lines)]
    marked, there, board = pair(first, second, known, None, name)
    return [marked, replace(there, lines=lines), board]


def checkerboard(first: Array, second: Array, known: Array) -> Array:
    """Alternate squares of `first` and of `second`, warped by the flow: (H, W, 3), dark where it is not visible."""
    unseen = np.isnan(known[..., 0])
    at = np.where(unseen[..., None], -1e4, known).astype(np.float32)
    back = cv2.remap(_colour(second), at[..., 0], at[..., 1], cv2.INTER_LINEAR)
    side = max(1, min(first.shape[:2]) // SQUARES)
    y, x = np.mgrid[: first.shape[0], : first.shape[1]]
    odd = (y // side + x // side) % 2 == 1
    board = np.where(odd[..., None], back, _colour(first))
    board[unseen & ~odd] //= 3
    return board.astype(np.uint8)


def sheet(title: str, panels: Sequence[Panel], columns: int, note: str = "", legends: Sequence[Array] = ()) -> Array:
    """Arrange panels in rows below a title, above legends (h, WIDTH, 3) and a note: (h, w, 3) uint8 RGB."""
    scores = np.concatenate([p.labels[:, 2] for p in panels if p.labels is not None] or [np.zeros(0)])
    scores = scores[scores > 0]
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (1.0, 1.0)
    cell = (WIDTH - GAP * (columns - 1)) // columns
    strips = [_text(title, 0.7, INK, WIDTH)]
    for start in range(0, len(panels), columns):
        strips.append(_row([_drawn(panel, cell, (low, high)) for panel in panels[start : start + columns]], cell))
    if high > low * 1.001:
        strips.append(_legend(low, high))
    strips += legends
    strips += [_text(note, 0.5, GREY, WIDTH)] if note else []
    return cv2.copyMakeBorder(np.concatenate(strips), *(MARGIN,) * 4, cv2.BORDER_CONSTANT, value=WHITE)


def colours(scores: Array, low: float, high: float) -> Array:
    """(N, 3) RGB of scores (N,): orange over white to sky blue along the logarithm; one score alone is sky blue."""
    spread = np.log(high / low)
    place = np.log(np.clip(scores, low, high) / low) / spread if spread > 0 else np.ones(len(scores))
    return np.stack([np.interp(place, (0, 0.5, 1), stops) for stops in zip(LOW, MIDDLE, HIGH, strict=True)], 1)


def _grid(size: tuple[int, ...]) -> Array:
    """Pixels (N, 2) x, y, spread evenly over an image."""
    sides = [np.linspace(INSET, 1 - INSET, n) * (side - 1) for n, side in zip((ROWS, COLUMNS), size, strict=True)]
    y, x = np.meshgrid(*(np.rint(side).astype(int) for side in sides), indexing="ij")
    return np.stack([x, y], -1).reshape(-1, 2)


def _drawn(panel: Panel, width: int, scores: tuple[float, float]) -> Array:
    """The panel, `width` wide at most, with its caption."""
    image = _colour(panel.image)
    scale = min(width / image.shape[1], TALLEST / image.shape[0], MAGNIFIED)
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4 if scale > 1 else cv2.INTER_AREA)
    factor = np.array(size) / image.shape[1::-1]
    if panel.labels is not None:
        kept = panel.labels[panel.labels[:, 2] > 0]
        for at, colour in zip(_place(kept[:, :2], factor), colours(kept[:, 2], *scores).tolist(), strict=True):
            for thickness, shade in ((3, INK), (2, colour)):
                cv2.circle(canvas, at, 4 * 16, shade, thickness, cv2.LINE_AA, 4)
    if panel.lines is not None:
        _lines(canvas, panel.lines, factor)
    if panel.places is not None:
        _numbers(canvas, panel.places, factor)
    return np.concatenate([_text(panel.caption, 0.45, INK, canvas.shape[1], 1), canvas])


def _numbers(canvas: Array, places: Array, factor: Array) -> None:
    shown = np.flatnonzero(~np.isnan(places[:, 0]))
    for number, (x, y) in zip(shown.tolist(), _place(places[shown], factor), strict=True):
        for radius, shade in ((5, INK), (4, NUMBERED[number % len(NUMBERED)])):
            cv2.circle(canvas, (x, y), radius * 16, shade, -1, cv2.LINE_AA, 4)
        (wide, tall), _ = cv2.getTextSize(str(number + 1), FONT, 0.4, 1)
        left = x // 16 + 7 if x // 16 + 7 + wide < canvas.shape[1] else x // 16 - 7 - wide
        bottom = min(max(y // 16 + tall // 2, tall + 2), canvas.shape[0] - 3)
        cv2.rectangle(canvas, (left - 2, bottom - tall - 2), (left + wide + 1, bottom + 2), INK, -1)
        cv2.putText(canvas, str(number + 1), (left, bottom), FONT, 0.4, WHITE, 1, cv2.LINE_AA)


def _lines(canvas: Array, lines: Array, factor: Array) -> None:
    """Lines of an image on its canvas, from its left border to its right one, or from top to bottom where steep."""
    height, width = canvas.shape[:2]
    for number, (a, b, c) in enumerate(lines.tolist()):
        x, y = ((side / scale) for side, scale in zip((width, height), factor.tolist(), strict=True))
        ends = [(0.0, -c / b), (x, -(c + a * x) / b)] if abs(b) > abs(a) else [(-c / a, 0.0), (-(c + b * y) / a, y)]
        start, end = _place(np.clip(np.array(ends), -1e4, 1e4), factor)
        cv2.line(canvas, start, end, NUMBERED[number % len(NUMBERED)], 1, cv2.LINE_AA, 4)


def _place(points: Array, factor: Array) -> list[tuple[int, int]]:
    """Points of an image on its canvas, half-pixel exact, in sixteenths of a pixel: OpenCV's `shift=4`."""
    placed = np.rint(((points + 0.5) * factor - 0.5) * 16).astype(int)
    return [(x, y) for x, y in placed.tolist()]


def _row(drawn: Sequence[Array], cell: int) -> Array:
    row = np.full((max(len(panel) for panel in drawn) + GAP, WIDTH, 3), 255, np.uint8)
    for n, panel in enumerate(drawn):
        left = n * (cell + GAP)
        row[: len(panel), left : left + panel.shape[1]] = panel
    return row


def _legend(low: float, high: float) -> Array:
    strip = np.full((30, WIDTH, 3), 255, np.uint8)
    strip[8:20, 110:410] = colours(np.geomspace(low, high, 300), low, high)
    cv2.rectangle(strip, (109, 7), (410, 20), GREY, 1)
    for x, text in ((0, f"score {low:.2g}"), (420, f"{high:.2g}")):
        cv2.putText(strip, text, (x, 18), FONT, 0.45, INK, 1, cv2.LINE_AA)
    return strip


def drawable(text: str) -> str:
    """The text with a question mark for what OpenCV cannot draw; a name that is not UTF-8 would kill the process."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def _text(text: str, size: float, colour: tuple[int, int, int], width: int, lines: int = 9) -> Array:
    """Draw text as a strip (h, width, 3) with as many lines as needed, at most `lines`."""
    text = drawable(text)
    long = cv2.getTextSize(text, FONT, size, 1)[0][0]
    rows = textwrap.wrap(text, max(8, int(len(text) * width / max(long, 1) * 0.97)), max_lines=lines, placeholder="..")
    step = round(LINE * max(1.0, size / 0.55))
    strip = np.full((step * max(len(rows), 1) + 4, width, 3), 255, np.uint8)
    for n, row in enumerate(rows):
        cv2.putText(strip, row, (0, step * (n + 1) - 5), FONT, size, colour, 1, cv2.LINE_AA)
    return strip


def _colour(image: Array) -> Array:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
