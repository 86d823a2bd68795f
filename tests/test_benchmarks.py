"""Matching, metrics, summary: known answers and brute-force restatements."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.protocols import matching, metrics
from lf.benchmarks.protocols.matching import mutual, nearest
from lf.benchmarks.protocols.summary import (
    MEAN,
    MEAN_ABOVE_0,
    RESAMPLES,
    Aggregate,
    area_under_recall,
    bootstrap,
    interval,
    number,
    overview,
    paired,
    recall_area,
    summarise,
)
from lf.core import LfError
from lf.data.homography import warp_points
from scripts import compare_speed

SIZE = (320, 240)  # (W, H)
RANSAC = metrics.Ransac(threshold=3.0, iterations=2000, confidence=0.995)
VIEW = np.array([[0.9, 0.1, 5.0], [-0.1, 0.9, 20.0], [1e-4, 2e-5, 1.0]])


def translation(x, y):
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def scattered(n, seed=1):
    return np.random.default_rng(seed).uniform((60, 60), (260, 180), (n, 2)).astype(np.float32)


# --- matching


def brute_nearest(a, b, metric):
    pairwise = [[-np.dot(x, y) if metric == "dot" else np.sum((x - y) ** 2) for y in b] for x in a]
    return [int(np.argmin(row)) for row in pairwise] if len(b) else [-1] * len(a)


descriptor_sets = st.integers(1, 4).flatmap(
    lambda d: st.tuples(
        *(st.integers(0, 8).flatmap(lambda n: arrays(np.int64, (n, d), elements=st.integers(-3, 3))) for _ in range(2))
    )
)


@pytest.mark.parametrize("metric", ["l2", "dot"])
@given(sets=descriptor_sets, rows=st.integers(1, 9))
def test_matching_is_the_brute_force_one_with_ties_to_the_lowest_index(metric, sets, rows):
    a, b = sets
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "ROWS", rows)
        forward, backward = nearest(a, b, metric)
        i, j = mutual(a, b, metric)
    assert forward.tolist() == brute_nearest(a, b, metric)
    assert backward.tolist() == brute_nearest(b, a, metric)
    assert [*zip(i, j, strict=True)] == [(n, m) for n, m in enumerate(forward) if m >= 0 and backward[m] == n]


@pytest.mark.parametrize("apart", [3e-2, 1e-3, 1e-4])
def test_twins_of_unit_length_are_told_apart(apart):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(300, 128))
    both = np.concatenate([one, one + rng.normal(size=one.shape) * apart])
    both = (both / np.linalg.norm(both, axis=1, keepdims=True)).astype(np.float32)
    order = rng.permutation(len(both))
    forward, backward = nearest(both, both[order], "l2")
    np.testing.assert_array_equal(order[forward], np.arange(len(both)))
    np.testing.assert_array_equal(backward, order)


def test_raw_sift_distances_are_exact_integers():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (200, 128), dtype=np.uint8) for _ in range(2))
    b[100] = b[7]  # a tie that rounding must not decide
    exact = ((a[:, None].astype(np.int64) - b[None]) ** 2).sum(axis=2)
    forward, backward = nearest(a, b, "l2")
    assert forward.tolist() == exact.argmin(axis=1).tolist()
    assert backward.tolist() == exact.argmin(axis=0).tolist()


def test_long_vectors_are_compared_by_their_small_differences():
    a, b = (1000 + np.random.default_rng(n).standard_normal((60, 32)) for n in range(2))
    exact = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    assert nearest(a, b, "l2")[0].tolist() == exact.argmin(axis=1).tolist()


def test_matching_five_thousand_descriptors_stays_below_200_mb():
    a = np.random.default_rng(0).standard_normal((5000, 32))  # longer than unit: float64, the larger case
    tracemalloc.start()
    i, j = mutual(a, a[::-1], "l2")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert np.array_equal(i + j, np.full(5000, 4999))


# --- metrics


def test_warp_divides_and_survives_the_horizon():
    assert np.allclose(warp_points([[1, 2]], 2 * translation(3, 4)), [[4, 6]])
    horizon = np.array([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    assert not np.isfinite(warp_points([[0, 1]], horizon)).any()


def test_the_far_side_is_strict_in_view_and_inclusive_inside():
    points = np.array([[319.6, 5], [320, 5], [319, 239], [0, 240], [-0.1, 5]])
    assert metrics.in_view(points, SIZE).tolist() == [True, False, True, False, False]
    assert metrics.inside(points, SIZE).tolist() == [False, False, True, False, False]


def test_top_k_ascends_and_a_tie_keeps_the_lower_index():
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.7])
    assert metrics.best(scores, 3, scores > 0).tolist() == [0, 4, 1]
    assert metrics.best(scores, None, scores < 0.9).tolist() == [3, 2, 0, 4]
    assert metrics.best(scores, 0, scores > 0).tolist() == []


def test_repeatability_by_hand():
    points0 = np.array([[0, 0], [10, 10]])
    points1 = np.array([[2, 0], [50, 50], [1, 0]])
    assert metrics.repeatability(points0, points1, np.eye(3), 3) == (3 / 5, 4 / 3)  # 1 | 2, 1
    assert metrics.repeatability(points0, points1, translation(100, 0), 3) == (0, None)
    assert metrics.repeatability(points0, points1[:0], np.eye(3), 3) == (0, None)


def test_exactly_three_pixels_repeat_and_count_in_mma_but_do_not_match():
    points = scattered(5).round()
    off = points + np.array([3, 0])
    itself = np.arange(5), np.arange(5)
    assert metrics.repeatability(points, off, np.eye(3), 3) == (1, 3)
    assert metrics.mma(points, off, np.eye(3), (2, 3)) == {"mma@2": 0, "mma@3": 1}
    assert metrics.one_way_matching_score(points, off, itself, np.eye(3), SIZE, 3) == 0
    assert metrics.one_way_matching_score(points, off, itself, np.eye(3), SIZE, 3.001) == 1


coordinates = arrays(np.int64, st.tuples(st.integers(0, 30), st.just(2)), elements=st.integers(0, 60))


@given(coordinates, coordinates, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 70))
def test_nearest_distances_restated_and_repeatability_symmetric_under_translation(a, b, x, y, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BLOCK", block)
        forward, backward = metrics.nearest_distances(a, b)
        there = metrics.repeatability(a, b, translation(x, y), 3)
        back = metrics.repeatability(b, a, translation(-x, -y), 3)
    every = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))
    assert forward == pytest.approx(every.min(axis=1, initial=np.inf), abs=1e-12)
    assert backward == pytest.approx(every.min(axis=0, initial=np.inf), abs=1e-12)
    assert there[0] == back[0]
    assert there[1] == pytest.approx(back[1], abs=1e-12)


def test_homography_is_recovered_with_its_outliers():
    points0 = scattered(60)
    points1 = warp_points(points0, VIEW)
    points1[::6] += 40
    estimate = metrics.estimate_homography(points0, points1, RANSAC)
    assert np.flatnonzero(~estimate.inliers).tolist() == list(range(0, 60, 6))
    assert metrics.corner_error(VIEW, estimate.homography, SIZE) < 1e-3


@pytest.mark.parametrize("points", [scattered(3), np.repeat([[5.0, 5.0]], 8, 0), np.repeat(np.arange(9.0), 2)])
def test_no_homography_from_too_few_or_degenerate_points(points):
    points = points.reshape(-1, 2)
    estimate = metrics.estimate_homography(points, points, RANSAC)
    assert estimate.homography is None
    assert estimate.inliers.tolist() == [False] * len(points)
    assert metrics.corner_error(np.eye(3), None, SIZE) is None
    assert metrics.correctness(None, (1, 3)) == {"correctness@1": 0, "correctness@3": 0}


def test_corner_error_and_inclusive_correctness():
    error = metrics.corner_error(np.eye(3), translation(3, 4), SIZE)
    assert error == 5
    assert metrics.correctness(error, (1, 3, 5)) == {"correctness@1": 0, "correctness@3": 0, "correctness@5": 1}
    assert metrics.corner_error(np.eye(3), np.diag([1.0, 1, 0]), SIZE) is None


def test_superpoint_matching_score_truncates_and_swaps_axes():
    # as (y, x): (200, 100) in; (100, 300) and (5, 240) below 239; (319, 239), truncated onto the last pixel, in
    points1 = np.array([[100.9, 200.9], [300, 100], [240, 5], [239.9, 319.9]])
    assert metrics.swapped_matching_score(3, 2, points1, np.eye(3), SIZE) == 2 * 3 / (2 + 2)
    assert metrics.swapped_matching_score(0, 0, points1[:0], np.eye(3), SIZE) == 0


def test_kp2d_matching_score_by_hand():
    points0 = np.array([[10.0, 10], [100, 100], [310, 10]])
    points1 = points0 + np.array([20, 0])  # the last one is at x = 330: outside the second image
    forward, backward = np.array([0, 0, 2]), np.array([0, 1, 2])
    # image 1: all three visible, two right; image 2: two visible, both right
    score = metrics.one_way_matching_score(points0, points1, (forward, backward), translation(20, 0), SIZE, 3)
    assert score == pytest.approx((2 / 3 + 2 / 2) / 2)


def test_average_precision_groups_equal_confidences():
    correct = np.array([True, False, True, True])
    assert metrics.average_precision(correct, np.array([0.9, 0.8, 0.8, 0.1])) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics.average_precision(~correct, np.array([4.0, 3, 2, 1])) == pytest.approx(1 / 2)
    assert metrics.average_precision(correct, np.zeros(4)) == 3 / 4
    assert metrics.average_precision(np.zeros(3, dtype=bool), np.zeros(3)) == 0


@given(arrays(bool, 12), arrays(np.int64, 12, elements=st.integers(0, 4)))
def test_average_precision_restated(correct, confidence):
    total, seen = 0.0, 0.0
    for level in sorted(set(confidence.tolist()), reverse=True):
        taken = confidence >= level
        recall = correct[taken].sum() / max(correct.sum(), 1)
        total, seen = total + (recall - seen) * correct[taken].mean(), recall
    assert metrics.average_precision(correct, confidence.astype(float)) == pytest.approx(total)


# --- summary


RECORDS = [
    {"sequence": "i_a", "pair": "1_2", "repeatability": 0.5, "localization_error": None, "mean_corner_error": 0.5},
    {"sequence": "v_a", "pair": "1_2", "repeatability": 0.7, "localization_error": 1.0, "mean_corner_error": 2.0},
    {"sequence": "v_a", "pair": "1_3", "repeatability": 0.0, "localization_error": None, "mean_corner_error": None},
]


@pytest.fixture
def any_number(monkeypatch):
    """Intervals of any number of pairs, for those known by hand."""
    monkeypatch.setattr("lf.benchmarks.protocols.summary.LEAST", 1)


def test_means_leave_out_and_count_what_is_undefined(any_number):
    summary = summarise(RECORDS)
    assert summary["all"]["repeatability"] == {"mean": pytest.approx(0.4), "n": 3, "interval": (0, pytest.approx(0.7))}
    assert summary["all"]["localization_error"] == {"mean": 1, "n": 1, "interval": (1, 1)}
    assert summary["i"]["localization_error"] == {"mean": None, "n": 0, "interval": None}
    assert summary["v"]["repeatability"] == {"mean": pytest.approx(0.35), "n": 2, "interval": (0, 0.7)}
    assert list(summary["v"]) == ["repeatability", "localization_error", "mean_corner_error"]
    assert summarise([]) == {"all": {}}
    assert summarise([], PROTOCOLS["auc"].aggregates) == {"all": {}}


def test_a_protocol_replaces_a_mean_or_adds_a_number(any_number):
    left_out = Aggregate("repeatability", MEAN_ABOVE_0)
    summary = summarise(RECORDS, {"repeatability": left_out, "h_auc@3": Aggregate("mean_corner_error", recall_area(3))})
    assert (summary["all"]["repeatability"]["mean"], summary["all"]["repeatability"]["n"]) == (pytest.approx(0.6), 2)
    assert (summary["v"]["repeatability"]["mean"], summary["v"]["repeatability"]["n"]) == (0.7, 1)
    assert summary["all"]["mean_corner_error"]["n"] == 2
    area = summary["all"]["h_auc@3"]
    assert (area["mean"], area["n"]) == (pytest.approx(0.5), 3)  # see the area by hand
    assert area["interval"][0] == 0  # three times the pair without an estimate
    assert area["interval"][1] == pytest.approx((0.5 / 6 + 2.5) / 3)  # three times the best one


def test_a_run_has_its_numbers_by_split(any_number):
    fields = overview(RECORDS, PROTOCOLS["auc"].aggregates)
    assert set(fields) == {
        *("summary", "counts", "intervals"),
        *("by_split", "counts_by_split", "intervals_by_split"),
    }
    assert fields["counts"]["h_auc@5"] == 3
    assert fields["by_split"]["i"]["repeatability"] == fields["summary"]["repeatability"] + 0.1
    assert fields["counts_by_split"]["v"] == {**fields["counts_by_split"]["v"], "repeatability": 2, "h_auc@1": 2}
    assert fields["intervals_by_split"]["v"]["repeatability"] == (0, 0.7)
    assert "h_auc_dlt@1" not in fields["summary"]  # nothing in the records to make it of


def test_area_under_recall_by_hand():
    # (0, 0) to (0.5, 1/3) to (2, 2/3), level until 3
    errors = np.array([2.0, np.inf, 0.5])
    assert area_under_recall(errors, 3) == pytest.approx((0.5 / 6 + 1.5 / 2 + 2 / 3) / 3) == pytest.approx(0.5)
    assert area_under_recall(errors, 2) == pytest.approx((0.5 / 6 + 1.5 / 3) / 2)  # an error of 2 is not below 2
    assert area_under_recall(np.zeros(4), 1) == 1
    assert area_under_recall(np.full(4, np.inf), 1) == 0


@given(arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 6)), st.integers(1, 6))
def test_area_under_recall_restated_and_over_the_last_axis(errors, limit):
    ascending = [0, *sorted(error for error in errors.tolist() if error < limit)]
    recall = [i / len(errors) for i in range(len(ascending))]
    area = np.trapezoid([*recall, recall[-1]], [*ascending, limit]) / limit
    assert area_under_recall(errors.astype(float), limit) == pytest.approx(area)
    both = area_under_recall(np.array([errors, errors * 0.5]), limit)
    assert both.tolist() == pytest.approx([area, float(area_under_recall(errors * 0.5, limit))])


def test_bootstrap_brackets_the_mean_and_repeats():
    values = [*np.random.default_rng(0).normal(5, 1, 400).tolist(), None]
    low, high = bootstrap(values, seed=3)
    assert low < np.mean(values[:-1]) < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)  # of the normal mean
    assert bootstrap(values, seed=3) == (low, high)
    assert bootstrap([2.0] * 10) == (2.0, 2.0)
    assert bootstrap([None]) is None


@pytest.mark.parametrize("statistic", [MEAN, MEAN_ABOVE_0, recall_area(3)])
def test_fewer_than_ten_values_have_no_interval(statistic):
    for values in ([0.608], [0.1, 0.9], [*np.linspace(0.1, 0.9, 9)]):
        assert bootstrap(values, statistic) is None
        assert number(values, statistic)["interval"] is None
        assert number(values, statistic)["n"] == len(values)
        assert paired(values, values, statistic).draws is None
    values = [*np.linspace(0.1, 0.9, 10)]
    assert bootstrap(values, statistic)[0] < bootstrap(values, statistic)[1]
    assert len(paired(values, values, statistic).draws) == RESAMPLES
    assert bootstrap([*values[1:], *[None] * 90]) is None, "those that are defined count"
    assert bootstrap([*values[1:], *[0.0] * 90], MEAN_ABOVE_0) is None
    fields = overview([{"sequence": "v_a", "pair": "1_2", "repeatability": 0.608}], {})
    assert json.loads(json.dumps(fields))["intervals"] == {"repeatability": None}
    assert fields["intervals_by_split"] == {"v": {"repeatability": None}}


def test_bootstrap_of_an_area_draws_pairs_and_not_areas():
    errors = np.random.default_rng(0).exponential(2, 300)
    low, high = bootstrap(errors.tolist(), recall_area(3))
    # with many pairs the area is the mean over pairs of what is left of the limit
    gain = np.maximum(0, 1 - errors / 3)
    assert low < gain.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * gain.std() / np.sqrt(300), rel=0.1)


def test_a_paired_change_sees_a_small_shift_that_the_intervals_hide():
    first = np.random.default_rng(0).normal(0, 1, 100).tolist()
    change = paired(first, [value + 0.01 for value in first])
    assert change.second - change.first == pytest.approx(0.01)
    assert interval(change.draws) == pytest.approx((0.01, 0.01))
    assert paired([1.0, None, 3.0], [2.0, 5.0, None])[:3] == (1, 2, 1)
    assert paired([None], [1.0]) is None


def test_a_paired_change_of_an_area_counts_failures(any_number):
    change = paired([1.0, None, 9.0], [None, None, 1.0], recall_area(3))
    assert change[:3] == (pytest.approx(5 / 18), pytest.approx(5 / 18), 3)
    assert change.draws.max() == -change.draws.min() == pytest.approx((1 / 6 + 2) / 3)  # one pair, three times


# --- speed


def test_the_plain_restatement_agrees_and_is_timed():
    timings = compare_speed.measure(repeats=1)
    assert all(len(timing.ours) == len(timing.plain) == 1 for timing in timings)
    assert len(compare_speed.table(timings).splitlines()) == 2 + len(timings)


def test_two_answers_are_not_timed(monkeypatch):
    monkeypatch.setattr(compare_speed, "cases", lambda: [("sum", lambda: [1.0], lambda: [2.0])])
    with pytest.raises(LfError, match="sum: the plain re-statement gives another answer"):
        compare_speed.measure(repeats=1)
