"""Posed data: cameras, relative poses, the forms of folders, and drawn scenes with exact depth and visibility."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from lf.core import BadInput, UsageError
from lf.data import cameras, dataset_digest, open_dataset, posed
from lf.data.posed import correspond, drawn, planes

SIZE = drawn.SIZE


@pytest.fixture(scope="module")
def scene():
    return drawn.synth12()


def grid(step=40):
    y, x = np.mgrid[20 : SIZE[0] : step, 20 : SIZE[1] : step]
    return np.column_stack([x.ravel(), y.ravel()]).astype(float)


def test_points_lie_on_the_lines_of_the_fundamental_matrix(scene):
    for i, j in ((0, 11), (5, 6), (9, 2)):
        pair = posed.PosedPair(scene.views[i], scene.views[j])
        found, seen = correspond.correspond(grid(), pair.first, pair.second, SIZE)
        assert seen.sum() > 50
        assert cameras.epipolar_distance(grid()[seen], found[seen], pair.fundamental).max() < 1e-6
        back = pair.pose.reversed().fundamental
        assert cameras.epipolar_distance(found[seen], grid()[seen], back).max() < 1e-6


def test_a_seen_point_comes_back_and_a_hidden_one_is_hidden(scene):
    first, second = scene.views[0], scene.views[11]
    found, seen = correspond.correspond(grid(), first, second, SIZE)
    back, again = correspond.correspond(found[seen], second, first, SIZE)
    assert again.all()
    assert np.abs(back - grid()[seen]).max() < 1e-6
    _, far = correspond.project(grid(), first.depth(grid()), first, second)
    inside = ((found >= 0) & (found < SIZE[::-1])).all(axis=1) & (first.depth(grid()) > 0)
    hidden = inside & ~seen
    assert hidden.any()
    assert (second.depth(found[hidden]) < far[hidden]).all(), "something is in front"


def test_the_picture_shows_what_the_depth_says(scene):
    first, second = (scene.views[k].image.load().astype(float).mean(-1) for k in (4, 6))
    points = grid(4)
    found, seen = correspond.correspond(points, scene.views[4], scene.views[6], SIZE)
    here = first[points[:, 1].astype(int), points[:, 0].astype(int)]
    there = cv2.remap(second.astype(np.float32), *found.T.astype(np.float32)[:, :, None], cv2.INTER_LINEAR)[:, 0]
    assert np.corrcoef(here[seen], there[seen])[0, 1] > 0.95
    assert np.corrcoef(here[seen], np.roll(there[seen], 1))[0, 1] < 0.9


def test_synth12_has_the_published_cameras_and_planes(scene, shared):
    fixture = np.load(shared / "parity" / "sfm" / "sfm_synth12.npz")
    for view, pose, K in zip(scene.views, fixture["world_to_camera"], fixture["K"], strict=True):
        assert np.abs(view.rotation - pose[:3, :3]).max() < 1e-7
        assert np.abs(view.translation - pose[:3, 3]).max() < 1e-7
        assert np.array_equal(view.K, K)
    index = fixture["matches_0_5"]
    points, matched = fixture["keypoints_0"][index[:, 0]], fixture["keypoints_5"][index[:, 1]]
    found, seen = correspond.correspond(points, scene.views[0], scene.views[5], SIZE)
    assert seen.mean() > 0.98
    assert np.median(np.linalg.norm(found - matched, axis=1)) < 0.3, "its SIFT matches agree with the planes"
    assert json.loads((shared / "parity" / "sfm" / "sfm_expected.json").read_text())["synth12"]


def test_drawn_scenes_repeat_and_differ():
    def digests(scenes):
        return [view.image.digest for scene in scenes for view in scene.views]

    first = digests(drawn.scenes(3))
    assert first == digests(drawn.scenes(3))
    assert len({*first, *digests([drawn.training(1), drawn.training(2)]), *digests(drawn.scenes(2, 1))[12:]}) == 72
    assert [scene.name for scene in drawn.scenes(3)] == ["synth12", "scene0001", "scene0002"]
    small = drawn.training(1, (120, 160)).views[3]
    assert small.image.load().shape == (120, 160, 3)
    assert np.array_equal(small.image.load(), drawn.training(1, (120, 160)).views[3].image.load())
    assert correspond.depth_map(small, (120, 160)).shape == (120, 160)


def test_drawn_scenes_are_a_dataset():
    pairs = open_dataset("scenes:2")
    assert {pair.kind for pair in pairs} == {"pose"}
    assert dataset_digest(pairs) == dataset_digest(open_dataset("scenes:2"))
    assert len(open_dataset("scenes:9", limit_sequences=1)) == len(drawn.synth12().listed)
    with pytest.raises(UsageError, match=r"'scenes:0' needs a number of scenes, such as scenes:5"):
        open_dataset("scenes:0")
    with pytest.raises(UsageError, match=r"dataset 'warps:x' has no camera poses; type a dataset with camera poses"):
        posed.scenes("warps:x")


def test_training_scenes_have_a_limit():
    with pytest.raises(UsageError, match=r"training scenes have numbers in \[0, \d+\), got -1"):
        drawn.training(-1)


def test_a_ray_that_meets_nothing_has_no_depth():
    onto = planes.inverses(drawn._columns(drawn.RECTANGLES), drawn.K, np.eye(3), np.zeros(3))
    depth, index = planes.cast(np.array([[319.5, 100.0], [-3000.0, 0.0]]), onto)
    assert depth[1] == 0
    assert index[1] == -1
    assert depth[0] == pytest.approx(9)
    assert index[0] == 0


@pytest.mark.parametrize("degrees", [0.001, 1.0, 90.0, 179.9])
def test_angles_of_rotations_and_directions(degrees):
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    assert cameras.rotation_angle(np.eye(3), turn) == pytest.approx(degrees, abs=1e-6)
    assert cameras.direction_angle(np.array([3, 0, 0]), 5 * turn[:, 0]) == pytest.approx(degrees, abs=1e-6)


def test_numbers_that_are_no_camera_are_refused():
    with pytest.raises(BadInput, match=r"here: the camera matrix is \[0 0 0 0 5 0 0 0 1\]; expected \[\[fx, s, cx\]"):
        cameras.checked_camera(np.diag([0.0, 5, 1]), "here")
    with pytest.raises(BadInput, match=r"here: .* is no rotation; expected orthonormal rows with determinant 1"):
        cameras.checked_rotation(np.diag([1.0, 1, 1.1]), "here")
    with pytest.raises(BadInput, match=r"here: \[1 0 0 0 1 0 0 0 -1\] is a reflection; expected a rotation"):
        cameras.checked_rotation(np.diag([1.0, 1, -1]), "here")
    with pytest.raises(BadInput, match=r"here: the translation is \[nan 0 0\]; expected 3 finite numbers"):
        cameras.checked_translation(np.array([np.nan, 0, 0]), "here")
