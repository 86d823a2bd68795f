"""Synthetic shapes: what is labelled is a corner that can be seen, at the right place; the rest has none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lf.data.drawn import synthetic_shapes
from lf.data.drawn.primitives import PRIMITIVES

SIZE = (120, 160)
CORNERLESS = ("ellipses", "gaussian_noise")
CORNERED = [name for name in PRIMITIVES if name not in CORNERLESS]


def drawings(name, count=20):
    return [synthetic_shapes.draw(name, np.random.default_rng([7, seed]), SIZE) for seed in range(count)]


@pytest.mark.parametrize("name", CORNERED)
def test_points_lie_on_visible_corners(name):
    """Near a labelled point the structure tensor has two large eigenvalues, far larger than elsewhere."""
    seen = total = 0
    for image, points in drawings(name):
        strength = cv2.cornerMinEigenVal(image.astype(np.float32) / 255, 5)
        high = cv2.dilate(strength, np.ones((5, 5)))
        x, y = np.round(points).astype(int).T
        seen += (high[y, x] > 20 * np.median(strength) + 1e-5).sum()
        total += len(points)
    assert total > 50
    assert seen > 0.97 * total  # a corner at the edge of the image may not show


@pytest.mark.parametrize(("name", "typical"), [("polygon", 0.25), ("checkerboard", 0.2)])
def test_corners_are_where_the_points_say(name, typical):
    """Refined to sub-pixel places by OpenCV, they stay within a fraction of a pixel."""
    errors = []
    for image, points in drawings(name, 40):
        inner = points[((points > 8) & (points < (SIZE[1] - 9, SIZE[0] - 9))).all(1)]
        if len(inner):
            criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-3)
            found = cv2.cornerSubPix(image, inner[:, None].copy(), (3, 3), (-1, -1), criteria)[:, 0]
            errors += list(np.hypot(*(found - inner).T))
    assert len(errors) > 50
    assert 0 < np.median(errors) < typical  # px


@pytest.mark.parametrize("name", CORNERLESS)
def test_ellipses_and_noise_have_no_corner(name):
    for image, points in drawings(name):
        assert points.shape == (0, 2)
        assert image.std() > 1


@pytest.mark.parametrize("name", PRIMITIVES)
def test_points_are_inside_and_images_differ(name):
    images = []
    for image, points in drawings(name, 10):
        assert (image.shape, image.dtype, points.dtype) == (SIZE, np.uint8, np.float32)
        assert (points >= 0).all()
        assert (points <= (SIZE[1] - 1, SIZE[0] - 1)).all()
        images.append(image.tobytes())
    assert len(set(images)) == 10


def test_the_cube_shows_seven_corners_at_most():
    counts = [len(points) for _, points in drawings("cube")]
    assert max(counts) == 7


def test_polygons_do_not_overlap():
    for seed in range(10):
        drawing = PRIMITIVES["multiple_polygons"][0](np.random.default_rng(seed), SIZE)
        total = np.zeros(SIZE, int)
        for polygon in drawing.polygons:
            mask = np.zeros(SIZE, np.uint8)
            cv2.fillPoly(mask, [np.round(polygon * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
            total += mask
        assert total.max() == 1


def test_a_seed_decides_everything():
    for seed in range(30):
        image, points = synthetic_shapes.shape(seed, SIZE)
        again, same = synthetic_shapes.shape(seed, SIZE)
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(points, same)
        np.testing.assert_array_equal(points, synthetic_shapes.points(seed, SIZE))


def test_primitives_come_as_often_as_they_are_kept():
    without = sum(len(synthetic_shapes.points(seed, SIZE)) == 0 for seed in range(600)) / 600
    kept = {name: share for name, (_, share) in PRIMITIVES.items()}
    expected = sum(kept[name] for name in CORNERLESS) / sum(kept.values())
    assert expected - 0.02 < without < expected + 0.05  # now and then all corners of another one are outside
