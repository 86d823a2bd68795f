"""The pyramid of images for networks of one scale: where its points lie, what it finds, and what has none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lf.benchmarks.report import tables
from lf.benchmarks.run.suite import latencies, suite
from lf.core import UsageError
from lf.data.drawn import procedural
from lf.extraction.extractor import Extractor
from lf.extraction.pyramid import STEP, joined
from lf.models.resolve import resolve


@pytest.fixture(scope="module")
def pair(network):
    artifact = network("wren", None)
    return Extractor(artifact, "ort-cpu"), Extractor(artifact, "ort-cpu", extraction="pyramid")


def picture(size=(240, 320)):
    return cv2.cvtColor(procedural.held_out_picture(3, size), cv2.COLOR_RGB2GRAY)


def test_the_first_level_is_the_single_scale(pair):
    plain, pyramid = pair
    image = picture()
    one, many = plain(image), pyramid(image)
    first = many.take(np.flatnonzero(many.scales == 1))
    np.testing.assert_allclose(first.keypoints, one.keypoints, atol=1e-5)
    np.testing.assert_allclose(first.descriptors, one.descriptors, atol=1e-5)
    assert (np.diff(many.scores) <= 0).all()
    assert len(many) > len(one)


def test_levels_shrink_to_a_quarter_and_points_go_back(pair):
    """A level of half the size is the image reduced by area averaging; its points are mapped back half-pixel exact."""
    plain, pyramid = pair
    image = picture()
    many = pyramid(image)
    np.testing.assert_allclose(np.unique(many.scales), STEP ** np.arange(4), rtol=1e-6)  # the fifth is 60 px high
    half = plain(cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA))
    level = many.take(np.flatnonzero(many.scales == 2))
    np.testing.assert_allclose(level.keypoints, (half.keypoints + 0.5) * 2 - 0.5, atol=1e-4)


def test_views_of_other_scales_match_better(pair):
    """A view three times smaller: with the pyramid more descriptors find their place."""
    image = picture((480, 640))
    small = cv2.resize(image, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA)
    right = []
    for extractor in pair:
        one, two = extractor(image).top(1000), extractor(small)
        best = two.descriptors @ one.descriptors.T
        place = (one.keypoints[best.argmax(1)] + 0.5) / 3 - 0.5
        right.append(int((np.linalg.norm(place - two.keypoints, axis=1) < 3).sum()))
    assert right[1] > 1.5 * right[0] > 0


def test_a_run_says_that_it_looked_at_scales(network, tmp_path):
    runs = suite([network("wren", None)], None, "procedural:2", "kp2d", extraction="pyramid", repeats=0)
    assert runs[0].extraction == "pyramid"
    assert runs[0].label == "wren fp32 ort-cpu pyramid"
    assert "wren fp32 ort-cpu pyramid" in tables.page(runs)
    assert latencies([network("wren", None)], None, "kp2d", extraction="pyramid", repeats=2)[0].latency_ms


@pytest.mark.parametrize(
    ("name", "size", "options", "text"),
    [
        ("wren", (64, 64), {}, "takes 64x64 only; export it again without `size`"),
        ("wren", None, {"resize": (64, 64)}, "it has scales of its own; leave `size` out"),
    ],
)
def test_what_has_no_pyramid(network, name, size, options, text):
    with pytest.raises(UsageError, match=text):
        Extractor(network(name, size), "ort-cpu", extraction="pyramid", **options)


def test_a_baseline_has_its_own():
    with pytest.raises(UsageError, match="`extraction=pyramid`: sift has its own pyramid; leave it out"):
        Extractor(resolve("sift"), "opencv", extraction="pyramid")


def test_an_image_without_levels_is_refused():
    with pytest.raises(Exception, match="an image of 4x4 is too small for any level of the pyramid"):
        joined([], (4, 4))
