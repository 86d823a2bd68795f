"""R2D2's training: pairs with exact flow, losses with known values, a sampler that finds the truth, and a network."""

from __future__ import annotations

import colorsys
import importlib.util
import zipfile

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lf.core import BadInput, UsageError
from lf.models import checkpoint
from lf.train import RECIPES, Recipe
from lf.train.losses import r2d2_losses as losses
from lf.train.losses import r2d2_sampler
from lf.train.methods.r2d2 import Method, window_points
from lf.train.pictures import Pictures
from lf.train.views import colour, flow_pairs, r2d2_views
from lf.train.views.r2d2_views import Changes
from lf.train.views.random_views import Dice

CPU = torch.device("cpu")
SETTINGS = RECIPES["r2d2"].settings | {"hardnet_points": 64, "shorter": (96.0, 256.0)}
KINDS = tuple(losses.SIMILARITIES)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def recipe(batch=2, size=(64, 64), **changes):
    return Recipe("fast-r2d2", "r2d2", "", 10, batch, size, 1e-3, bf16=False, settings={**SETTINGS, **changes})


def squares(count=4, side=128):
    """Blobs of all sizes and colours."""
    rng = np.random.default_rng(0)
    noise = sum(
        cv2.resize(rng.uniform(0, 255, (n, n, 3)).astype(np.float32), (count * side, side)) for n in (8, 16, 32)
    )
    return np.stack(np.split((noise / 3).astype(np.uint8), count, axis=1))


def method(batch=2, size=(64, 64), **changes):
    return Method(recipe(batch, size, **changes), Pictures(squares(), (), CPU), CPU)


def identity(batch, height, width):
    return r2d2_views.within(r2d2_views.grid((height, width), CPU).expand(batch, -1, -1), (height, width))


def ramp(height, width):
    """(1, 3, H, W): two channels that tell the place, x and y in shares of the sides."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x / width, y / height, torch.zeros_like(x)])[None]


# --- views


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [(48, 64), (96, 96)])
def test_the_flow_leads_to_the_same_place_of_the_picture(seed, size):
    """Whatever the sizes, the tilt, the windows and the pyramid's level: a ramp read at the partner is the same."""
    dice = Dice(seed, 0, 6, CPU)
    drawn = r2d2_views.draw(dice, Changes(shorter=(96, 512)), size)
    pair = r2d2_views.synthetic(ramp(256, 256).expand(6, -1, -1, -1), drawn, size)
    there = losses.sample(pair.second, pair.aflow.permute(0, 2, 3, 1))
    known = losses.valid(pair.aflow)
    inner = (pair.first[:, :2] > 0.02).all(1, keepdim=True) & (pair.first[:, :2] < 0.98).all(1, keepdim=True)
    assert known.float().mean() > 0.5
    assert ((there - pair.first).abs() * known * inner).max() * 256 < 0.1  # px of the picture


@pytest.mark.parametrize("seed", range(4))
def test_a_soft_dot_appears_where_the_flow_says(seed):
    y, x = torch.meshgrid(torch.arange(200.0), torch.arange(200.0), indexing="ij")
    drawn = r2d2_views.draw(Dice(seed, 0, 1, CPU), Changes(shorter=(190, 210), tilt=0.2), (96, 96))
    plan, _ = r2d2_views.plan(drawn, 200, (96, 96))
    middle = plan.first[0] @ torch.tensor([47.0, 47.0, 1.0], dtype=torch.float64)
    middle = (middle / middle[2]).round()
    dot = torch.exp(-((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / 18)[None, None]
    pair = r2d2_views.synthetic(dot, drawn, (96, 96))
    grid = r2d2_views.grid((96, 96), CPU)[0]
    at = [(image[0, 0].flatten()[:, None] * grid).sum(0) / image.sum() for image in (pair.first, pair.second)]
    moved = losses.sample(pair.aflow.nan_to_num(0), at[0].view(1, 1, 1, 2)).flatten()
    assert torch.allclose(moved, at[1].float(), atol=0.3)


def test_without_tilt_and_scale_both_views_are_one():
    drawn = r2d2_views.draw(Dice(1, 0, 3, CPU), Changes(shorter=(150, 150), tilt=0.0), (64, 64))
    pair = r2d2_views.synthetic(torch.rand(3, 3, 150, 150), drawn, (64, 64))
    assert torch.allclose(pair.first, pair.second, atol=1e-4)
    known = losses.valid(pair.aflow)
    assert known[:, :, 1:-1, 1:-1].all()
    assert torch.allclose(pair.aflow[:, :, 1:-1, 1:-1], identity(3, 64, 64)[:, :, 1:-1, 1:-1], atol=1e-3)


def test_windows_differ_in_size_as_their_images_do():
    """Image 2 has half the resolution, so its window is half as wide: the views agree in scale, the second is soft."""
    drawn = r2d2_views.draw(Dice(1, 0, 2, CPU), Changes(tilt=0.0), (64, 64))
    drawn = drawn._replace(shorter=torch.tensor([[400.0, 200.0]] * 2, dtype=torch.float64))
    plan, between = r2d2_views.plan(drawn, 400, (64, 64))
    assert torch.allclose(between[:, :2, :2], torch.eye(2, dtype=torch.float64).expand(2, 2, 2))
    assert torch.allclose(plan.second[:, 0, 0], torch.ones(2, dtype=torch.float64))
    assert (plan.levels[0].tolist(), plan.levels[1].tolist()) == ([0, 0], [1, 1])


def test_the_best_trial_wins_and_wild_scales_lose():
    here = torch.tensor([[[50.0, 50.0], [50.0, 50.0], [50.0, 50.0]]], dtype=torch.float64)
    there = torch.tensor([[[90.0, 90.0], [55.0, 50.0], [50.0, 50.0]]], dtype=torch.float64)
    images = torch.full((1, 2, 2), 100.0, dtype=torch.float64)

    def best(scale):
        crops = r2d2_views.windows(here, there, scale, images, (20, 20), lambda points: points)
        return crops[0][0, :2, 2].tolist(), crops[1][0, :2, 2].tolist()

    one = torch.ones(1, 3, dtype=torch.float64)
    assert best(one) == ([40.5, 40.5], [40.5, 40.5])
    one[0, 2] = 5.5
    assert best(one) == ([40.5, 40.5], [45.5, 40.5])


@given(st.floats(0, 0.5), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_tilt_keeps_one_side_grows_the_other_and_fills_the_frame(amount, side):
    made = r2d2_views.tilts(torch.tensor([amount], dtype=torch.float64), torch.tensor([side]))
    frame = torch.tensor([[[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]], dtype=torch.float64)
    shown = r2d2_views.random_views.warp_points(frame, made)[0]
    assert (shown.abs() <= 0.5 + 1e-9).all()
    lengths = sorted((shown - shown.roll(-1, 0)).norm(dim=1).tolist())
    assert lengths[0] == pytest.approx(1 / (1 + 2 * amount))  # the grown side shows less of the picture
    assert lengths[1] == pytest.approx(1)  # the side opposite of it; the others are aslant


def test_noise_is_uniform_over_its_width():
    flat = torch.full((2, 3, 64, 64), 0.5)
    made = r2d2_views.spoil(flat, Dice(1, 0, 2, CPU), Changes(noise=25, jitter=(0, 0, 0, 0))) * 255 - 127.5
    assert made.abs().max() == pytest.approx(12.5, abs=0.1)
    assert made.std().item() == pytest.approx(25 / 12**0.5, rel=0.02)


def test_a_view_larger_than_every_image_is_refused():
    with pytest.raises(UsageError, match="a view of 192x300 px does not fit in images of 256 px; increase shorter"):
        r2d2_views.draw(Dice(1, 0, 1, CPU), Changes(shorter=(100, 256)), (192, 300))


def test_a_process_sees_its_own_part_of_the_batch():
    for step in range(2):
        whole = method(4).views(Dice(1, step, 4, CPU))
        part = method(4).views(Dice(1, step, 4, CPU, slice(2, 4)))
        for a, b in zip(whole, part, strict=True):
            assert torch.allclose(a[2:], b, atol=1e-5, equal_nan=True)


# --- colour


@given(st.tuples(*[st.floats(0, 1)] * 3), st.floats(-1, 1))
@settings(max_examples=60, deadline=None)
def test_turning_the_hue_is_what_hsv_says(rgb, shift):
    image = torch.tensor(rgb).view(1, 3, 1, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*image.flatten().tolist())
    expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
    made = colour.turn(image, torch.tensor(shift).view(1, 1, 1, 1)).flatten()
    assert made.tolist() == pytest.approx(expected, abs=1e-4)


def test_jitter_by_hand():
    image = torch.tensor([[0.2, 0.4], [0.6, 0.6], [0.6, 0.6]]).view(1, 3, 1, 2)
    nothing = torch.zeros(1, 4)
    assert torch.allclose(colour.jitter(image, nothing, (0.2, 0.2, 0.2, 0.1)), image, atol=1e-6)

    def only(index, amount):
        amounts = nothing.clone()
        amounts[0, index] = amount
        return colour.jitter(image, amounts, (0.5, 0.5, 1.0, 0.5))

    assert torch.allclose(only(0, 1.0), (image * 1.5).clamp(max=1))
    mean = colour.grey(image).mean()
    assert torch.allclose(only(1, -1.0), mean + (image - mean) * 0.5)
    assert torch.allclose(only(2, -1.0), colour.grey(image).expand(-1, 3, -1, -1))
    grey = image[:, :1]
    assert torch.equal(colour.jitter(grey, torch.ones(1, 4), (0, 0, 1.0, 0.5)), grey)


# --- repeatability


def patches(*values):
    return torch.tensor(values).view(1, -1, 1)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("cosim", 3 / (5 * 10) ** 0.5),
        ("dice", 2 * 3 / (5 + 10)),
        ("jaccard", 3 / (5 + 10 - 3)),
        ("czekanowski", 2 * 1 / (3 + 4)),
        ("sqchord", 1 - (1 + (2**0.5 - 3**0.5) ** 2 + 1)),
    ],
)
def test_similarities_by_hand(kind, value):
    p, q = patches(1.0, 2.0, 0.0), patches(0.0, 3.0, 1.0)
    if kind in ("cosim", "dice", "jaccard"):
        q = patches(3.0, 0.0, 1.0)
    else:
        value = {"czekanowski": 2 * 2 / 7, "sqchord": value}[kind]
    assert losses.SIMILARITIES[kind](p, q).item() == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["auto", "none", "l1", "l2"])
def test_equal_maps_are_repeatable_and_others_less(kind, norm):
    first = torch.rand(3, 1, 40, 48)
    aflow = identity(3, 40, 48)
    if kind != "sqchord" or norm != "none":
        assert (losses.repeatability(first, first.flip(3), aflow, kind, norm, 16) > 0.001).all()
    assert torch.allclose(losses.repeatability(first, first, aflow, kind, norm, 16), torch.zeros(3), atol=1e-5)


def gradient(first, second, kind, norm):
    first = first.clone().requires_grad_()
    loss = losses.repeatability(first, second, identity(len(first), *first.shape[2:]), kind, norm, 8)
    loss.sum().backward()
    return loss.detach(), first.grad


def test_dice_of_unit_patches_is_cosim_and_jaccard_a_reweighting():
    first, second = torch.rand(2, 1, 24, 24), torch.rand(2, 1, 24, 24)
    (cosim, slope), (dice, other) = gradient(first, second, "cosim", "l2"), gradient(first, second, "dice", "l2")
    assert torch.allclose(cosim, dice, atol=1e-6)
    assert slope.abs().max() > 1e-4
    assert torch.allclose(slope, other, atol=1e-7)
    p, q = (F.normalize(torch.rand(1, 9, 5), dim=1) for _ in range(2))
    c = losses.SIMILARITIES["cosim"](p, q)
    assert torch.allclose(losses.SIMILARITIES["jaccard"](p, q), c / (2 - c))


def test_raw_dice_sees_magnitude_where_cosim_does_not():
    first = torch.rand(1, 1, 16, 16)
    aflow = identity(1, 16, 16)
    assert losses.repeatability(first, first / 2, aflow, "cosim", "auto", 8).item() == pytest.approx(0, abs=1e-5)
    assert losses.repeatability(first, first / 2, aflow, "dice", "auto", 8).item() == pytest.approx(0.2, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_zeros_have_finite_gradients(kind):
    for second in (torch.zeros(1, 1, 16, 16), torch.rand(1, 1, 16, 16)):
        loss, slope = gradient(torch.zeros(1, 1, 16, 16), second, kind, "auto")
        assert loss.isfinite().all()
        assert slope.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_partner_changes_nothing(kind):
    first, second, aflow = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32), identity(2, 32, 32)
    aflow[0, :, :, :12] = torch.nan
    aflow[1] = torch.nan
    before = losses.repeatability(first, second, aflow, kind, "auto", 8)
    assert before[0] > 0
    assert before[1] == 0
    first[0, :, :, :12], second[0, :, :, :12] = 0.9, 0.1
    assert torch.equal(losses.repeatability(first, second, aflow, kind, "auto", 8), before)


def test_warping_follows_the_flow():
    second = torch.rand(1, 1, 20, 30)
    aflow = identity(1, 20, 30)
    aflow[:, 0] += 3
    warped = losses.sample(second, aflow.permute(0, 2, 3, 1))
    assert torch.allclose(warped[..., :-3], second[..., 3:], atol=1e-5)


# --- peakiness


def test_peaky_by_hand():
    """A flat map is worst; one dot, smoothed to 1/9, stands out in the (N + 1)^2 windows that reach its 3 x 3 spot."""
    flat = torch.full((1, 1, 40, 40), 0.7)
    assert losses.peaky(flat, 8).item() == pytest.approx(1, abs=1e-5)
    dot = torch.zeros(1, 1, 40, 40)
    dot[0, 0, 20, 20] = 1
    mean = 1 / 81 * 81 / 1600  # every pixel's window mean, averaged: the dot's unit mass over the map
    assert losses.peaky(dot, 8).item() == pytest.approx(1 - (11**2 / 9 / 1600 - mean), abs=1e-5)


# --- average precision


def exact(positive, others):
    """1 / rank of the only right answer."""
    return 1 / (1 + (others > positive[:, None]).sum(-1))


def test_with_every_value_at_the_centre_of_its_own_bin_soft_precision_is_exact():
    generator = np.random.default_rng(1)
    values = torch.tensor(np.stack([generator.choice(2001, 40, replace=False) / 2000 for _ in range(30)]))
    made = losses.average_precision(values[:, 0], values[:, 1:], 2001)
    assert torch.allclose(made, exact(values[:, 0], values[:, 1:]).double(), atol=1e-9)
    if importlib.util.find_spec("sklearn"):
        from sklearn.metrics import average_precision_score

        truth = np.eye(1, 40)[0]
        scored = [average_precision_score(truth, row) for row in values.numpy()]
        assert made.tolist() == pytest.approx(scored)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.integers(2, 30))
@settings(max_examples=60, deadline=None)
def test_soft_precision_is_that_of_a_triangular_histogram(values, bins):
    positive, *others = values
    centres = np.linspace(1, 0, bins)
    counts = np.maximum(0, 1 - np.abs(np.clip(np.array(values)[:, None], 0, 1) - centres) * (bins - 1))
    precision = counts[0].cumsum() / np.maximum(counts.sum(0).cumsum(), 1e-9)
    made = losses.average_precision(torch.tensor(positive), torch.tensor([*others, -torch.inf]), bins)
    assert made.item() == pytest.approx((precision * counts[0]).sum(), abs=1e-4)


def test_reliability_is_worth_it_above_the_base():
    trust = torch.full((2, 3), 0.5, requires_grad=True)
    precision = torch.tensor([[0.9, 0.1, 0.9], [0.5, 0.9, 0.9]])
    known = torch.tensor([[True, True, False], [False, False, False]])
    made = losses.ap_reliability(precision, trust, known, 0.5)
    assert made.tolist() == pytest.approx([1 - 0.5 * 0.5 - 0.25, 0])
    made.sum().backward()
    assert trust.grad.flatten().tolist() == pytest.approx([-0.2, 0.2, 0, 0, 0, 0], abs=1e-6)


# --- sampler


def telling(height, width, frequencies=64):
    """(1, 2 * F, H, W): descriptors that tell their pixel, by random Fourier features of about 2 px."""
    turns = torch.randn(frequencies, 2, generator=torch.Generator().manual_seed(3)) * 0.5
    phase = r2d2_views.grid((height, width), CPU)[0] @ turns.T
    return torch.cat([phase.cos(), phase.sin()], 1).T.reshape(1, -1, height, width)


def ranked(second_of, shift=(0, 0), batch=2, size=(64, 72)):
    """Both views tell their place in a scene, the second being shifted."""
    first = telling(*size).expand(batch, -1, -1, -1) * 3
    dice = Dice(5, 0, batch, CPU)
    aflow = identity(batch, *size) + torch.tensor(shift).view(1, 2, 1, 1)
    asked = torch.stack([dice.integers(size[1] - 32, 50), dice.integers(size[0] - 32, 50)], -1) + 16
    far = torch.stack([dice.integers(size[1], 60), dice.integers(size[0], 60)], -1)
    trust = torch.rand(batch, 1, *size)
    return r2d2_sampler.rank((first, second_of(first)), (trust, trust), aflow, asked, far), asked, far, trust


def test_the_sampler_has_the_published_offsets_and_counts():
    assert len(r2d2_sampler.disc(0, 3)) == 29
    assert len(r2d2_sampler.disc(5, 7)) == 80
    assert r2d2_sampler.queries((192, 192)) == 400
    assert r2d2_sampler.queries((32, 32)) == 1


def test_perfect_descriptors_find_the_truth_even_if_the_flow_is_3_px_off():
    for error in ((0, 0), (2, -2)):
        made, asked, _, trust = ranked(lambda first: first, error, batch=1)
        assert made.known.all()
        assert torch.allclose(made.positive, torch.ones(1, 50), atol=1e-5)
        precision = losses.average_precision(made.positive, made.others, 20)
        assert precision.min() > 0.8
        assert precision.mean() > 0.99
        assert torch.allclose(made.reliability, losses.pick(trust, asked)[..., 0])


def test_blind_descriptors_have_low_precision():
    made, *_ = ranked(torch.randn_like)
    assert losses.average_precision(made.positive, made.others, 20).mean() < 0.3
    assert made.others.shape == (2, 50, 80 + 2 * 60)


def test_far_answers_near_the_truth_do_not_count():
    made, asked, far, _ = ranked(lambda first: first)
    gap = (asked[:, :, None] - far[:, None]).float().norm(dim=-1)
    for b in range(2):
        own, other = made.others[b, :, 80 + 60 * b :][:, :60], made.others[b, :, 80 + 60 * (1 - b) :][:, :60]
        assert torch.equal(own.isinf(), gap[b] < 5)
        assert other.isfinite().all()
    assert (gap < 5).any()


def test_what_leaves_the_second_view_is_no_answer():
    first, size = telling(40, 40), (40, 40)
    asked = torch.tensor([[[16, 16], [20, 20]]])
    aflow = identity(1, *size)
    aflow[0, :, 16, 16] = torch.tensor([0.4, 39.0])
    aflow[0, :, 20, 20] = torch.nan
    trust = torch.rand(1, 1, *size)
    made = r2d2_sampler.rank((first, first), (trust, trust), aflow, asked, torch.tensor([[[20, 39]]]))
    assert made.known.tolist() == [[True, False]]
    ring = r2d2_sampler.disc(5, 7) + torch.tensor([0, 39])
    inside = ((ring >= 0) & (ring <= 39)).all(1)
    assert torch.equal(made.others[0, 0, :80].isfinite(), inside)


# --- HardNet


def brute(first, second, trust, aflow, points, base, counter):
    """The rule for one point after the other."""
    batch, total = len(points), []
    anchors, positives, scores = [], [], []
    for b in range(batch):
        for x, y in points[b].tolist():
            there = aflow[b, :, y, x]
            known = bool(there.isfinite().all())
            u, v = (int(c) for c in there.nan_to_num(0))
            anchors.append(F.normalize(first[b, :, y, x], dim=0))
            positives.append(F.normalize(second[b, :, v, u], dim=0) if known else None)
            scores.append((trust[b, 0, y, x] + trust[b, 0, v, u]) / 2)
    for i, (a, p) in enumerate(zip(anchors, positives, strict=True)):
        if p is None:
            total.append(None)
            continue
        gaps = [(a - q).norm().item() for j, q in enumerate(positives) if j != i and q is not None]
        triplet = max(0.0, 1 + (a - p).norm().item() - min(g for g in gaps if g >= 0.008))
        score = scores[i].item()
        total.append(triplet * score + (base * (1 - score) if counter else 0))
    rows = np.array_split(np.array(total, object), batch)
    return [float(np.mean([v for v in row if v is not None])) for row in rows]


@pytest.mark.parametrize("counter", [True, False])
def test_hardnet_is_the_rule_point_by_point(counter):
    first, second = torch.randn(2, 6, 20, 24), torch.randn(2, 6, 20, 24)
    second += 2 * first
    trust = torch.rand(2, 1, 20, 24)
    aflow = identity(2, 20, 24)
    aflow[0, :, 5:] = torch.nan
    points = window_points(Dice(1, 0, 2, CPU), (20, 24), 40)
    points[:, 0] = torch.tensor([3, 2])  # at least one with a partner
    second[1, :, points[1, 1, 1], points[1, 1, 0]] = first[0, :, 2, 3]  # a duplicate is no negative
    made = losses.hardnet_reliability((first, second), (trust, trust), aflow, points, 0.5, counter)
    assert made.tolist() == pytest.approx(brute(first, second, trust, aflow, points, 0.5, counter), abs=2e-3)


def test_the_counter_term_keeps_reliability_from_zero():
    """For perfect descriptors the published form has no gradient; the form here increases reliability."""
    first = F.normalize(torch.randn(1, 64, 40, 40), dim=1)
    points = window_points(Dice(1, 0, 1, CPU), (40, 40), 50)
    slopes = {}
    for counter in (True, False):
        trust = torch.full((1, 1, 40, 40), 0.5, requires_grad=True)
        args = ((first, first * 1.0), (trust, trust), identity(1, 40, 40), points, 0.5, counter)
        losses.hardnet_reliability(*args).sum().backward()
        slopes[counter] = trust.grad.sum().item()
    assert slopes[True] < 0 <= slopes[False]


@pytest.mark.parametrize(("count", "expected"), [(0, 38 * 38), (100, 100)])
def test_window_points_are_different_pixels_of_one_window(count, expected):
    points = window_points(Dice(1, 0, 3, CPU), (64, 80), count)
    assert points.shape == (3, expected, 2)
    for row in points:
        assert len(row.unique(dim=0)) == expected
        assert (row.amax(0) - row.amin(0) < 38).all()
        assert (row >= 0).all()
        assert (row < torch.tensor([80, 64])).all()
    assert window_points(Dice(1, 0, 1, CPU), (20, 30), 0).shape == (1, 600, 2)


# --- pairs with flow


def photo(height, width):
    return (ramp(height, width)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def shifted(height, width, right):
    y, x = np.indices((height, width), np.float32)
    return np.stack([x + right, y], -1)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def agrees(root, path, shift=0.0, tolerance=1.5):
    """The flow of made views leads to the same place in the scene, `shift` px further right in the second photo."""
    known = flow_pairs.read(root, path)
    for seed in range(4):
        drawn = r2d2_views.draw(Dice(seed, 0, 1, CPU), Changes(shorter=(100, 200)), (48, 64))
        pair = flow_pairs.views_of(known, drawn, (48, 64), CPU)
        there = losses.sample(pair.second, pair.aflow.permute(0, 2, 3, 1))
        gap = (there - pair.first)[0, :2] * torch.tensor(known.second.shape[1::-1]).view(2, 1, 1)
        where = losses.valid(pair.aflow)[0, 0]
        where &= ((pair.first[0, :2] > 0.05) & (pair.first[0, :2] < 0.8)).all(0)
        assert where.float().mean() > 0.2
        assert (gap[0] - shift)[where].abs().max() < tolerance  # px; the photo has 8 bits
        assert gap[1][where].abs().max() < tolerance


def test_npz_pairs_with_flow_a_mask_or_neither(tmp_path):
    first = photo(120, 160)
    mask = np.ones((120, 160), bool)
    mask[:, -10:] = False
    path = save(tmp_path / "a.npz", image1=first, image2=first, flow=shifted(120, 160, 9), mask=mask)
    assert np.isnan(flow_pairs.read(tmp_path, path).flow[:, -10:]).all()
    agrees(tmp_path, path, shift=9.0)
    styled = save(tmp_path / "b.npz", image1=first, image2=photo(150, 200))
    assert flow_pairs.read(tmp_path, styled).exact
    agrees(tmp_path, styled)
    assert flow_pairs.find(tmp_path) == [path, styled]


def public(root):
    """A folder as R2D2's authors publish it."""
    for folder in ("images_upright/db", "optical_flow/flow", "optical_flow/mask", "style_transfer"):
        (root / folder).mkdir(parents=True)
    for name in ("12", "7"):
        cv2.imwrite(str(root / f"images_upright/db/{name}.jpg"), photo(120, 160)[..., ::-1])
    cv2.imwrite(str(root / "style_transfer/12.jpg.st_night.jpg"), photo(120, 160)[..., ::-1])
    shift = np.zeros((120, 160, 2), np.float32)
    shift[..., 0], shift[..., 1] = 4.5, -0.25
    stored = np.round(shift * 16).astype("<i2").view(np.uint8)  # R, G, B, A
    cv2.imwrite(str(root / "optical_flow/flow/12_7.png"), stored[..., [2, 1, 0, 3]])
    mask = np.full((120, 160), 255, np.uint8)
    mask[:5] = 0
    cv2.imwrite(str(root / "optical_flow/mask/12_7.png"), mask)


def test_the_public_layout(tmp_path):
    public(tmp_path)
    flow, styled = flow_pairs.find(tmp_path)
    pair = flow_pairs.read(tmp_path, flow)
    assert not pair.exact
    assert pair.flow[50, 60].tolist() == [64.5, 49.75]
    assert np.isnan(pair.flow[:5]).all()
    assert flow_pairs.read(tmp_path, styled).flow[50, 60].tolist() == [60, 50]
    agrees(tmp_path, flow, shift=4.5, tolerance=3)  # JPEG
    agrees(tmp_path, styled, tolerance=3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image1": None}, "holds no image1"),
        ({"image1": np.zeros((40, 50, 3), np.float32)}, "image1 is float32 of shape"),
        ({"image2": np.zeros((40, 50), np.uint8)}, "image2 is uint8 of shape"),
        ({"image1": np.zeros((4, 50, 3), np.uint8)}, "expected uint8"),
        ({"flow": np.zeros((40, 51, 2), np.float32)}, "image1 asks for"),
        ({"flow": np.zeros(3, np.float32)}, "image1 asks for"),
        ({"flow": np.zeros((40, 50, 2), np.float32), "mask": np.zeros((40, 50))}, "no pixel with a partner"),
        ({"flow": np.full((40, 50, 2), np.nan, np.float32)}, "not finite"),
        ({"image1": np.array([{}], object)}, "not numbers"),
    ],
)
def test_hostile_npz_pairs_are_refused_in_one_line(tmp_path, arrays, message):
    made = {"image1": photo(40, 50), "image2": photo(40, 50), **arrays}
    path = save(tmp_path / "x.npz", **{name: array for name, array in made.items() if array is not None})
    with pytest.raises(BadInput, match=message):
        flow_pairs.read(tmp_path, path)


def test_hostile_public_folders_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"holds no pairs with flow; expected \*.npz"):
        flow_pairs.find(tmp_path)
    public(tmp_path)
    path = tmp_path / "optical_flow/flow/12_7.png"
    cv2.imwrite(str(path), photo(120, 160))
    with pytest.raises(BadInput, match="has 3 channels; expected 4"):
        flow_pairs.read(tmp_path, path)
    cv2.imwrite(str(path), np.zeros((90, 160, 4), np.uint8))
    with pytest.raises(BadInput, match="image1 asks for"):
        flow_pairs.read(tmp_path, path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + b"\xff" * 40)
    with pytest.raises(BadInput, match="expected a PNG file of 4 channels"):
        flow_pairs.read(tmp_path, path)
    odd = path.with_name("12.png")
    path.rename(odd)
    with pytest.raises(BadInput, match=r"expected a name A_B\.png"):
        flow_pairs.read(tmp_path, odd)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("image1.npy", b"nothing")
        archive.writestr("image2.npy", b"nothing")
    with pytest.raises(BadInput, match="cannot be read as npz"):
        flow_pairs.read(tmp_path, tmp_path / "x.npz")


# --- the method


@pytest.mark.parametrize("reliability", ["ap", "hardnet"])
def test_the_loss_falls(reliability):
    network = checkpoint.build("fast-r2d2").to(memory_format=torch.channels_last).train()
    made = method(size=(48, 48), reliability_loss=reliability, noise=5.0, window=8)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    history = []
    for _ in range(8):
        loss, parts = made.loss(network, Dice(1, 0, 2, CPU))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
        assert loss.item() == pytest.approx(sum(float(part) for part in parts.values()), abs=1e-5)
    assert min(history[-3:]) < history[0] - 0.02


def test_the_parts_that_do_not_mix_pairs_average_over_halves():
    """The average over processes equals the loss of one process, except for reliability, which mixes the pairs."""
    whole, maps = method(4), torch.rand(4, 130, 64, 64)

    def parts(own):
        dice = Dice(1, 0, 4, CPU, own)
        aflow = whole.views(dice).aflow
        first = maps[own]
        both = torch.cat([first, first.flip(3)])
        return whole.parts(both[:, :128], both[:, 128:129], both[:, 129:], aflow, dice)

    one, two, full = parts(slice(0, 2)), parts(slice(2, 4)), parts(slice(0, 4))
    for name in ("repeatability", "peaky"):
        assert full[name].item() == pytest.approx((one[name] + two[name]).item() / 2, abs=1e-5)


@pytest.mark.parametrize("source", ["flow", "both"])
def test_pairs_come_from_both_sources(tmp_path, source):
    save(tmp_path / "a.npz", image1=photo(120, 160), image2=photo(120, 160), flow=shifted(120, 160, 0))
    save(tmp_path / "b.npz", image1=photo(120, 160), image2=photo(120, 160))
    made = method(6, source=source, flow=str(tmp_path))
    pair = made.views(Dice(1, 0, 6, CPU))
    assert pair.first.shape == (6, 3, 64, 64)
    blue = pair.first[:, 2].amax((1, 2)) == 0  # the photos above have none
    assert blue.all() if source == "flow" else blue.any() and not blue.all()
    again = made.views(Dice(1, 0, 6, CPU, slice(3, 6)))
    assert torch.allclose(pair.aflow[3:], again.aflow, atol=1e-4, equal_nan=True)


def test_a_missing_folder_of_flow_is_found_before_the_first_step(tmp_path):
    with pytest.raises(BadInput, match="holds no pairs with flow"):
        method(source="flow", flow=str(tmp_path))
