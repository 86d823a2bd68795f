"""Swift: what its windows, spots and rivals say, against brute force; its decoding; its training in floats and bits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lf.core import LfError, UsageError
from lf.models import MODELS, checkpoint
from lf.models.swift import decode as decode_swift
from lf.train import RECIPES, fake_quantize
from lf.train.losses import correspondence, window_losses
from lf.train.methods import swift
from lf.train.pictures import Crop, Pictures
from lf.train.views import random_views as views

CPU = torch.device("cpu")
ROWS = ("swift", "swift-tiny", "swift-large")
FEW = ["batch=2", "size=64", "picture_size=96", "pictures=4", "points=24", "bf16=False"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def gaussian(points, size, spread):
    """(H, W) the largest of some Gaussians of height 1 round points (x, y)."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.max([np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * spread**2)) for a, b in points], axis=0)


def folded(image):
    """(H, W) -> (4, H / 2, W / 2): what the network gives for it."""
    return F.pixel_unshuffle(torch.from_numpy(image)[None].float(), 2).numpy()


# --- the network


@pytest.mark.parametrize(
    ("name", "parameters", "gmac"), [("swift", 350e3, 0.7), ("swift-tiny", 60e3, 0.2), ("swift-large", 1.3e6, 3.0)]
)
def test_a_network_keeps_its_budget(name, parameters, gmac):
    network, spent = checkpoint.build(name).eval(), []

    def count(module, inputs, output):
        spent.append(module.weight.numel() * output.shape[2] * output.shape[3])

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    maps = network(torch.rand(1, 1, 240, 320))
    for made, (channels, stride) in zip(maps, MODELS[name].heads.values(), strict=True):
        assert made.shape == (1, channels, 240 // stride, 320 // stride)
    assert sum(p.numel() for p in network.parameters()) <= parameters
    assert sum(spent) <= gmac * 1e9


def test_light_alone_says_nothing_to_a_fresh_network():
    first = checkpoint.build("swift").stages[0][0][0]
    inner = first(torch.full((1, 1, 16, 16), 0.7))[:, :, 1:-1, 1:-1]
    assert inner.abs().max() < 1e-6


# --- its decoding


@pytest.mark.parametrize("point", [(20.0, 12.0), (20.3, 12.45), (21.49, 13.0), (8.75, 9.1)])
def test_a_drawn_gaussian_is_found_between_the_pixels(point):
    settings, size = MODELS["swift"].settings, (32, 48)
    logits = np.log(gaussian([point], size, window_losses.SHARP) + 1e-12) + 3
    ramp = np.stack(np.meshgrid(np.arange(12.0), np.arange(8.0)))  # the place of each descriptor, in cells
    maps = {"score": folded(logits), "descriptor": np.concatenate([ramp, np.ones((1, 8, 12))]).astype(np.float32)}
    points, scores, descriptors = decode_swift.swift(maps, **settings)
    np.testing.assert_allclose(points, [point], atol=0.02)
    peak = np.round(point)
    distance = np.square(np.subtract(point, peak)).sum()
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-(3 - distance / (2 * window_losses.SHARP**2)))), rtol=1e-4)
    assert descriptors.shape == (1, 3)
    cell = (np.array(point) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(descriptors[0, :2] / descriptors[0, 2], cell, atol=0.25)


def test_scores_that_a_sigmoid_cannot_tell_apart_keep_their_order():
    logits = np.full((32, 32), -9.0)
    logits[8, 8], logits[20, 20], logits[8, 20] = 25.0, 26.0, 24.0
    maps = {"score": folded(logits), "descriptor": np.ones((64, 8, 8), np.float32)}
    points, scores, _ = decode_swift.swift(maps, **MODELS["swift"].settings)
    assert points.round().tolist() == [[20, 20], [8, 8], [20, 8]]
    assert scores.max() == 1


def test_the_temperature_widens_what_is_read():
    logits = np.log(gaussian([(15.4, 16)], (32, 32), 0.7) + 1e-9)
    maps = {"score": folded(logits), "descriptor": np.ones((64, 8, 8), np.float32)}
    for temperature in (0.5, 2.0):
        points, _, _ = decode_swift.swift(maps, **{**MODELS["swift"].settings, "temperature": temperature})
        weight = np.exp(logits[14:19, 13:18] / temperature)
        wanted = (weight * np.arange(13, 18)).sum() / weight.sum()
        assert points[0, 0] == pytest.approx(wanted, abs=1e-4)


def test_a_score_of_other_channels_is_refused():
    maps = {"score": np.zeros((1, 16, 16), np.float32), "descriptor": np.ones((64, 8, 8), np.float32)}
    with pytest.raises(LfError, match=r"the score map has shape \(1, 16, 16\); expected \(4, height, width\)"):
        decode_swift.swift(maps, **MODELS["swift"].settings)


# --- windows, spots, crowds


def test_a_window_by_hand():
    view, at = torch.tensor([0]), torch.tensor([[12.3, 9.6]])
    for shift in ((0, 0), (2, -1)):
        moved = torch.tensor([shift])
        flat = window_losses.window(torch.zeros(1, 24, 32), view, at, moved)
        assert float(flat) == pytest.approx(math.log(81), abs=1e-5)
        y, x = np.mgrid[10 + shift[1] - 4 : 10 + shift[1] + 5, 12 + shift[0] - 4 : 12 + shift[0] + 5]
        target = np.exp(-((x - 12.3) ** 2 + (y - 9.6) ** 2) / (2 * 0.7**2))
        target /= target.sum()
        perfect = torch.from_numpy(gaussian([(12.3, 9.6)], (24, 32), 0.7)).log().clamp(min=-80)[None].float()
        entropy = -(target * np.log(target)).sum()
        assert float(window_losses.window(perfect, view, at, moved)) == pytest.approx(entropy, abs=1e-4)
        beside = torch.from_numpy(gaussian([(13.3, 9.6)], (24, 32), 0.7)).log().clamp(min=-80)[None].float()
        assert float(window_losses.window(beside, view, at, moved)) > entropy + 0.5


def test_a_window_at_the_edge_stays_inside_and_reads_its_own_view():
    logits = torch.zeros(2, 16, 16)
    logits[1, 0, 15] = 30
    at, shift = torch.tensor([[15.0, 0.0]] * 2), torch.tensor([[2, -2]] * 2)
    first, second = window_losses.window(logits, torch.tensor([0, 1]), at, shift).tolist()
    assert first == pytest.approx(math.log(81), abs=1e-5)
    assert second > 5  # all on the pixel of the label, where the target is a Gaussian


def test_spots_are_the_largest_of_their_gaussians():
    points = [(5.0, 4.0), (7.25, 4.5), (0.2, 0.1)]
    found = window_losses.heat(torch.zeros(3, dtype=torch.long), torch.tensor(points), torch.ones(3), (1, 12, 16))[0]
    wanted = gaussian(points, (12, 16), 0.9)
    near = wanted > math.exp(-(3.5**2) / (2 * 0.9**2))
    np.testing.assert_allclose(found.numpy()[near], wanted[near], atol=1e-3)
    assert float(found[4, 5]) == 1
    assert found[10:].max() == 0
    low = window_losses.heat(torch.tensor([1]), torch.tensor([[5.0, 4.0]]), torch.tensor([0.3]), (2, 12, 16))
    assert float(low[1, 4, 5]) == pytest.approx(0.3)
    assert low[0].max() == 0


def test_the_best_of_a_crowd_leads():
    points = torch.rand(2, 60, 3) * torch.tensor([39.0, 29.0, 1.0])
    points[:, ::5, 2] = 0
    found = window_losses.leading(points, (30, 40), 4)
    for view, known in enumerate(points.numpy()):
        pixel = known[:, :2].round()
        for n, (_, _, score) in enumerate(known):
            near = np.abs(pixel - pixel[n]).max(1) <= 4
            assert bool(found[view, n]) == (score > 0 and score >= known[near, 2].max())


def test_height_counts_what_is_seen():
    logits, target, seen = torch.zeros(1, 4, 4), torch.ones(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)
    assert window_losses.height(logits, target, seen) == 0
    seen[0, 0, :2] = True
    assert float(window_losses.height(logits, target, seen)) == pytest.approx(math.log(2))


# --- rivals


def test_rivals_of_a_batch_are_one_large_pair():
    one, two = (F.normalize(torch.randn(3, 10, 8), dim=2) for _ in range(2))
    at = torch.rand(3, 10, 2) * 20, torch.rand(3, 10, 2) * 20
    valid = torch.rand(3, 10) > 0.3
    loss, found = correspondence.batch_softmax(one, two, at, valid, 5.0, 0.1)
    apart = torch.arange(3)[:, None, None] * 1e4
    flat = [t.flatten(0, 1)[None] for t in (one, two, at[0] + apart, at[1] + apart, valid)]
    wanted, hit = correspondence.dual_softmax(flat[0], flat[1], (flat[2], flat[3]), flat[4], 5.0, 0.1)
    torch.testing.assert_close(loss, wanted[0])
    assert torch.equal(found.flatten(), hit[0])


def test_no_correspondence_is_no_loss():
    one = F.normalize(torch.randn(2, 4, 8), dim=2).requires_grad_()
    at, valid = torch.zeros(2, 4, 2), torch.zeros(2, 4, dtype=torch.bool)
    loss, found = correspondence.batch_softmax(one, one, (at, at), valid, 5.0, 0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not found.any()


# --- views


def test_a_far_view_is_smooth():
    board = torch.arange(64)[:, None] + torch.arange(64)
    picture = (board % 2).float().expand(2, 1, 64, 64)
    near, far = torch.eye(3), torch.diag(torch.tensor([4.0, 4.0, 1.0]))
    both = torch.stack([near, far]).double()
    view, inside = views.render_smooth(picture, both, (16, 16))
    plain, known = views.render(picture, both, (16, 16))
    assert torch.equal(view[0], plain[0])
    assert (view[1] - 0.5).abs().max() < 1e-5 < (plain[1] - 0.5).abs().max()
    assert torch.equal(inside[0], known[0])


def test_a_far_view_lies_where_it_did():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    picture = torch.stack([x, y])[None]
    far = torch.tensor([[[1.9, 0.3, 4.0], [-0.2, 2.1, 9.0], [0.0, 0.0, 1.0]]]).double()
    smooth, _ = views.render_smooth(picture, far, (24, 24))
    plain, _ = views.render(picture, far, (24, 24))
    torch.testing.assert_close(smooth[..., 4:20, 4:20], plain[..., 4:20, 4:20], atol=1e-3, rtol=0)


def test_strength_widens_light():
    view = torch.full((64, 1, 8, 8), 0.5)
    spread = [views.photometric(view, views.Dice(1, 0, 64, CPU), s).std() for s in (0.5, 1.0, 1.5)]
    assert spread == sorted(spread)


# --- training


def method(*changes, model="swift-tiny"):
    recipe = RECIPES[model].override([*FEW, *changes])
    squares = np.random.default_rng(0).integers(0, 255, (4, 12, 12, 1), np.uint8).repeat(8, 1).repeat(8, 2)
    pictures = Pictures(squares, tuple(Crop(f"{n}", 0, 0, 96, "") for n in range(4)), CPU)
    return swift.Method(recipe, pictures, CPU)


@pytest.mark.parametrize("matchability", ["none", "found", "reward"])
@pytest.mark.parametrize("rivals", ["batch", "pair"])
def test_every_weight_learns(matchability, rivals):
    network = checkpoint.build("swift-tiny").train()
    loss, parts = method(f"matchability={matchability}", f"rivals={rivals}").loss(network, views.Dice(1, 0, 2, CPU))
    loss.backward()
    assert set(parts) == {"position", "heat", "descriptor", "matched"}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_reward_pulls_up_what_found_its_partner():
    logits = torch.zeros(1, 16, 16, requires_grad=True)
    points = torch.tensor([[[4.0, 4.0, 1.0], [11.0, 10.0, 1.0], [2.0, 12.0, 1.0]]])
    found, known = torch.tensor([[True, False, True]]), torch.tensor([[True, True, False]])
    (-swift.reward(logits, points, found, known)).backward()
    rows = logits.grad[0]
    assert rows[3:6, 3:6].sum() < 0 < rows[9:12, 10:13].sum()
    assert rows[11:14, 1:4].abs().sum() == 0


def test_a_few_steps_lower_the_loss():
    own, network = method(), checkpoint.build("swift-tiny").train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    seen = []
    for step in range(30):
        loss, _ = own.loss(network, views.Dice(1, step % 3, 2, CPU))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(float(loss.detach()))
    assert np.mean(seen[-3:]) < 0.8 * np.mean(seen[:3])


def test_it_learns_in_eight_bits():
    row = MODELS["swift-tiny"]
    network = fake_quantize.prepare(
        checkpoint.build("swift-tiny"), row, 8, 8, [torch.rand(1, 1, 64, 64) for _ in range(2)]
    )
    loss, _ = method().loss(network, views.Dice(1, 0, 2, CPU))
    loss.backward()
    assert torch.isfinite(loss)
    assert len(fake_quantize.ranges(network)) > 10
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_views_turn_and_zoom_as_far_as_is_asked():
    assert method("scale=3", "rotation=90").relation == views.Spread((1 / 3, 3.0), 90.0, 0.22, 0.3)
    *_, relation = method("scale=1", "rotation=0")._views(views.Dice(1, 0, 2, CPU))
    assert torch.linalg.det(relation[:, :2, :2]).min() > 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("matchability=yes", "unknown matchability 'yes'; known: found, none, reward"),
        ("rivals=all", "unknown rivals 'all'; known: batch, pair"),
        ("scale=0", "recipe: scale=0.0; expected a number above 0"),
    ],
)
def test_what_it_refuses(change, text):
    with pytest.raises(UsageError, match=text):
        RECIPES["swift"].override([change])


def test_the_three_have_one_recipe():
    common = [dataclasses.replace(RECIPES[name], model="swift", about="", steps=1) for name in ROWS]
    assert common[0] == common[1] == common[2]
