"""The geometry of MagicPoint's nine synthetic primitives (arXiv 1712.07629, section 4): polygons and labelled points.

Lengths are pixels of the finished image, pixel centres at integers, points x then y. A primitive is a function
(rng, (H, W)) -> Drawing; nothing is painted here, so that points alone cost little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lf.core import Array
from lf.data import homography

Rng = np.random.Generator
Size = tuple[int, int]

FLATTEST = np.radians(140)  # interior angles of polygons above this are not clear corners
SHORTEST = 0.05  # smallest edge and distance, as a share of the image's shorter side


@dataclass
class Drawing:
    """Shapes to paint, in this order, and their corners.

    Attributes:
        points: (N, 2) float64, corners; some may be outside the image.
        polygons: each (K, 2) float64.
        tones: for each polygon the number of its gray level.
        related: True: polygons with different numbers touch, so their levels must differ. False: levels are free.
        textured: paint a smooth texture over the polygons.
        noise: the whole image is Gaussian noise.
    """

    points: Array = field(default_factory=lambda: np.zeros((0, 2)))
    polygons: list[Array] = field(default_factory=list)
    tones: list[int] = field(default_factory=list)
    related: bool = False
    textured: bool = False
    noise: bool = False


def lines(rng: Rng, size: Size) -> Drawing:
    """Up to nine segments that keep clear of each other; their ends are labelled."""
    short, (height, width) = min(size), size
    segments: list[Array] = []
    for _ in range(int(rng.integers(1, 10))):
        ends = rng.uniform(0, 1, (2, 2)) * (width - 1, height - 1)
        long_enough = np.hypot(*(ends[1] - ends[0])) > 0.15 * short
        if long_enough and all(_distance(ends, other) > SHORTEST * short for other in segments):
            segments.append(ends)
    quads = [_stroke(ends, rng.uniform(0.01, 0.02) * short) for ends in segments]
    return Drawing(np.array(segments).reshape(-1, 2), quads, list(range(len(quads))))


def polygon(rng: Rng, size: Size) -> Drawing:
    """One polygon of three to eight corners."""
    height, width = size
    corners = _corners(rng, rng.uniform(0.2, 0.6) * min(size), SHORTEST * min(size))
    corners += rng.uniform(0.25, 0.75, 2) * (width, height)
    return Drawing(corners, [corners], [0])


def multiple_polygons(rng: Rng, size: Size) -> Drawing:
    """Up to thirty textured polygons that do not touch."""
    short = min(size)
    found = []
    for centre, radius in _apart(rng, size, int(rng.integers(4, 31)), (0.08 * short, 0.25 * short)):
        found.append(_corners(rng, radius, SHORTEST * short) + centre)
    return Drawing(np.concatenate(found), found, list(range(len(found))), textured=True)


def ellipses(rng: Rng, size: Size) -> Drawing:
    """Up to twenty ellipses that do not touch; no corner."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    found = []
    for centre, radius in _apart(rng, size, int(rng.integers(2, 21)), (0.04 * min(size), 0.3 * min(size))):
        shape = circle * (radius, radius * rng.uniform(0.3, 1))
        found.append(shape @ _turn(rng.uniform(0, np.pi)) + centre)
    return Drawing(polygons=found, tones=list(range(len(found))))


def star(rng: Rng, size: Size) -> Drawing:
    """Three to six strokes from one centre; their tips and the centre are labelled."""
    short, (height, width) = min(size), size
    centre = rng.uniform(0.3, 0.7, 2) * (width, height)
    count = int(rng.integers(3, 7))
    angle = _angles(rng, count)
    reach = rng.uniform(0.2, 0.5, count) * short
    tips = centre + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    thickness = rng.uniform(0.01, 0.02) * short
    strokes = [_stroke(np.stack([centre, tip]), thickness) for tip in tips]
    return Drawing(np.concatenate([tips, centre[None]]), strokes, [0] * count)


def checkerboard(rng: Rng, size: Size) -> Drawing:
    """Three to seven rows and columns in perspective; all corners of the squares are labelled."""
    rows, columns = (int(n) for n in rng.integers(3, 8, 2))
    return _grid(np.linspace(0, 1, columns + 1), np.linspace(0, 1, rows + 1), _quad(rng, size, 0.25))


def stripes(rng: Rng, size: Size) -> Drawing:
    """Three to thirteen stripes of different widths, in a little perspective; their corners are labelled."""
    widths = rng.uniform(0.4, 1, int(rng.integers(3, 14)))
    edges = np.concatenate([[0.0], np.cumsum(widths) / widths.sum()])
    return _grid(edges, np.array([0.0, 1.0]), _quad(rng, size, 0.1))


def cube(rng: Rng, size: Size) -> Drawing:
    """A rotated box of which three faces are seen, in weak perspective; its seven visible corners are labelled."""
    height, width = size
    unit = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    facing = np.zeros(3)
    while np.abs(facing).min() < 0.3:  # faces at a glancing angle would be too narrow
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        facing = turn[:, 2]  # of the normals along x, y, z: the part towards the viewer
    corners = (unit * rng.uniform(0.5, 1, 3)) @ turn
    flat = corners[:, :2] / (1 - 0.1 * corners[:, 2:])  # 10 box radii away
    flat *= rng.uniform(0.2, 0.45) * min(size) / np.abs(flat).max()
    flat += rng.uniform(0.3, 0.7, 2) * (width, height)
    faces = []
    for axis in range(3):
        one = np.flatnonzero(unit[:, axis] == np.sign(facing[axis]))
        faces.append(flat[one[[0, 1, 3, 2]]])
    seen = (unit == np.sign(facing)).any(1)
    return Drawing(flat[seen], faces, [0, 1, 2], related=True)


def gaussian_noise(rng: Rng, size: Size) -> Drawing:
    """Noise alone; no corner."""
    return Drawing(noise=True)


PRIMITIVES: dict[str, tuple[Callable[[Rng, Size], Drawing], float]] = {  # function, share to keep
    "lines": (lines, 1.0),
    "polygon": (polygon, 1.0),
    "multiple_polygons": (multiple_polygons, 1.0),
    "ellipses": (ellipses, 0.3),
    "star": (star, 1.0),
    "checkerboard": (checkerboard, 1.0),
    "stripes": (stripes, 0.2),
    "cube": (cube, 1.0),
    "gaussian_noise": (gaussian_noise, 0.1),
}


def _turn(angle: float) -> Array:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _stroke(ends: Array, thickness: float) -> Array:
    """A segment (2, 2) as the four corners of a thin rectangle."""
    along = (ends[1] - ends[0]) / np.hypot(*(ends[1] - ends[0]))
    across = np.array([-along[1], along[0]]) * thickness / 2
    return np.stack([ends[0] + across, ends[1] + across, ends[1] - across, ends[0] - across])


def _distance(one: Array, two: Array) -> float:
    """Return the distance between two segments (2, 2); zero if they cross."""
    if _crossing(one, two):
        return 0.0
    return min(_from_segment(p, b) for a, b in ((one, two), (two, one)) for p in a)


def _from_segment(point: Array, ends: Array) -> float:
    along = ends[1] - ends[0]
    share = np.clip((point - ends[0]) @ along / (along @ along), 0, 1)
    return float(np.hypot(*(ends[0] + share * along - point)))


def _crossing(one: Array, two: Array) -> bool:
    return all(_side(a, b[0]) * _side(a, b[1]) < 0 for a, b in ((one, two), (two, one)))


def _side(ends: Array, point: Array) -> float:
    """Return a number with a sign that tells the side of a segment's line on which the point lies."""
    (x, y), (u, v) = ends[1] - ends[0], point - ends[0]
    return float(x * v - y * u)


def _angles(rng: Rng, count: int) -> Array:
    """Directions round a circle, no two closer than a third of their mean distance."""
    gaps = 1 / 3 + rng.dirichlet(np.ones(count)) * count * 2 / 3
    return (np.cumsum(gaps) / count + rng.uniform()) * 2 * np.pi


def _corners(rng: Rng, radius: float, shortest: float) -> Array:
    """Corners (3 to 8, 2) of a polygon round (0, 0): no edge shorter than `shortest`, no corner nearly flat."""
    while True:
        count = int(rng.integers(3, 9))
        angle = _angles(rng, count)
        reach = radius * rng.uniform(0.5, 1, count)
        corners: Array = reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        before, after = np.roll(corners, 1, 0) - corners, np.roll(corners, -1, 0) - corners
        lengths = np.hypot(*after.T)
        cosine = (before * after).sum(1) / (np.roll(lengths, 1) * lengths)
        sharp = (cosine > np.cos(FLATTEST)) & (cosine < np.cos(np.radians(20)))
        if sharp.all() and (lengths > min(shortest, 0.7 * radius)).all():
            return corners


def _apart(rng: Rng, size: Size, count: int, radii: tuple[float, float]) -> list[tuple[Array, float]]:
    """Up to `count` discs (centre, radius) in the image that do not touch; one at least."""
    height, width = size
    found: list[tuple[Array, float]] = []
    for _ in range(count):
        centre, radius = rng.uniform(0, 1, 2) * (width - 1, height - 1), float(rng.uniform(*radii))
        if all(np.hypot(*(centre - other)) > radius + reach + 1 for other, reach in found):
            found.append((centre, radius))
    return found


def _quad(rng: Rng, size: Size, perspective: float) -> Array:
    """Four corners (4, 2), clockwise from the top left, of a turned rectangle in perspective."""
    height, width = size
    half = rng.uniform(0.25, 0.6, 2) * (width, height)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + rng.uniform(-perspective, perspective, (4, 2))
    turned: Array = (corners * half) @ _turn(rng.uniform(0, 2 * np.pi))
    return turned + rng.uniform(0.3, 0.7, 2) * (width, height)


def _grid(across: Array, down: Array, quad: Array) -> Drawing:
    """Cells between the lines `across` and `down` (both 0 to 1) of a square that is mapped onto `quad`."""
    unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    x, y = np.meshgrid(across, down)
    nodes = homography.warp_points(np.stack([x, y], -1).reshape(-1, 2), homography.four_point(unit, quad))
    nodes = nodes.reshape(len(down), len(across), 2)
    cells: list[Array] = []
    tones: list[int] = []
    for tone in (0, 1):  # one colour after the other: painted edges are slightly wide, and so stay even at corners
        for i in range(len(down) - 1):
            for j in range((i + tone) % 2, len(across) - 1, 2):
                cells.append(np.stack([nodes[i, j], nodes[i, j + 1], nodes[i + 1, j + 1], nodes[i + 1, j]]))
                tones.append(tone)
    return Drawing(nodes.reshape(-1, 2), cells, tones, related=True)
