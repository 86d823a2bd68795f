"""Networks, decoders and checkpoints: brute-force restatements, published names, hostile files, real weights."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import nn
from torch.nn import functional as F

from lf.core import Artifact, BadInput, Card, LfError, UsageError
from lf.models import MODELS, NETWORKS, checkpoint, decode, peaks
from lf.models import resolve as resolving
from lf.models.r2d2.decode import r2d2
from lf.models.resolve import resolve
from lf.models.superpoint.decode import superpoint
from lf.models.wren.decode import wren

ROWS = tuple(NETWORKS)
SUPERPOINT = {"threshold": 0.015, "nms_radius": 4, "border": 4}
CARD = Card("superpoint", {"origin": "test", "sha256": "0", "licence": "test"}, (1, None, None))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


# --- decoding against brute force ---


def greedy(score, threshold, radius):
    """The rule itself: visit by falling score, then by index; keep, and clear the square."""
    height, width = score.shape
    visit = sorted(np.ndindex(height, width), key=lambda at: (-score[at], at))
    alive = score >= threshold
    kept = []
    for y, x in visit:
        if alive[y, x]:
            kept.append(y * width + x)
            alive[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = False
    return kept


def maxima(score, threshold, radius=1):
    """Pixels that nothing in their square beats, a tie being won by the first."""
    height, width = score.shape
    kept = []
    for y, x in np.ndindex(height, width):
        rows, columns = (range(max(0, at - radius), at + radius + 1) for at in (y, x))
        around = [(v, u) for v in rows if v < height for u in columns if u < width]
        if score[y, x] >= threshold and min(around, key=lambda at: (-score[at], at)) == (y, x):
            kept.append(y * width + x)
    return kept


def ramp(height, width, dx, dy):
    y, x = np.mgrid[:height, :width].astype(np.float32)
    slope = dx * x + dy * y
    return (slope - slope.min() + 1) / (slope.max() - slope.min() + 1)


SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
LEVELS = st.integers(0, 3).map(lambda level: level / 4)  # a map of four levels is mostly ties
MAPS = st.one_of(
    arrays(np.float32, SHAPES, elements=LEVELS),
    arrays(np.float32, SHAPES, elements=st.floats(0, 1, width=32), unique=True),
    arrays(np.float32, SHAPES, elements=st.just(0.5)),
    st.builds(ramp, st.integers(1, 24), st.integers(1, 24), st.integers(-2, 2), st.integers(-2, 2)),
)


@given(
    score=arrays(
        np.float32, st.integers(0, 40), elements=st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0])
    ),
    step=st.integers(1, 3),
)
def test_falling_is_a_stable_sort(score, step):
    index = np.arange(0, len(score), step)
    with np.errstate(all="ignore"):
        expected = index[np.argsort(-score[index], kind="stable")]
    np.testing.assert_array_equal(peaks.falling(score, index), expected)


@settings(max_examples=300, deadline=None)
@given(score=MAPS, threshold=st.sampled_from([0.0, 0.25, 0.6]), radius=st.integers(0, 5))
def test_nms_is_the_greedy_rule(score, threshold, radius):
    assert peaks.nms(score, threshold, radius).tolist() == greedy(score, threshold, radius)


@settings(max_examples=100, deadline=None)
@given(score=MAPS, radius=st.integers(0, 4), rounds=st.integers(1, 4))
def test_nms_stops_after_its_rounds(score, radius, rounds):
    alive, kept = score.copy(), set()
    for _ in range(rounds):
        for index in maxima(alive, 0.25, radius):
            y, x = divmod(index, score.shape[1])
            kept.add(index)
            alive[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = -1
    found = peaks.nms(score, 0.25, radius, rounds).tolist()
    assert found == sorted(kept, key=lambda index: (-score.reshape(-1)[index], index))


@settings(max_examples=300, deadline=None)
@given(score=MAPS, radius=st.integers(0, 5), border=st.integers(0, 4), top_k=st.integers(0, 30))
def test_the_best_points_are_the_first_of_all_points(score, radius, border, top_k):
    """If there are enough local maxima, lower scores are left out before suppression."""
    height, width = score.shape
    inside = [
        index
        for index in greedy(score, 0.25, radius)
        if border <= index // width < height - border and border <= index % width < width - border
    ]
    points, scores = decode.detect(score, 0.25, radius, border, top_k)
    assert points.tolist() == [[index % width, index // width] for index in inside[:top_k]]
    assert scores.tolist() == score.reshape(-1)[inside[:top_k]].tolist()


@pytest.mark.parametrize("radius", [1, 4, 7])
def test_points_are_thinned_by_the_greedy_rule(radius):
    rng = np.random.default_rng(radius)
    points = rng.uniform(-0.4, (59.4, 39.4), (300, 2)).astype(np.float32)
    scores = rng.integers(-3, 3, 300).astype(np.float32) / 2
    kept: list[int] = []
    at = points.round()
    for n in np.lexsort((at[:, 0], at[:, 1], -scores)):  # by falling score, equal ones row by row
        if all(np.abs(at[n] - at[k]).max() > radius for k in kept):
            kept.append(int(n))
    found = peaks.thin(points, scores, (40, 60), radius)
    assert {tuple(at[n]) for n in found} == {tuple(at[n]) for n in kept}
    assert (np.diff(scores[found]) <= 0).all()
    assert len(peaks.thin(points[:0], scores[:0], (40, 60), radius)) == 0


@settings(max_examples=200, deadline=None)
@given(score=MAPS, threshold=st.sampled_from([0.0, 0.25, 0.6]), radius=st.integers(1, 3))
def test_local_maxima_are_the_published_rule_with_ties_settled(score, threshold, radius):
    assert peaks.local_maxima(score, threshold, radius).tolist() == maxima(score, threshold, radius)


def snake(height, width):
    """Return a descending path in which every fifth pixel suppresses the next four: the longest chain of decisions."""
    score = np.zeros((height, width), np.float32)
    path = []
    for turn, y in enumerate(range(0, height, 5)):
        columns = range(width) if turn % 2 == 0 else range(width - 1, -1, -1)
        path += [(y, x) for x in columns]
        path += [(below, path[-1][1]) for below in range(y + 1, min(y + 5, height))]
    score[tuple(np.array(path).T)] = np.linspace(1, 0.1, len(path))
    return score


@pytest.mark.parametrize(
    "score",
    [
        pytest.param(np.full((120, 160), 0.5, np.float32), id="plateau"),
        pytest.param(ramp(120, 160, 1, 160), id="ramp"),
        pytest.param(ramp(120, 160, 1, 0), id="ramp of ties"),
        pytest.param(np.random.default_rng(0).random((120, 160), np.float32), id="noise"),
        pytest.param(np.random.default_rng(0).integers(0, 3, (120, 160)).astype(np.float32), id="three levels"),
        pytest.param(snake(120, 160), id="snake"),
    ],
)
def test_nms_stays_exact_where_it_needs_many_rounds(score):
    assert peaks.nms(score, 0.01, 4).tolist() == greedy(score, 0.01, 4)


def test_a_plateau_gives_one_point_per_square():
    assert len(peaks.nms(np.full((9, 9), 0.5, np.float32), 0.1, 4)) == 4
    assert peaks.local_maxima(np.full((9, 9), 0.5, np.float32), 0.1).tolist() == [0]


def superpoint_maps(rows=6, columns=9, depth=16, seed=0):
    rng = np.random.default_rng(seed)
    detector = rng.normal(0, 3, (65, rows, columns)).astype(np.float32)
    return {"detector": detector, "descriptor": rng.normal(0, 1, (depth, rows, columns)).astype(np.float32)}


def reference_heat(detector):
    """Channel 8 * r + c of the softmax is pixel (r, c) of its cell."""
    probability = torch.from_numpy(np.ascontiguousarray(detector)).double().softmax(0)[:64]
    return F.pixel_shuffle(probability[None], 8)[0, 0].numpy()


def test_superpoint_decode_restated():
    maps = superpoint_maps()
    keypoints, scores, descriptors = superpoint(maps, **SUPERPOINT)
    heat = reference_heat(maps["detector"])
    expected = [divmod(at, 72) for at in greedy(heat, 0.015, 4)]
    expected = [(x, y) for y, x in expected if 4 <= x < 72 - 4 and 4 <= y < 48 - 4]
    assert keypoints.tolist() == [list(map(float, at)) for at in expected]
    np.testing.assert_allclose(scores, [heat[y, x] for x, y in expected], rtol=1e-5)
    assert (np.diff(scores) <= 0).all()
    cells = F.normalize(torch.from_numpy(maps["descriptor"])[None], dim=1)
    at = torch.from_numpy(keypoints / np.float32([36, 24]) - 1)[None, None]
    sampled = F.normalize(F.grid_sample(cells, at, mode="bilinear", align_corners=True)[0, :, 0].T, dim=1)
    np.testing.assert_allclose(descriptors, sampled, atol=2e-6)
    for value in (keypoints, scores, descriptors):
        assert value.dtype == np.float32


def test_wren_decode_restated():
    maps = superpoint_maps()
    keypoints, scores, descriptors = wren(maps, **SUPERPOINT)
    whole, same_scores, _ = superpoint(maps, **SUPERPOINT)
    np.testing.assert_array_equal(scores, same_scores)
    heat = np.pad(reference_heat(maps["detector"]), 2)
    v, u = np.mgrid[-2:3, -2:3]
    for at, refined in zip(whole.astype(int), keypoints, strict=True):
        patch = heat[at[1] : at[1] + 5, at[0] : at[0] + 5]
        shift = [(patch * u).sum() / patch.sum(), (patch * v).sum() / patch.sum()]
        np.testing.assert_allclose(refined, at + shift, atol=1e-4)
    cells = F.normalize(torch.from_numpy(maps["descriptor"])[None], dim=1)
    at = torch.from_numpy((keypoints + 0.5) / np.float32([36, 24]) - 1)[None, None]
    sampled = F.grid_sample(cells, at, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0].T
    np.testing.assert_allclose(descriptors, F.normalize(sampled, dim=1), atol=2e-6)


def r2d2_maps(height=31, width=40, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"descriptor": (8, height, width), "reliability": (1, height, width), "repeatability": (1, height, width)}
    return {name: rng.normal(2, 2, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["descriptor", "reliability"])
def test_r2d2_maps_of_different_sizes_are_named(name):
    maps = r2d2_maps()
    maps[name] = maps[name][:, :20]
    with pytest.raises(LfError, match=rf"maps of one size expected, found repeatability .*{name} \(\d, 20, 40\)"):
        r2d2(maps, repeatability=0.7, reliability=0.7)


def test_r2d2_decode_restated():
    maps = r2d2_maps()
    keypoints, scores, descriptors = r2d2(maps, repeatability=0.7, reliability=0.7)
    soft = F.softplus(torch.from_numpy(maps["repeatability"][0]))
    repeatability = (soft / (1 + soft)).numpy()
    reliability = torch.from_numpy(maps["reliability"][0]).sigmoid().numpy()
    chosen = [divmod(at, 40) for at in maxima(repeatability, 0.7)]
    chosen = sorted(
        (at for at in chosen if reliability[at] >= 0.7), key=lambda at: -repeatability[at] * reliability[at]
    )
    assert len(chosen) > 20
    assert keypoints.tolist() == [[float(x), float(y)] for y, x in chosen]
    np.testing.assert_allclose(scores, [repeatability[at] * reliability[at] for at in chosen], rtol=1e-5)
    expected = np.array([maps["descriptor"][:, y, x] for y, x in chosen])
    np.testing.assert_allclose(descriptors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("row", "maps"), [("superpoint", superpoint_maps), ("wren", superpoint_maps), ("r2d2", r2d2_maps)]
)
def test_describing_ones_own_points_changes_nothing(row, maps):
    model, found = MODELS[row], maps()
    settings = {"repeatability": 0.1, "reliability": 0.1}
    if row != "r2d2":
        settings = {**model.settings, "threshold": 0.0, "nms_radius": 2, "border": 0}
    points, _, descriptors = model.decode(found, **settings)
    assert len(points)
    assert np.allclose(model.describe(found, points), descriptors, atol=1e-6)
    assert np.allclose(np.linalg.norm(model.describe(found, points + np.float32(0.3)), axis=1), 1, atol=1e-5)


def test_r2d2_plateau_gives_one_point_and_saturated_logits_stay_finite():
    maps = r2d2_maps()
    maps["repeatability"][:] = 500
    maps["reliability"][:] = 500
    keypoints, scores, _ = r2d2(maps, repeatability=0.7, reliability=0.7)
    assert keypoints.tolist() == [[0, 0]]
    assert scores[0] == pytest.approx(500 / 501)
    maps["reliability"][:] = -500
    assert len(r2d2(maps, repeatability=0.7, reliability=0.7)[0]) == 0


DECODERS = [
    pytest.param(superpoint, superpoint_maps, SUPERPOINT, id="superpoint"),
    pytest.param(wren, superpoint_maps, SUPERPOINT, id="wren"),
    pytest.param(r2d2, r2d2_maps, {"repeatability": 0.7, "reliability": 0.7}, id="r2d2"),
]


@pytest.mark.parametrize(("decoder", "maps", "options"), DECODERS)
class TestEveryDecoder:
    def test_top_k_is_a_prefix(self, decoder, maps, options):
        whole, first = decoder(maps(), **options), decoder(maps(), **options, top_k=5)
        for all_of_them, some in zip(whole, first, strict=True):
            np.testing.assert_allclose(some, all_of_them[:5], atol=1e-7)
            assert len(some) == 5

    def test_memory_layout_and_dtype_do_not_matter(self, decoder, maps, options):
        strided = {k: np.asfortranarray(v.astype(np.float64))[:, ::1, ::1] for k, v in maps().items()}
        for a, b in zip(decoder(maps(), **options), decoder(strided, **options), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_inputs_are_not_written(self, decoder, maps, options):
        given_maps = maps()
        decoder(given_maps, **options)
        for name, value in maps().items():
            np.testing.assert_array_equal(given_maps[name], value)

    def test_no_keypoints(self, decoder, maps, options):
        none = {k: 1.0 for k in options if k in ("threshold", "repeatability")}
        keypoints, scores, descriptors = decoder(maps(), **{**options, **none})
        depth = len(maps()["descriptor"])
        assert (keypoints.shape, scores.shape, descriptors.shape) == ((0, 2), (0,), (0, depth))
        assert {a.dtype for a in (keypoints, scores, descriptors)} == {np.dtype(np.float32)}

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_non_finite_maps_are_named(self, decoder, maps, options, bad):
        for name in maps():
            broken = maps()
            broken[name][-1, :, :] = bad  # of descriptors, only those of the points are read
            with pytest.raises(LfError, match=f"the {name} map holds a non-finite value"):
                decoder(broken, **options)

    def test_missing_and_batched_maps_are_named(self, decoder, maps, options):
        missing = {k: v for k, v in maps().items() if k != "descriptor"}
        with pytest.raises(LfError, match=r"gives no descriptor map, only (detector|reliability)"):
            decoder(missing, **options)
        with pytest.raises(LfError, match=r"descriptor map has shape \(1, .*expected \(channels, height, width\)"):
            decoder({**maps(), "descriptor": maps()["descriptor"][None]}, **options)


@pytest.mark.parametrize("channels", [1, 4, 11])
def test_what_is_read_of_a_map_is_checked(channels):
    rng = np.random.default_rng(channels)
    values = rng.normal(size=(channels, 5, 7)).astype(np.float32)
    index = rng.integers(0, 35, (4, 6))
    one = np.array([4])
    for some in (index, one):
        expected = values.reshape(channels, -1)[:, some]
        np.testing.assert_array_equal(decode.read({"map": values}, "map", some), expected)
    for channel in range(channels):
        broken = values.copy()
        broken[channel, 2, 3] = np.nan
        for some in (index, np.array([2 * 7 + 3])):
            with pytest.raises(LfError, match="the map map holds a non-finite value"):
                decode.read({"map": broken}, "map", some)
        decode.read({"map": broken}, "map", one)


def test_descriptors_are_checked_where_they_are_sampled():
    maps = {"descriptor": np.ones((3, 20, 30), np.float32)}
    maps["descriptor"][1, 4, 5] = np.inf
    away, near = np.array([[8.5, 4.0], [5.0, 6.5]], np.float32), np.array([[4.5, 3.5]], np.float32)
    assert np.allclose(decode.sample(maps, "descriptor", away), 3**-0.5)
    with pytest.raises(LfError, match="the descriptor map holds a non-finite value"):
        decode.sample(maps, "descriptor", near)


FAMILIES_OF_DECODERS = {row.decode.__name__: name for name, row in NETWORKS.items() if hasattr(row.decode, "__name__")}


@pytest.mark.parametrize("levels", [3, 60, None])
@pytest.mark.parametrize("name", [*FAMILIES_OF_DECODERS.values(), "kp2d"])
def test_the_best_points_of_every_family_are_the_first_of_all(name, levels):
    """The maps have many ties, few ties, or none."""
    row, rng = NETWORKS[name], np.random.default_rng(0)
    size = 96, 128
    shapes = {
        head: (channels, *(side // max(stride, 1) for side in size)) for head, (channels, stride) in row.heads.items()
    }
    if name.startswith("aliked"):  # which has weights among its maps
        (samples, *_), (depth, *_) = shapes["offset"], shapes["project"]
        shapes |= {"offset": (samples, 1, 9 * depth + samples + 2), "project": (depth, 1, depth)}
        shapes["descriptor"] = (depth, samples // 2, depth)
    maps = {head: rng.normal(0, 2, shape).astype(np.float32) for head, shape in shapes.items()}
    if levels:
        maps = {head: np.round(values * levels / 12) * 12 / levels for head, values in maps.items()}
    few = {"threshold": 1e-4} if "threshold" in row.settings else {"repeatability": 0.1, "reliability": 0.1}
    whole = row.decode(maps, **{**row.settings, **few})
    assert len(whole[0]) > 20
    for top_k in (1, 20, len(whole[0]) // 2):
        points, scores, descriptors = row.decode(maps, **{**row.settings, **few}, top_k=top_k)
        np.testing.assert_array_equal(points, whole[0][:top_k])
        np.testing.assert_array_equal(scores, whole[1][:top_k])
        np.testing.assert_allclose(
            descriptors, whole[2][:top_k], rtol=0, atol=2e-5
        )  # BLAS sums other batches otherwise


def test_maps_whose_sum_overflows_are_finite():
    maps = superpoint_maps()
    maps["descriptor"][:] = 1e37
    assert np.isfinite(superpoint(maps, **SUPERPOINT)[0]).all()


# --- networks ---


@pytest.mark.parametrize("name", ROWS)
def test_heads_have_the_channels_and_strides_of_the_table(name):
    row = MODELS[name]
    height, width = 6 * row.multiple, 16 * row.multiple
    with torch.inference_mode():
        maps = checkpoint.build(name).eval()(torch.rand(2, row.channels, height, width))
    assert isinstance(maps, tuple)
    shapes = {head: tuple(value.shape) for head, value in zip(row.heads, maps, strict=True)}
    for head, (channels, stride) in row.heads.items():
        sides = (height // stride, width // stride) if stride else shapes[head][2:]  # weights of the decode
        assert shapes[head] == (2 if stride else 1, channels, *sides), head


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("superpoint", 1_300_865),
        ("superpoint-bn", 1_304_067),
        ("r2d2", 484_387),
        ("r2d2-big", 1_038_899),
        ("fast-r2d2", 484_387),
    ],
)
def test_parameter_counts_are_the_published_ones(name, parameters):
    assert sum(p.numel() for p in checkpoint.build(name).parameters()) == parameters


@pytest.mark.parametrize("name", ROWS)
def test_every_network_takes_a_free_height_and_width(name):
    row = MODELS[name]
    step = max(16, row.multiple)
    free = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(
        checkpoint.build(name).eval(), (torch.rand(1, row.channels, 4 * step, 3 * step),), dynamic_shapes=free
    )
    assert (
        program.module()(torch.rand(1, row.channels, 2 * step, 5 * step))[0].shape[-1]
        == 5 * step // row.heads[next(iter(row.heads))][1]
    )


# --- public checkpoints, written out by their published names ---


def norm(name, channels, affine=True):
    scale = {f"{name}.weight": (channels,), f"{name}.bias": (channels,)} if affine else {}
    stats = {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    return scale | stats | {f"{name}.num_batches_tracked": ()}


def conv(name, outputs, inputs, kernel):
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


TRUNK = [(1, 64), (64, 64), (64, 64), (64, 64), (64, 128), (128, 128), (128, 128), (128, 128)]
HEADS = {"Pa": (128, 256, 3), "Pb": (256, 65, 1), "Da": (128, 256, 3), "Db": (256, 256, 1)}
PLACES = ["1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b"]
GAUSS2 = [f"{block}.conv.{i}" for block in ("inc.conv", *(f"down{n}.mpconv.1" for n in (1, 2, 3))) for i in (0, 3)]


def superpoint_shapes():
    trunk = [conv(f"conv{p}", o, i, 3) for p, (i, o) in zip(PLACES, TRUNK, strict=True)]
    heads = [conv(f"conv{p}", o, i, k) for p, (i, o, k) in HEADS.items()]
    return {k: v for part in trunk + heads for k, v in part.items()}


def superpointnet_shapes():
    norms = [norm(f"bn{p}", o) for p, (_, o) in zip(PLACES, TRUNK, strict=True)]
    norms += [norm(f"bn{p}", o) for p, (_, o, _) in HEADS.items()]
    return superpoint_shapes() | {k: v for part in norms for k, v in part.items()}


def gauss2_shapes():
    shapes = {k: v for k, v in superpointnet_shapes().items() if k[-1] not in "0" and k.partition(".")[0][-2] in "PD"}
    for name, (i, o) in zip(GAUSS2, TRUNK, strict=True):
        after = f"{name[:-1]}{int(name[-1]) + 1}"
        shapes |= conv(name, o, i, 3) | norm(after, o)
    return shapes


def r2d2_shapes(fast=False, width=4):
    places = (0, 3, 6, 10, 13, 16, 19, 21, 23) if fast else (0, 3, 6, 9, 12, 15, 18, 20, 22)
    channels = [3, *(width * unit for unit in (8, 8, 16, 16, 32, 32, 32, 32)), 128]
    shapes = {}
    for n, place in enumerate(places):
        shapes |= conv(f"ops.{place}", channels[n + 1], channels[n], 3 if n < 6 else 2)
        shapes |= norm(f"ops.{place + 1}", channels[n + 1], affine=False) if n < 8 else {}
    return shapes | conv("clf", 2, 128, 1) | conv("sal", 1, 128, 1)


def fill(shapes, prefix=""):
    """Weights that keep the signal alive, positive variances, integer counters."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        elif name.endswith("running_var"):
            value = torch.rand(shape) + 0.5
        else:
            fan = int(np.prod(shape[1:])) or 1
            value = torch.randn(shape) * (2 / fan) ** 0.5 if len(shape) > 1 else torch.randn(shape) * 0.1
        state[prefix + name] = value
    return state


PUBLIC = [
    pytest.param("superpoint", superpoint_shapes(), id="superpoint"),
    pytest.param("superpoint-bn", gauss2_shapes(), id="gauss2"),
    pytest.param("superpoint-bn", superpointnet_shapes(), id="superpointnet"),
    pytest.param("r2d2", r2d2_shapes(), id="r2d2"),
    pytest.param("r2d2-big", r2d2_shapes(width=6), id="r2d2-big"),
    pytest.param("fast-r2d2", r2d2_shapes(fast=True), id="fast-r2d2"),
]


@pytest.mark.parametrize("row", NETWORKS.values(), ids=NETWORKS)
def test_the_heads_that_a_row_names_are_there(row):
    assert {row.descriptor, *row.keep_float, *([row.maxima] if row.maxima else [])} <= set(row.heads)


def test_the_public_state_dicts_have_the_published_sizes():
    assert len(superpoint_shapes()) == 24
    assert len(gauss2_shapes()) == len(superpointnet_shapes()) == 24 + 12 * 5
    assert len(r2d2_shapes()) == len(r2d2_shapes(fast=True)) == 46


def bn(x, state, name):
    affine = (state.get(f"{name}.weight"), state.get(f"{name}.bias"))
    return F.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"], *affine)


def published_superpoint(image, state):
    """The forward pass as the paper's code writes it, straight from the public names."""
    older = "conv1a.weight" in state

    def layer(x, place, relu=True):
        name, after = f"conv{place}", f"bn{place}"
        if place in PLACES and not older:
            name = GAUSS2[PLACES.index(place)]
            after = f"{name[:-1]}{int(name[-1]) + 1}"
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)
        x = bn(x, state, after) if f"{after}.running_mean" in state else x
        return x.relu() if relu else x

    x = image
    for place in PLACES:
        x = layer(F.max_pool2d(x, 2) if place in ("2a", "3a", "4a") else x, place)
    return layer(layer(x, "Pa"), "Pb", relu=False), layer(layer(x, "Da"), "Db", relu=False)


def published_r2d2(image, state):
    """Descriptor un-normalised, P(reliable), repeatability: `softmax` and `s / (1 + s)` as published."""
    fast = "ops.10.weight" in state
    x = (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    dilations = (1, 1, 1, 1, 1, 2, 2, 4, 8) if fast else (1, 1, 1, 2, 2, 4, 4, 8, 16)
    places = sorted(int(k.split(".")[1]) for k in state if k.startswith("ops.") and k.endswith(".weight"))
    for n, (place, d) in enumerate(zip(places, dilations, strict=True)):
        weight = state[f"ops.{place}.weight"]
        x = F.conv2d(x, weight, state[f"ops.{place}.bias"], padding=d * (weight.shape[-1] - 1) // 2, dilation=d)
        x = bn(x, state, f"ops.{place + 1}") if n < 8 else x
        x = x.relu() if n < 6 else x
        x = F.max_pool2d(x, 2) if fast and n == 2 else x
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) if fast else x
    reliability = F.conv2d(x**2, state["clf.weight"], state["clf.bias"]).softmax(1)[:, 1:]
    soft = F.softplus(F.conv2d(x**2, state["sal.weight"], state["sal.bias"]))
    return x, reliability, soft / (1 + soft)


@pytest.mark.parametrize(("row", "shapes"), PUBLIC)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_public_weights_give_the_published_maps(row, shapes, prefix, tmp_path):
    state = fill(shapes)
    torch.save({"state_dict": {prefix + k: v for k, v in state.items()}}, tmp_path / "it.pth.tar")
    artifact = resolve(tmp_path / "it.pth.tar")
    assert (artifact.card.model, artifact.card.outputs) == (row, dict(MODELS[row].heads))
    assert artifact.card.input == (MODELS[row].channels, None, None)
    assert artifact.card.weights["sha256"] == artifact.sha256
    licence = {"superpoint": "non-commercial", "superpoint-bn": "MIT"}.get(row, "CC BY-NC-SA")
    assert licence in artifact.card.weights["licence"]
    network = checkpoint.network(artifact)
    assert not network.training
    image = torch.rand(1, MODELS[row].channels, 32, 48)
    with torch.inference_mode():
        maps = network(image)
        if MODELS[row].family == "superpoint":
            expected = published_superpoint(image, state)
        else:
            expected = published_r2d2(image, state)
            maps = (maps[0], maps[1].sigmoid(), F.softplus(maps[2]) / (1 + F.softplus(maps[2])))
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"n_iter": 3, "model_state_dict": s, "loss": 0.5}])
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_and_both_file_formats(wrap, zipped, tmp_path):
    state = fill(superpoint_shapes())
    torch.save(wrap(state), tmp_path / "it.pth", _use_new_zipfile_serialization=zipped)
    row, own, info = checkpoint.load(tmp_path / "it.pth")
    assert row == "superpoint"
    torch.testing.assert_close(own["stage3.a.conv.weight"], state["conv3a.weight"], rtol=0, atol=0)
    torch.testing.assert_close(own["detector.b.conv.bias"], state["convPb.bias"], rtol=0, atol=0)
    assert info["origin"] == "it.pth"
    assert "non-commercial" in info["licence"]


def test_views_parameters_and_half_precision_are_read(tmp_path):
    state = fill(superpoint_shapes())
    state["conv1b.weight"] = nn.Parameter(state["conv1b.weight"].permute(1, 0, 2, 3))
    state["conv2a.bias"] = torch.arange(128.0)[::2]
    state["conv2b.bias"] = state["conv2b.bias"].half()
    torch.save(state, tmp_path / "it.pth")
    own = checkpoint.load(tmp_path / "it.pth")[1]
    torch.testing.assert_close(own["stage1.b.conv.weight"], state["conv1b.weight"].detach())
    assert own["stage2.a.conv.bias"].tolist() == list(range(0, 128, 2))
    assert {value.dtype for value in own.values()} == {torch.float32}
    assert all(value.is_contiguous() for value in own.values())


# --- what cannot be loaded says why ---


def save_state(path, state):
    torch.save(state, path)
    return path


def test_a_missing_and_a_misshapen_tensor_are_named(tmp_path):
    state = fill(superpoint_shapes())
    shape = r"expected \(128, 64, 3, 3\)"
    short = {k: v for k, v in state.items() if k != "conv3a.weight"}
    with pytest.raises(BadInput, match=rf"short.pth: .*looks like superpoint but conv3a.weight is missing; {shape}"):
        checkpoint.load(save_state(tmp_path / "short.pth", short))
    wrong = {**state, "conv3a.weight": torch.zeros(64, 64, 3, 3)}
    with pytest.raises(BadInput, match=rf"superpoint but conv3a.weight is \(64, 64, 3, 3\); {shape}"):
        checkpoint.load(save_state(tmp_path / "wrong.pth", wrong))


@pytest.mark.parametrize(("row", "shapes"), PUBLIC)
def test_every_family_is_named_when_a_tensor_is_missing(row, shapes, tmp_path):
    state = fill(shapes)
    name = [k for k in state if k.endswith((".bias", ".running_mean"))][5]
    del state[name]
    with pytest.raises(BadInput, match=f"looks like {row} but {name} is missing; expected"):
        checkpoint.load(save_state(tmp_path / "it.pth", state))


def test_tensors_of_an_extension_are_not_dropped(tmp_path):
    state = fill(gauss2_shapes()) | {"seg_head.weight": torch.zeros(4, 64, 1, 1), "seg_head.bias": torch.zeros(4)}
    with pytest.raises(BadInput, match=r"looks like superpoint-bn but also holds seg_head.weight and 1 more"):
        checkpoint.load(save_state(tmp_path / "it.pth", state))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(value, tmp_path):
    state = fill(superpoint_shapes())
    state["conv3a.bias"][0] = value
    with pytest.raises(
        BadInput,
        match=r"it.pth: .*\.bias holds a non-finite value, expected finite numbers; .* use an earlier checkpoint",
    ):
        checkpoint.load(save_state(tmp_path / "it.pth", state))


def test_unknown_tensors_list_the_known_families(tmp_path):
    with pytest.raises(
        BadInput, match=r"its 1 tensors \(fc.weight \(3, 3\), ...\) fit no known family; known: superpoint,"
    ):
        checkpoint.load(save_state(tmp_path / "it.pth", {"fc.weight": torch.zeros(3, 3)}))


@pytest.mark.parametrize("content", [{}, [1, 2], {"state_dict": {"a": 1}}, torch.zeros(3), "text"])
def test_a_checkpoint_without_a_state_dict(content, tmp_path):
    with pytest.raises(
        BadInput, match=r"holds no state dict; expected one, bare or under a key such as state_dict; found \w+"
    ):
        checkpoint.load(save_state(tmp_path / "it.pth", content))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty; expected a PyTorch checkpoint"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" * 40, r"not a PyTorch checkpoint \(it starts with ff d8 ff e0"),
        (b"#!/bin/sh\necho weights", "not a PyTorch checkpoint"),
        (pickle.dumps({"a": 1}), r"a pickle, but not one of torch\.save"),
    ],
)
def test_files_that_are_no_checkpoints(content, text, tmp_path):
    path = tmp_path / "it.pth"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=text) as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        checkpoint.load(tmp_path / "absent.pth")
    with pytest.raises(BadInput, match="is a folder"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 0.9999])
def test_truncated_files(zipped, share, tmp_path):
    buffer = io.BytesIO()
    torch.save(fill(superpoint_shapes()), buffer, _use_new_zipfile_serialization=zipped)
    whole = buffer.getvalue()
    (tmp_path / "it.pth").write_bytes(whole[: max(5, int(len(whole) * share))])
    with pytest.raises(BadInput, match="truncated"):
        checkpoint.load(tmp_path / "it.pth")


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_fail_politely(data):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3), "b": [1.0, "x"]}, buffer, _use_new_zipfile_serialization=data.draw(st.booleans()))
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        checkpoint.unpickle.read(bytes(damaged), Path("it.pth"))
    except BadInput as error:
        assert "\n" not in str(error)  # noqa: PT017


class Runs:
    """Unpickled carelessly, this makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(zipped, tmp_path):
    marker = tmp_path / "ran"
    content = {"state_dict": fill(superpoint_shapes()), "extra": Runs(marker)}
    torch.save(content, tmp_path / "it.pth", _use_new_zipfile_serialization=zipped)
    assert checkpoint.load(tmp_path / "it.pth")[0] == "superpoint"
    torch.save({"state_dict": Runs(marker)}, tmp_path / "it.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match=r"holds no state dict; .*; found state_dict \((posix|nt)\.mkdir\)$"):
        checkpoint.load(tmp_path / "it.pth")
    assert not marker.exists()


class Reserves:
    """Three terabytes, if anybody calls it."""

    def __reduce__(self):
        return bytearray, (3 << 40,)


def bomb_of_zeros():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("it/data.pkl", bytes(20_000_000))
    return buffer.getvalue()


def legacy(content):
    magic = (checkpoint.unpickle.LEGACY_MAGIC, checkpoint.unpickle.LEGACY_PROTOCOL, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in magic) + content


def complete(content):
    """The same with its list of storages, so that it is read to its end."""
    return legacy(content) + pickle.dumps([], 2)


def storage_of(count):
    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count, None) if value is Writer else None

    buffer = io.BytesIO()
    Writer(buffer, 2).dump({"w": Writer})
    return legacy(buffer.getvalue())


def memoized(index):
    """Opcodes that leave the memo with one more tuple, twice the last one."""
    return b"h" + bytes([index]) + b"h" + bytes([index]) + b"\x86\x940"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (bomb_of_zeros(), "zip entries overlap, or are more than 4 times as large as the file"),
        (complete(pickle.dumps(Reserves(), 2)), r"found an object of (__builtin__|builtins).bytearray"),
        (storage_of(1 << 40), f"claims a tensor of {1 << 40} numbers, the file has"),
        (storage_of(-1), "claims a tensor of -1 numbers"),
        (storage_of([[1]]), "the length of a storage is no number"),
        (complete(b"\x80\x02]r" + struct.pack("<I", 1 << 31) + b"."), "found list"),
        (complete(b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s."), "found dict, empty"),  # such a key is left out
        (complete(b"\x80\x02})q\x000" + b"h\x00h\x00\x86q\x000" * 60 + b"h\x00K\x01s."), "found dict, empty"),
        (complete(b"\x80\x04})\x940" + b"".join(map(memoized, range(60))) + b"h<K\x01s."), "found dict, empty"),
        (complete(b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."), "found dict, empty"),
        (legacy(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"."), "truncated"),
    ],
    ids=["zip", "call", "storage", "negative", "nested", "memo", "doubled", "fetched", "memoized", "deep", "bytearray"],
)
def test_bombs_are_refused_before_they_take_memory_or_time(content, text, tmp_path):
    (tmp_path / "it.pth").write_bytes(content)
    with pytest.raises(BadInput, match=text):
        checkpoint.load(tmp_path / "it.pth")


# --- our own files, and names ---


def saved(path, row="superpoint", **changes):
    return checkpoint.save(path, checkpoint.build(row), CARD.step(**changes))


def test_own_files_come_back_bit_for_bit_with_their_card(tmp_path):
    module = checkpoint.build("superpoint")
    artifact = checkpoint.save(tmp_path / "it.safetensors", module, CARD)
    again = resolve(tmp_path / "it.safetensors")
    assert again.card == artifact.card == CARD
    row, _, weights = checkpoint.load(again.path)
    assert (row, weights) == ("superpoint", CARD.weights)
    for name, value in checkpoint.network(again).state_dict().items():
        assert torch.equal(value, module.state_dict()[name])


def test_own_files_whose_card_and_tensors_disagree(tmp_path):
    saved(tmp_path / "a.safetensors", model="superpoint-bn")
    with pytest.raises(
        BadInput, match=r"a.safetensors: .* card says superpoint-bn, its tensors are of another network"
    ):
        checkpoint.load(tmp_path / "a.safetensors")
    saved(tmp_path / "b.safetensors", model="elsewhere")
    with pytest.raises(BadInput, match=r"its card names model 'elsewhere'; known: superpoint,"):
        checkpoint.load(tmp_path / "b.safetensors")
    saved(tmp_path / "d.safetensors", model="sift")
    with pytest.raises(BadInput, match=r"d.safetensors: its card names model 'sift'; known: superpoint,.* wren$"):
        checkpoint.load(tmp_path / "d.safetensors")
    artifact = saved(tmp_path / "c.safetensors")
    with pytest.raises(BadInput, match="holds weights of superpoint, its card says wren"):
        checkpoint.network(Artifact(artifact.path, CARD.step(model="wren")))


def test_own_files_that_are_cut(tmp_path):
    path = saved(tmp_path / "it.safetensors").path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="truncated"):
        checkpoint.load(path)


def test_names(tmp_path, monkeypatch):
    monkeypatch.setattr(resolving, "SHIPPED", tmp_path)
    saved(tmp_path / "tiny.safetensors")
    assert resolve("tiny").path == tmp_path / "tiny.safetensors"
    with pytest.raises(
        UsageError, match=r"'tinny' is neither a file nor shipped weights; did you mean 'tiny'\? shipped: tiny"
    ):
        resolve("tinny")
    with pytest.raises(UsageError, match=r"'r2d2' come with lf; give .*; lf models r2d2 says where to get it$"):
        resolve("r2d2")
    with pytest.raises(BadInput, match=r"^tiny.onnx: no such file; .* type: `export\(tiny, output=tiny.onnx\)`$"):
        resolve("tiny.onnx")
    with pytest.raises(BadInput, match="no such file"):
        resolve(tmp_path / "absent.pth")
    with pytest.raises(BadInput, match="no such file"):
        resolve(tmp_path / "absent.onnx")


def test_cards_are_read_and_maps_decoded_without_torch(tmp_path):
    path = saved(tmp_path / "it.safetensors").path
    code = (
        "import sys; sys.modules.update(torch=None, safetensors=None)\n"
        "from lf.models import decode\nfrom lf.models.resolve import resolve\n"
        f"print(resolve({str(path)!r}).card.model)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "superpoint", done.stderr


# --- the real weights ---

REAL = {
    "superpoint/superpoint_v1_composite.pth": "superpoint",
    "r2d2/r2d2_WAF_N16.pt": "r2d2",
    "r2d2/r2d2_WASF_N16.pt": "r2d2",
    "r2d2/r2d2_WASF_N8_big.pt": "r2d2-big",
    "r2d2/faster2d2_WASF_N16.pt": "fast-r2d2",
    "r2d2_tudelft/f0_fr2d2_original_N16_e5.pt": "fast-r2d2",
    "r2d2_tudelft/new_fr2d2_dice_N16_e5.pt": "fast-r2d2",
}


@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints_are_recognised(name, shared):
    artifact = resolve(shared / "weights" / name)
    assert artifact.card.model == REAL[name]
    assert artifact.card.weights["origin"] == Path(name).name
    assert "non-commercial" in artifact.card.weights["licence"] or "NC" in artifact.card.weights["licence"]
    assert all(torch.isfinite(value).all() for value in checkpoint.network(artifact).state_dict().values())


def test_the_public_head_of_posfeat_alone_is_no_network(shared):
    with pytest.raises(BadInput, match=r"holds the head of posfeat without its backbone; expected both in one file"):
        resolve(shared / "weights/posfeat/localheader.pth")


def read_grey(path, size=(640, 480)):
    """(1, 1, H, W) in [0, 1] at `size`, and the half-pixel scaling of native to resized pixels."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    sx, sy = size[0] / image.shape[1], size[1] / image.shape[0]
    scaling = np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small)[None, None].float() / 255, scaling


@pytest.mark.parametrize(
    ("pair", "matches", "share"),
    [
        ("v_graffiti 1 2", 519, 0.881),
        ("v_boat 1 2", 616, 0.893),
        ("i_leuven 1 4", 678, 0.937),
        ("i_ubc 1 4", 446, 0.901),
    ],
)
def test_superpoint_matches_real_pairs_as_measured_elsewhere(pair, matches, share, shared):
    folder, a, b = pair.split()
    network = checkpoint.network(resolve(shared / "weights/superpoint/superpoint_v1_composite.pth"))
    found = []
    for number in (a, b):
        image, scaling = read_grey(shared / "data/oxford" / folder / f"{number}.png")
        with torch.inference_mode():
            maps = dict(zip(MODELS["superpoint"].heads, (m[0].numpy() for m in network(image)), strict=True))
        found.append((superpoint(maps, **MODELS["superpoint"].settings), scaling))
    ((p, _, d), s), ((q, _, e), t) = found
    similar = d @ e.T
    forth, back = similar.argmax(1), similar.argmax(0)
    mutual = np.flatnonzero(back[forth] == np.arange(len(p)))
    homography = t @ np.loadtxt(shared / "data/oxford" / folder / f"H_{a}_{b}") @ np.linalg.inv(s)
    there = cv2.perspectiveTransform(p[mutual, None].astype(np.float64), homography)[:, 0]
    within = (np.linalg.norm(there - q[forth[mutual]], axis=1) <= 3).mean()
    assert len(mutual) == pytest.approx(matches, rel=0.03)
    # The stated figures were measured with another resize; the shares feel it more than the counts.
    assert share - 0.01 <= within <= share + 0.06
