"""Axes and marks of charts as SVG text; the style sheet of the page has the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

SHAPES = 6  # markers, dashes and colours of the page


def series(index: int) -> str:
    """Return the CSS classes of series `index`: 36 pairs of a shape and a colour."""
    return f"s{index % SHAPES} c{(index + index // SHAPES) % SHAPES}"


class Scale(NamedTuple):
    """Maps data values `low` to `high` to pixels `start` to `end`, logarithmically if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Map a value to pixels; values outside are put at the edge."""
        low, high, value = (math.log(v) for v in (self.low, self.high, value)) if self.log else (*self[:2], value)
        share = (value - low) / (high - low)
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)

    def ticks(self, count: int = 4) -> list[float]:
        """Return round numbers inside the range."""
        if self.log:
            every = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
            inside = [v for v in every if self.low <= v <= self.high]
            return inside if len(inside) >= 2 else [self.low, self.high]
        step = _round_step((self.high - self.low) / max(count, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def _round_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)


def around(values: Sequence[float], margin: float = 0.08, least: float = 1e-3) -> tuple[float, float]:
    """Return the range of the values with a margin at both ends; at least `least` wide, so that noise looks small."""
    low, high = min(values), max(values)
    room = max((high - low) * margin, (least - (high - low)) / 2)
    return low - room, high + room


def canvas(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """Return a complete image that scales with the page; `title` is for screen readers."""
    body = "".join(parts)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def text(x: float, y: float, words: str, anchor: str = "start", css: str = "") -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def path(points: Sequence[tuple[float, float]], css: str) -> str:
    """A line through points."""
    steps = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
    return f'<path d="{steps}" class="{css}"/>'


def marker(index: int, x: float, y: float, radius: float, css: str, title: str = "") -> str:
    """Draw the marker of series `index`; shape and colour both distinguish series."""
    shape, r = index % SHAPES, radius
    if shape == 0:
        body = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"'
    elif shape == 1:
        body = f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"'
    else:
        corners = {
            2: ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
            3: ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
            4: ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
            5: ((-1, -1.2), (1, -1.2), (1.3, 0), (1, 1.2), (-1, 1.2), (-1.3, 0)),
        }[shape]
        points = " ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in corners)
        body = f'<polygon points="{points}"'
    said = f"<title>{escape(title)}</title>" if title else ""
    focus = ' tabindex="0"' if title else ""
    return f'<g{focus}>{body} class="{series(index)} {css}"/>{said}</g>'


def horizontal_axis(
    scale: Scale, y: float, top: float, label: str, write: str = "{:g}", ticks: Sequence[float] | None = None
) -> list[str]:
    """Draw ticks, round numbers unless given, with grid lines up to `top`, and the name of the axis below."""
    parts = []
    for tick in ticks or scale.ticks():
        parts += [
            line(scale(tick), y, scale(tick), top, "grid"),
            text(scale(tick), y + 14, (write.format(tick) if tick else "0"), "middle"),
        ]
    return [*parts, text((scale.start + scale.end) / 2, y + 31, label, "middle", "label")]


def vertical_axis(scale: Scale, x: float, right: float, label: str, write: str = "{:g}") -> list[str]:
    """Draw ticks with grid lines to `right`, and the name of the axis above."""
    parts = []
    for tick in scale.ticks():
        parts += [
            line(x, scale(tick), right, scale(tick), "grid"),
            text(x - 6, scale(tick) + 4, (write.format(tick) if tick else "0"), "end"),
        ]
    return [*parts, text(4, min(scale.start, scale.end) - 12, label, "start", "label")]
