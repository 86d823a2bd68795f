"""Peaks of folded logits: equal bit for bit to those of the unfolded map of odds, and to the greedy rule itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_models import greedy

from lf.core import LfError
from lf.models import decode, folded
from lf.models.swift.decode import swift

SETTINGS = {"threshold": 0.01, "nms_radius": 4, "border": 4, "temperature": 1.0}
SHAPES = st.tuples(st.just(4), st.integers(1, 10), st.integers(1, 10))
NEAR = [np.float32(0.3) + np.float32(n * 3e-8) for n in range(9)]  # some have equal odds
LEVELS = st.sampled_from([-1.0, 0.0, 0.5, 2.0])  # mostly ties
EXTREME = st.sampled_from([-3e38, -90.0, -41.0, -40.0, -39.99999, 39.99999, 40.0, 41.0, 1e30, 3e38])
MAPS = st.one_of(
    arrays(np.float32, SHAPES, elements=LEVELS),
    arrays(np.float32, SHAPES, elements=st.sampled_from(NEAR)),
    arrays(np.float32, SHAPES, elements=EXTREME),
    arrays(np.float32, SHAPES, elements=st.just(1.5)),
    arrays(np.float32, SHAPES, elements=st.floats(-8, 8, width=32), unique=True),
)


def smooth(seed, size=(4, 40, 60)):
    """Hills as a network finds them: most pixels lie on slopes."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=size).astype(np.float32)
    for axis in (1, 2):
        values += np.roll(values, 1, axis) + np.roll(values, -1, axis)
    return values


@settings(max_examples=400, deadline=None)
@given(
    logits=MAPS,
    odd=st.sampled_from([0.0, 1e-30, 1e-6, 0.01, 1.2, 3.0]),
    radius=st.integers(0, 5),
    border=st.integers(0, 4),
    top_k=st.sampled_from([None, 0, 1, 3, 10, 1000]),
)
def test_points_are_those_of_the_greedy_rule(logits, odd, radius, border, top_k):
    heat = decode.odds(decode.unfold(logits, 2))
    height, width = heat.shape
    expected = [
        index
        for index in greedy(heat, odd, radius)
        if border <= index // width < height - border and border <= index % width < width - border
    ][:top_k]
    points, found = folded.detect(logits, odd, radius, border, top_k)
    assert points.tolist() == [[index % width, index // width] for index in expected]
    assert found.tolist() == heat.reshape(-1)[expected].tolist()


@pytest.mark.parametrize("top_k", [None, 5, 40, 150])
@pytest.mark.parametrize("radius", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("seed", range(4))
def test_hills_give_the_points_of_the_unfolded_map(seed, radius, top_k):
    logits = smooth(seed)
    expected = decode.detect(decode.odds(decode.unfold(logits, 2)), 0.01, radius, 3, top_k)
    found = folded.detect(logits, 0.01, radius, 3, top_k)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_limit_that_was_too_high_is_given_up():
    """Equal squares side by side are all peaks, but suppress each other."""
    logits = np.full((4, 30, 30), -3, np.float32)
    logits[:, :6] = 2
    expected = decode.detect(decode.odds(decode.unfold(logits, 2)), 0.01, 4, 0, 60)
    found = folded.detect(logits, 0.01, 4, 0, 60)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1].min() < 1 < found[1].max()


@settings(max_examples=100, deadline=None)
@given(logits=MAPS, reach=st.integers(1, 3), temperature=st.sampled_from([1.0, 0.5, 3.0]))
@example(logits=np.zeros((4, 1, 1), np.float32), reach=3, temperature=1.0)
def test_points_move_as_in_the_unfolded_map(logits, reach, temperature):
    heat = decode.odds(decode.unfold(logits, 2))
    if temperature != 1:
        heat = heat ** np.float32(1 / temperature)
    y, x = np.mgrid[: heat.shape[0], : heat.shape[1]].reshape(2, -1)
    points = np.stack([x, y], 1).astype(np.float32)
    np.testing.assert_array_equal(folded.refine(logits, points, temperature, reach), decode.refine(heat, points, reach))


@pytest.mark.parametrize("how", ["none", "quadratic", "soft"])
def test_swift_refines_as_other_maps_of_every_pixel(how):
    maps = {"score": smooth(0), "descriptor": np.ones((8, 20, 30), np.float32)}
    logits = decode.unfold(maps["score"], 2)
    heat = decode.odds(logits)
    points, _ = decode.detect(heat, 0.01 / 0.99, 4, 4, 50)
    found, _, _ = swift(maps, **SETTINGS, refine=how, top_k=50)
    np.testing.assert_array_equal(found, decode.refined(logits, heat, points, how))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_swift_refuses_logits_that_are_not_finite(bad):
    maps = {"score": smooth(0), "descriptor": np.ones((8, 20, 30), np.float32)}
    maps["score"][2, 5, 7] = bad
    with pytest.raises(LfError, match="score map"):
        swift(maps, **SETTINGS)
