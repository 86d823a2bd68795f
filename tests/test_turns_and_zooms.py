"""Turned and zoomed photos: the truth between their views, by hand and by the pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lf.data import open_dataset
from lf.data.drawn import procedural
from lf.data.homography import warp_image, warp_points
from lf.data.turns_and_zooms import ANGLES, FACTORS, turned, zoomed

SIZE = (240, 320)
CENTRE = np.array([[159.5, 119.5]])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), procedural.held_out_picture(index, (480, 640)))
    return folder


def between(change):
    return change.second @ np.linalg.inv(change.first)


@pytest.mark.parametrize("angle", ANGLES)
def test_a_turn_keeps_the_centre_and_turns_the_rest(angle):
    homography = between(turned(angle))
    np.testing.assert_allclose(warp_points(CENTRE, homography), CENTRE, atol=1e-9)
    right = warp_points(np.add(CENTRE, (10, 0)), homography) - CENTRE
    np.testing.assert_allclose(right, [[10 * np.cos(np.radians(angle)), 10 * np.sin(np.radians(angle))]], atol=1e-9)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_zoom_keeps_the_centre_and_widens_the_rest(factor):
    homography = between(zoomed(factor))
    np.testing.assert_allclose(warp_points(CENTRE, homography), CENTRE, atol=1e-9)
    np.testing.assert_allclose(
        warp_points(np.add(CENTRE, (3, 4)), homography) - CENTRE, [[3 * factor, 4 * factor]], atol=1e-9
    )


@pytest.mark.parametrize(("name", "count"), [("turns", len(ANGLES)), ("zooms", len(FACTORS))])
def test_the_pixels_agree_with_the_truth(photos, name, count):
    found = open_dataset(f"{name}:{photos}")
    assert len(found) == 2 * count
    assert {pair.sequence for pair in found} == {"v_00000_0", "v_00001_1"}
    for pair in found[:count]:
        assert pair.first is found[0].first
        seen = warp_image(pair.first.load(), pair.homography, SIZE).astype(float)
        shown = pair.second.load().astype(float)
        inside = warp_image(np.full(SIZE, 255, np.uint8), pair.homography, SIZE) == 255
        blurred = [cv2.GaussianBlur(each, None, 3)[inside].ravel() for each in (seen, shown)]
        assert np.corrcoef(*blurred)[0, 1] > 0.97, pair.name


def test_a_seed_changes_the_light_and_not_the_geometry(photos):
    one, two = (open_dataset(f"turns:{photos}", 1, seed=seed)[2] for seed in (0, 1))
    np.testing.assert_array_equal(one.truth, two.truth)
    assert one.second.digest != two.second.digest
    assert (one.second.load() != two.second.load()).any()
