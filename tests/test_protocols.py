"""The rows of PROTOCOLS: digests, geometry, known scores, edge cases, and what the fixed ones repair."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lf.benchmarks import METRICS, PROTOCOLS, aggregate
from lf.benchmarks.protocols import metrics
from lf.benchmarks.protocols import protocol as protocols
from lf.benchmarks.protocols.geometry import pillow_bicubic
from lf.benchmarks.protocols.segmentation import CONFUSION
from lf.benchmarks.protocols.summary import MEAN, summarise
from lf.core import Features, LfError, UsageError
from lf.data.homography import warp_points

SIZE = (320, 240)  # (W, H)
RANSAC = metrics.Ransac(threshold=3.0, iterations=2000, confidence=0.995)
VIEW = np.array([[0.9, 0.1, 5.0], [-0.1, 0.9, 20.0], [1e-4, 2e-5, 1.0]])
FIXED = ("superpoint-fixed", "kp2d-fixed", "kp2d-640-fixed", "kp2d-88-fixed")
PLANE = [name for name, row in PROTOCOLS.items() if row.truth == "homography"]  # the others: tests/test_pose.py
# protocols whose matrix is that of their pictures
TRUE = (*FIXED, "auc", "auc-640", "pose-640", "segmentation", "segmentation-fork")

coordinates = arrays(np.int64, st.tuples(st.integers(0, 30), st.just(2)), elements=st.integers(0, 60))


def translation(x, y):
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def features(keypoints, size=SIZE, seed=0):
    """Points with falling scores; equal rows of equal seeds have equal descriptors."""
    keypoints = np.reshape(np.asarray(keypoints, dtype=np.float32), (-1, 2))
    descriptors = np.random.default_rng(seed).standard_normal((len(keypoints), 16))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return Features(keypoints, np.linspace(1, 0.5, len(keypoints)), descriptors, size)


def scattered(n, seed=1):
    return np.random.default_rng(seed).uniform((60, 60), (260, 180), (n, 2)).astype(np.float32)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_row_names_itself_and_known_metrics_only(name):
    protocol = PROTOCOLS[name]
    assert protocol.name == name
    assert {*protocol.metrics, *protocol.aggregates} <= set(METRICS)
    assert {how.of for how in protocol.aggregates.values()} <= {*protocol.metrics, CONFUSION}
    assert json.loads(json.dumps(protocol.describe()))["name"] == name


def test_digest_follows_every_parameter():
    digests = {protocol.digest for protocol in PROTOCOLS.values()}
    assert len(digests) == len(PROTOCOLS)
    protocol = PROTOCOLS["superpoint"]
    assert protocol.vary(k=1000).digest == protocol.digest
    for change in ({"k": 300}, {"ap": "crosscheck"}, {"ransac": {**RANSAC, "iterations": 1}}):
        assert protocol.vary(**change).digest != protocol.digest
    for change in (
        {"version": 3},
        {"geometry": PROTOCOLS["superpoint-fixed"].geometry},
        {"aggregates": {}},
        {"above": {}},
    ):
        tiny = PROTOCOLS["kp2d-tiny"]
        assert replace(tiny, **change).digest != tiny.digest


def test_digest_follows_shared_code(monkeypatch):
    before = PROTOCOLS["mma"].digest
    monkeypatch.setattr(protocols, "FORMULAS", protocols.FORMULAS + 1)
    assert PROTOCOLS["mma"].digest != before


def test_an_unknown_parameter_is_named():
    with pytest.raises(UsageError, match=r"unknown parameter of protocol kp2d 'K'; did you mean 'k'\? known: k, rep"):
        PROTOCOLS["kp2d"].vary(K=3)
    with pytest.raises(UsageError, match="unknown ap 'two-way'; did you mean 'two_way'"):
        PROTOCOLS["superpoint"].vary(ap="two-way").score(features(scattered(9)), features(scattered(9)), np.eye(3))


@pytest.mark.parametrize("name", PLANE)
def test_the_same_image_scores_perfectly(name):
    protocol = PROTOCOLS[name]
    size = (protocol.size or (240, 320))[::-1]
    f = features(scattered(80) * np.float32(np.divide(size, SIZE)), size)
    scores = protocol.score(f, f, np.eye(3))
    assert tuple(scores) == protocol.metrics
    assert (scores["n_keypoints0"], scores["n_keypoints1"], scores["n_matches"]) == (80, 80, 80)
    perfect = [n for n in scores if n in {"repeatability", "nn_map"} or n.startswith(("correctness", "mma"))]
    assert [scores[n] for n in perfect] == [1] * len(perfect)
    assert all(scores[n] < 1e-3 for n in scores if "corner_error" in n)
    if "repeatability" in scores:
        assert scores["localization_error"] == 0
        assert scores["n_inliers"] == 80


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANE)
@settings(deadline=None)
@given(coordinates, coordinates, st.integers(-60, 60))
def test_no_configuration_of_points_raises(name, a, b, x):
    protocol = PROTOCOLS[name]
    size = (protocol.size or (240, 320))[::-1]
    scores = protocol.score(features(a, size), features(b, size, seed=1), translation(x, 0))
    assert tuple(scores) == protocol.metrics
    assert all(value is None or np.isfinite(value) for value in scores.values())
    json.dumps(scores)
    if not len(a) or not len(b):
        undefined = {name for name, value in scores.items() if value is None}
        assert undefined == {n for n in scores if n.endswith("_error") or n.endswith("_dlt")}
        assert not any(value for name, value in scores.items() if value is not None and "keypoints" not in name)


def test_features_of_another_size_are_refused():
    with pytest.raises(LfError, match=r"protocol kp2d-640 scores \(H, W\) \(480, 640\), got features of \(240, 320\)"):
        PROTOCOLS["kp2d-640"].score(features(scattered(5)), features(scattered(5)), np.eye(3))


def test_superpoint_crops_the_top_left_and_swaps_the_grey_weights():
    image = np.zeros((480, 960, 3), dtype=np.uint8)
    image[:, :640] = 255, 0, 0
    grey, scale = PROTOCOLS["superpoint"].prepare(image, 1)
    assert (grey.shape, scale) == ((240, 320), (0.5, 0.5))
    assert set(grey.ravel().tolist()) == {29}  # 0.114 * 255: blue's weight on red
    colour, _ = PROTOCOLS["superpoint"].prepare(image, 3)
    assert np.array_equal(colour, np.broadcast_to(np.uint8([255, 0, 0]), (240, 320, 3)))


def test_kp2d_squeezes_and_mma_leaves_alone():
    image = np.zeros((480, 960, 3), dtype=np.uint8)
    image[:, :640] = 255, 0, 0
    grey, scale = PROTOCOLS["kp2d"].prepare(image, 1)
    assert (grey.shape, scale) == ((240, 320), (1 / 3, 1 / 2))
    assert set(grey[:, :210].ravel().tolist()) == {76}
    assert set(grey[:, 220:].ravel().tolist()) == {0}
    same, scale = PROTOCOLS["mma"].prepare(image, 3)
    assert np.array_equal(same, image)
    assert scale == (1, 1)
    assert np.array_equal(PROTOCOLS["mma"].homography(VIEW, (480, 960), (100, 200)), VIEW)


# --- geometry


BLOBS = np.array([[210, 160], [640, 330], [880, 690]])  # native px


def blobs(height, width):
    """White spots on black with BLOBS as centres of mass."""
    y, x = np.mgrid[:height, :width]
    spots = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 20**2)) for u, v in BLOBS)
    return np.repeat(np.rint(240 * spots).astype(np.uint8)[..., None], 3, axis=2)


def centre(grey, near, radius):
    """Centre of mass around a point."""
    x0, y0 = np.maximum(np.rint(near).astype(int) - radius, 0)
    window = grey[y0 : y0 + 2 * radius + 1, x0 : x0 + 2 * radius + 1].astype(float)
    y, x = np.mgrid[: window.shape[0], : window.shape[1]]
    return x0 + (x * window).sum() / window.sum(), y0 + (y * window).sum() / window.sum()


@pytest.mark.parametrize("native", [(1000, 1300), (1200, 1100)])
@pytest.mark.parametrize("name", [name for name, row in PROTOCOLS.items() if row.size])
def test_only_a_true_matrix_says_where_pixels_went(name, native):
    protocol = PROTOCOLS[name]
    grey, _ = protocol.prepare(blobs(*native), 1)
    said = warp_points(BLOBS, protocol.matrix(native))
    went = np.array([centre(grey, near, min(40, protocol.size[1] // 8)) for near in said])
    scale = np.diag(protocol.matrix(native))[:2]
    half = 0 if name in TRUE else (scale - 1) / 2  # Q9
    off = 0.25 if name == "superpoint" else 0.02  # px; the scale of its crop is not rounded as the crop is
    assert went - said == pytest.approx(np.broadcast_to(half, said.shape), abs=off)


@pytest.mark.parametrize("name", [name for name in PLANE if PROTOCOLS[name].size])
def test_a_pair_of_mixed_sizes_under_the_true_homography(name):
    """Points that lie where the pixels of one plane went; only protocols with true matrices find them in place."""
    protocol, truth = PROTOCOLS[name], PROTOCOLS["superpoint-fixed" if name.startswith("superpoint") else "auc"]
    truth = replace(truth, size=protocol.size)
    sizes = (700, 1000), (680, 880)
    native = np.random.default_rng(0).uniform((100, 100), (700, 500), (200, 2))
    moved = warp_points(native, VIEW)
    size = protocol.size[::-1]
    pair = [
        features(warp_points(points, truth.matrix(old)), size)
        for points, old in zip((native, moved), sizes, strict=True)
    ]
    scores = protocol.score(*pair, protocol.homography(VIEW, *sizes))
    if name == "superpoint":  # Q1
        assert scores["mean_corner_error"] > 5
        assert [scores[f"correctness@{t}"] for t in (1, 3, 5)] == [0, 0, 0]
        assert scores["repeatability"] < 0.5
    elif name in TRUE:
        assert scores["mean_corner_error"] < 2e-3
        assert scores.get("correctness@1", 1) == 1
        assert scores.get("repeatability", 1) == 1
        assert scores.get("localization_error", 0) < 1e-4
    else:  # half a pixel, turned and stretched: Q9
        assert 0.02 < scores["localization_error"] < 0.5


def test_bgr_is_an_order_of_channels_and_nothing_else():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for size in ("", "-640"):
        rgb, bgr = PROTOCOLS[f"kp2d{size}"], PROTOCOLS[f"kp2d{size}-bgr"]
        assert np.array_equal(bgr.prepare(image, 3)[0], rgb.prepare(image, 3)[0][..., ::-1])
        assert np.array_equal(bgr.prepare(image, 1)[0], rgb.prepare(image, 1)[0])
        assert bgr.describe() == {**rgb.describe(), "name": bgr.name, "geometry": "squeeze-bgr"}


def test_fixed_colours_are_the_usual_ones():
    image = np.zeros((480, 640, 3), dtype=np.uint8)
    image[:] = 255, 0, 0
    for name in TRUE:
        grey, scale = PROTOCOLS[name].prepare(image, 1)
        assert set(grey.ravel().tolist()) == {76}
        assert scale == (grey.shape[1] / 640, grey.shape[0] / 480)
        assert PROTOCOLS[name].prepare(image, 3)[0][0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("native", [(96, 130), (20, 30), (40, 17)])
def test_bicubic_is_that_of_pillow_byte_for_byte(native):
    pillow = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 2, (*native, 3), dtype=np.uint8) * 255  # over- and undershoots
    across = pillow.fromarray(image).resize((32, native[0]))  # columns, then rows: some versions choose
    assert np.array_equal(pillow_bicubic(image, (24, 32)), np.asarray(across.resize((32, 24))))


def test_bicubic_by_hand():
    # of 4 px to 2: the cubic, stretched twice, at -1.75 .. 1.75 in steps of 0.5 px, less what lies outside
    line = np.array([0, 100, 200, 50], dtype=np.uint8)
    weights = np.array([111, 111, 29, -9]) / 242  # in 1 / 128: -9 at 1.25, -3 at 1.75, 29 at 0.75, 111 at 0.25
    expected = np.rint([line @ weights, line[::-1] @ weights])
    image = np.repeat(line[None, :, None], 3, axis=2)
    assert pillow_bicubic(image, (1, 2))[0, :, 0].tolist() == expected.tolist()
    assert pillow_bicubic(image.swapaxes(0, 1), (2, 1))[:, 0, 0].tolist() == expected.tolist()
    assert np.array_equal(pillow_bicubic(image, (1, 4)), image)


# --- what the fixed protocols repair


def test_true_axes_and_a_score_of_at_most_1():
    points = scattered(60) + np.array([55, 0])  # most have x > 239: as (y, x), outside (Q2)
    f = features(points)
    assert PROTOCOLS["superpoint"].score(f, f, np.eye(3))["matching_score"] > 1.2
    assert PROTOCOLS["superpoint-fixed"].score(f, f, np.eye(3))["matching_score"] == 1
    away = points + np.array([40, 0])  # some leave the second image, and are not asked for
    assert (away[:, 0] >= 320).any()
    shifted = features(away[away[:, 0] < 320])
    scores = PROTOCOLS["superpoint-fixed"].score(features(points[away[:, 0] < 320]), shifted, translation(40, 0))
    assert scores["matching_score"] == 1


def test_matches_that_agree_on_a_wrong_homography_are_wrong():
    points = scattered(60)
    pair = features(points), features(points + np.array([28, 0]))
    believed, judged = (PROTOCOLS[name].score(*pair, np.eye(3)) for name in ("superpoint", "superpoint-fixed"))
    assert believed["matching_score"] > 0.9  # Q3
    assert (believed["nn_map"], judged["matching_score"], judged["nn_map"]) == (1, 0, 0)


def test_exactly_three_pixels_are_right_in_superpoint_fixed():
    points = scattered(20).round()
    pair = features(points), features(points + np.array([3, 0]))
    scores = PROTOCOLS["superpoint-fixed"].score(*pair, np.eye(3))
    assert (scores["matching_score"], scores["nn_map"]) == (1, 1)


@pytest.mark.parametrize("name", FIXED)
def test_homographies_are_averaged_over_orders(name, monkeypatch):
    found = [None, translation(0.5, 0), translation(2, 0), translation(4, 0)]
    estimates = iter(found * 5)
    seen = []

    def estimate(points0, points1, ransac, method="RANSAC"):
        seen.append(points0[:, 0].tolist())
        homography = next(estimates)
        return metrics.Estimate(homography, np.full(len(points0), homography is not None))

    monkeypatch.setattr(metrics, "estimate_homography", estimate)
    protocol = PROTOCOLS[name]
    f = features(scattered(30) * np.float32(np.divide(protocol.size[::-1], SIZE)), protocol.size[::-1])
    scores = protocol.score(f, f, np.eye(3))
    assert [scores[f"correctness@{t}"] for t in (1, 3, 5)] == [0.25, 0.5, 0.75]
    assert scores["mean_corner_error"] == pytest.approx(6.5 / 3)  # where there is one
    assert scores["n_inliers"] == 30 * 0.75
    assert len(seen) == protocol.params["orders"] == 20
    assert len({tuple(order) for order in seen}) == 20
    assert all(sorted(order) == sorted(seen[0]) for order in seen)


def test_one_order_is_the_published_one_and_orders_repeat():
    noisy = features(warp_points(scattered(90), VIEW) + np.random.default_rng(0).normal(0, 2, (90, 2)))
    pair = features(scattered(90)), noisy
    protocol = PROTOCOLS["kp2d"]
    one, many, again = (protocol.vary(orders=n).score(*pair, VIEW) for n in (1, 20, 20))
    assert one == protocol.score(*pair, VIEW)
    assert many == again
    assert many["mean_corner_error"] != one["mean_corner_error"]
    assert {n: v for n, v in many.items() if n in ("repeatability", "matching_score", "n_matches")} == {
        n: v for n, v in one.items() if n in ("repeatability", "matching_score", "n_matches")
    }


# --- kp2d-tiny, auc


def test_tiny_leaves_pairs_without_repeated_points_out_of_its_mean():
    f = features(scattered(30))
    far = features(scattered(30) + np.array([300, 0]))
    protocol = PROTOCOLS["kp2d-tiny"]
    records = [{"sequence": "v_a", "pair": p, **protocol.score(f, g, np.eye(3))} for p, g in (("1_2", f), ("1_3", far))]
    assert [record["repeatability"] for record in records] == [1, 0]
    summary = summarise(records, protocol.aggregates)["all"]
    assert (summary["repeatability"]["mean"], summary["repeatability"]["n"]) == (1, 1)
    assert summarise(records, PROTOCOLS["kp2d"].aggregates)["all"]["repeatability"]["mean"] == 0.5


def test_outliers_ruin_the_direct_estimate_alone():
    points = scattered(100)
    moved = warp_points(points, VIEW)
    moved[::5] += 40
    scores = PROTOCOLS["auc"].score(features(points), features(moved), VIEW)
    assert scores["mean_corner_error"] < 0.1
    assert scores["mean_corner_error_dlt"] > 3
    records = [{"sequence": "v_a", "pair": "1_2", **scores}]
    summary = summarise(records, PROTOCOLS["auc"].aggregates)["all"]
    assert summary["h_auc@1"]["mean"] == pytest.approx(1 - scores["mean_corner_error"] / 2)
    assert summary["h_auc_dlt@3"]["mean"] == 0


def test_k_counts_the_best_and_all_points_are_reported():
    f = features(scattered(50))
    scores = PROTOCOLS["auc"].vary(k=10).score(f, f, np.eye(3))
    assert (scores["n_keypoints0"], scores["n_matches"]) == (50, 10)


def test_an_unknown_protocol_has_means():
    assert aggregate("of another lf", "repeatability") == ("repeatability", MEAN)
    assert aggregate("auc", "h_auc@3").of == "mean_corner_error"
