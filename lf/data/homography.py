"""Sample homographies, and warp points and images with them.

Everywhere in `lf` a homography is (3, 3) float64 and maps pixel coordinates (x right, y down, the centre of the
top-left pixel is (0, 0)) of a first image to those of a second. Sizes are (H, W) in pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from lf.core import Array, UsageError

MAX_PERSPECTIVE = 0.25  # from this value on, the four moved corners may not be convex


def warp_points(points: Array, homography: Array) -> Array:
    """Move points through a homography.

    Args:
        points: (N, 2) x then y, pixels of the first image.
        homography: (3, 3) first image -> second.

    Returns:
        (N, 2) float64, pixels of the second image; not finite where the point lies on the line sent to infinity.
    """
    xy = np.asarray(points, dtype=np.float64)
    h = np.asarray(homography, dtype=np.float64)
    projected = xy @ h[:, :2].T + h[:, 2]  # (N, 3)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        warped: Array = projected[:, :2] / projected[:, 2:]
    return warped


def warp_image(image: Array, homography: Array, size: tuple[int, int]) -> Array:
    """Render the second image (H, W, ...) of `size`: bilinear, black outside the first."""
    return cv2.warpPerspective(image, homography, size[::-1], flags=cv2.INTER_LINEAR)


def warp_nearest(values: Array, homography: Array, size: tuple[int, int], outside: int) -> Array:
    """Render the second image (H, W) of `size` for values such as classes: nearest pixel."""
    return cv2.warpPerspective(values, homography, size[::-1], flags=cv2.INTER_NEAREST, borderValue=outside)


def resize_matrix(old_size: tuple[int, int], new_size: tuple[int, int]) -> Array:
    """The homography of a resize that aligns pixel areas: `(k + 0.5) * s - 0.5` along each axis; (3, 3) float64."""
    sy, sx = new_size[0] / old_size[0], new_size[1] / old_size[1]
    return np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1]])


def translation_matrix(x: float, y: float) -> Array:
    """The homography that adds (x, y) pixels; (3, 3) float64."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def corners(size: tuple[int, int]) -> Array:
    """Centres of the four corner pixels, clockwise from top left: (4, 2) float64, x then y."""
    y, x = size[0] - 1.0, size[1] - 1.0
    return np.array([[0, 0], [x, 0], [x, y], [0, y]])


def inside(points: Array, size: tuple[int, int]) -> Array:
    """Return a mask (N,) of points (N, 2) that lie on the grid of pixel centres of an image of `size`."""
    kept: Array = np.asarray((points >= 0) & (points <= (size[1] - 1, size[0] - 1)))
    return np.asarray(kept.all(axis=1))


def four_point(source: Array, target: Array) -> Array:
    """The homography that takes four points (4, 2) to four others, in float64 (OpenCV's takes float32 points).

    Source: the 8 x 8 linear system of Hartley and Zisserman, "Multiple View Geometry", section 4.1, with h33 = 1.
    """
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    solution = np.linalg.solve(np.array(rows, dtype=np.float64), np.asarray(target, dtype=np.float64).ravel())
    return np.append(solution, 1.0).reshape(3, 3)


def sample(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    perspective: float = 0.15,
    scale: float = 1.5,
    rotation: float = 30.0,
    translation: float = 0.1,
) -> Array:
    """Draw a homography between two images of one size: each corner moves, then all are rotated, scaled and shifted.

    Args:
        perspective: largest move of each corner along each axis, as a share of that side; below 0.25.
        scale: the factor is log-uniform in [1 / scale, scale].
        rotation: the angle is uniform in [-rotation, rotation], degrees.
        translation: largest shift along each axis, as a share of that side.

    Returns:
        (3, 3) float64. It has an inverse and sends no pixel of the first image to infinity.

    Raises:
        UsageError: `perspective` is not in [0, 0.25), or `scale` is below 1.
    """
    if not 0 <= perspective < MAX_PERSPECTIVE or scale < 1:
        raise UsageError(f"need perspective in [0, {MAX_PERSPECTIVE}) and scale >= 1, got {perspective} and {scale}")
    sides = np.array([size[1], size[0]], dtype=np.float64)
    source, centre = corners(size), (sides - 1) / 2
    factor = scale ** rng.uniform(-1, 1)
    angle = np.deg2rad(rng.uniform(-rotation, rotation))
    turn = factor * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved = source + rng.uniform(-perspective, perspective, (4, 2)) * sides - centre
    return four_point(source, moved @ turn + centre + rng.uniform(-translation, translation, 2) * sides)
