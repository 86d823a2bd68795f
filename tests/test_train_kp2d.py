"""KP2D: views that map as documented, losses with known answers, a step that one process and two do alike."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from lf.core import UsageError
from lf.models import MODELS, checkpoint
from lf.train import Recipe
from lf.train.losses import correspondence, kp2d_losses
from lf.train.losses.inlier_net import InlierNet
from lf.train.methods.kp2d import Method
from lf.train.pictures import Pictures
from lf.train.views import kp2d_views, random_views
from lf.train.views.random_views import Dice

CPU = torch.device("cpu")
SPREAD = (0.7, 0.2, 0.4, 45.0)
SIZE = (48, 64)
SETTINGS = {
    "io": True,
    "descriptor": True,
    "descriptor_weight": 2.0,
    "descriptor_loss": "triplet",
    "points": 0,
    "temperature": 0.07,
    "io_points": 50,
    "io_lowest": False,
    "patch_ratio": 0.7,
    "scaling": 0.2,
    "perspective": 0.4,
    "max_angle": 90.0,
    "jitter": (0.0, 0.5, 0.2, 0.05),
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def recipe(model="kp2dtiny-s-coral", batch=4, size=SIZE, **settings):
    return Recipe(
        model=model,
        method="kp2d",
        about="",
        steps=10,
        batch=batch,
        size=size,
        lr=1e-3,
        bf16=False,
        settings={**SETTINGS, **settings},
    )


def squares(count=6, side=72):
    coarse = torch.rand(count, 3, 12, 12)
    fine = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1) * 255
    return Pictures(fine.permute(0, 2, 3, 1).byte().numpy(), ()).on(CPU)


def points(score=None, shift=None, feat=None, *, grid=(6, 8), cell=8, cross=True):
    """One decoded view, by default without shift and with random descriptors."""
    rows, columns = grid
    score = torch.zeros(1, 1, rows, columns) if score is None else score
    shift = torch.zeros(1, 2, rows, columns) if shift is None else shift
    feat = torch.randn(1, 16, 2 * rows, 2 * columns) if feat is None else feat
    return kp2d_losses.decode(score, shift, feat, (rows * cell, columns * cell), cross, True)


def moved(x, y):
    return torch.tensor([[[1.0, 0, x], [0, 1, y], [0, 0, 1]]])


# --- views


@pytest.mark.parametrize("size", [(88, 88), (240, 320)])
@pytest.mark.parametrize("largest", [0.0, 45.0, 90.0])
def test_the_corners_of_a_source_lie_in_its_target(size, largest):
    homography = kp2d_views.sample(Dice(1, 0, 400, CPU), size, (0.7, 0.2, 0.4, largest))
    last = torch.tensor([size[1] - 1.0, size[0] - 1.0], dtype=torch.float64)
    corners = random_views.warp_points(((kp2d_views.CORNERS + 1) / 2 * last).expand(400, 4, 2), homography)
    assert (corners > -1e-6).all()
    assert (corners < last + 1e-6).all()
    x, y = corners.unbind(2)
    area = 0.5 * ((x * y.roll(-1, 1)).sum(1) - (y * x.roll(-1, 1)).sum(1)).abs() / last.prod()
    assert 0.45 < area.mean() < 0.55  # the patch is 0.7 x 0.7, amplitudes are symmetric
    assert 0.7**2 * 0.4 < area.min() < area.max() < 0.9**2 * 1.1**2
    top = corners[:, 1] - corners[:, 0]
    angle = torch.atan2(top[:, 1], top[:, 0]).abs().rad2deg()
    assert angle.max() <= largest + 25  # perspective turns a side a little
    assert angle.mean() > largest / 10


def test_without_amplitudes_the_patch_is_a_shifted_rectangle():
    homography = kp2d_views.sample(Dice(1, 0, 50, CPU), (41, 81), (0.5, 0.0, 0.0, 0.0))
    linear = torch.diag(torch.tensor([0.5, 0.5, 1.0])).double()
    assert torch.allclose(homography[:, :2, :2], linear[:2, :2].expand(50, 2, 2))
    shift = homography[:, :2, 2]
    assert (shift >= 0).all()
    assert (shift <= torch.tensor([40.0, 20.0])).all()
    assert torch.allclose(shift.mean(0), torch.tensor([20.0, 10.0]).double(), rtol=0.2)


def test_perspective_is_clipped_at_half_its_amplitude():
    homography = kp2d_views.sample(Dice(1, 0, 300, CPU), (101, 101), (0.6, 0.0, 0.4, 0.0))
    corners = random_views.warp_points((kp2d_views.CORNERS + 1).expand(300, 4, 2) * 50, homography)
    top = (corners[:, 1, 0] - corners[:, 0, 0]) / 100
    assert 0.4 - 1e-6 < top.min() < 0.4 + 1e-6  # a third of the draws lie beyond a deviation, and are clipped
    assert 0.8 - 1e-6 < top.max() < 0.8 + 1e-6
    assert ((top - 0.4).abs() < 1e-6).float().mean() == pytest.approx(0.16, abs=0.06)


@pytest.mark.parametrize("seed", range(3))
def test_a_dot_of_the_target_is_in_the_source_where_the_homography_says(seed):
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    picture = torch.exp(-((x - 50) ** 2 + (y - 45) ** 2) / 18).expand(1, 1, 96, 96)
    both, homography = kp2d_views.pair(picture, Dice(seed, 0, 1, CPU), (72, 96), (0.9, 0.1, 0.1, 20.0))
    height, width = both.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    target, source = (torch.stack([(v * x).sum(), (v * y).sum()]) / v.sum() for v in both[:, 0])
    assert both.shape == (2, 1, 72, 96)
    assert torch.allclose(random_views.warp_points(source.expand(1, 1, 2), homography)[0, 0], target, atol=0.4)
    assert (source - target).abs().max() > 0.5


def test_a_large_square_is_shrunk_before_it_is_sampled():
    stripes = torch.arange(256).remainder(2).float().expand(1, 1, 256, 256)
    both, _ = kp2d_views.pair(stripes, Dice(1, 0, 1, CPU), (64, 64), SPREAD)
    assert torch.allclose(both, torch.full_like(both, 0.5), atol=1e-5)


def test_places_keep_the_view_near_its_square():
    homography = kp2d_views.place(Dice(1, 0, 500, CPU), (48, 64), 72)
    middle = random_views.warp_points(torch.tensor([[[31.5, 23.5]]]).double().expand(500, 1, 2), homography)[:, 0]
    scale = homography[:, :2, :2].det().abs().sqrt() * 63 / 71
    assert 0.9 <= scale.min() < 0.92 < 1.08 < scale.max() <= 1.1
    assert torch.allclose(middle.mean(0), torch.full((2,), 35.5).double(), atol=0.6)
    assert ((middle - 35.5).norm(dim=1) < math.hypot(6.4, 4.8) * 71 / 63 * 1.1).all()
    assert (homography[:, :2, :2].det() < 0).double().mean() == pytest.approx(0.5, abs=0.1)


def test_augmented_views_are_pictures_and_repeat():
    both = torch.rand(20, 3, 24, 32)
    first, again, other = (kp2d_views.augment(both, Dice(s, 0, 10, CPU), (0.5, 0.5, 0.2, 0.05)) for s in (1, 1, 2))
    assert first.shape == both.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= first.min() < first.max() <= 1


def test_the_views_of_a_pair_share_grey_and_channel_order():
    both = torch.rand(1, 3, 1, 1).expand(400, 3, 16, 16) * torch.rand(16, 16)
    changed = kp2d_views.augment(both, Dice(3, 0, 200, CPU), (0.0, 0.0, 0.0, 0.0)).mean((2, 3))
    grey = changed.std(1) < 0.01
    assert torch.equal(grey[:200], grey[200:])
    assert 0.35 < grey.float().mean() < 0.65
    order = changed.argsort(1)[~grey]
    assert torch.equal(order[: len(order) // 2], order[len(order) // 2 :])
    assert len(order.unique(dim=0)) == 6


def test_blur_keeps_what_is_flat_and_spreads_a_dot():
    dot = torch.zeros(4, 1, 9, 9)
    dot[:, :, 4, 4] = 1
    blurred = kp2d_views._blur(dot, kp2d_views.KERNELS)
    assert torch.allclose(blurred.sum((1, 2, 3)), torch.ones(4))
    assert torch.allclose(blurred[:, 0, 4, 4], torch.tensor([1.0, 1.0, 0.25, 0.140625]))
    assert torch.allclose(kp2d_views._blur(torch.full((4, 3, 8, 8), 0.3), kp2d_views.KERNELS), torch.tensor(0.3))


# --- losses


def test_points_are_those_of_the_decoder():
    from lf.models import MODELS

    torch.manual_seed(1)
    network = checkpoint.build("kp2dtiny-s-coral").eval()
    with torch.no_grad():
        heads = network(torch.rand(1, 3, *SIZE))
    found = kp2d_losses.decode(*heads, SIZE, True, True)
    maps = {name: head[0].numpy() for name, head in zip(("score", "shift", "feat"), heads, strict=True)}
    at, score, descriptor = MODELS["kp2dtiny-s-coral"].decode(maps, threshold=0.0)
    order = found.score.flatten().argsort(descending=True, stable=True)[: len(at)]
    assert len(at) == len(found.inner()) == 10 * 14
    np.testing.assert_allclose(found.score.flatten()[order], score, atol=1e-6)
    np.testing.assert_allclose(np.sort(found.at[0, order].numpy(), 0), np.sort(at, 0), atol=1e-4)
    described = found.describe(torch.from_numpy(at)[None])[0]
    np.testing.assert_allclose(described, descriptor, atol=1e-5)


def test_equal_views_match_themselves():
    torch.manual_seed(2)
    heads = torch.randn(1, 1, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 16, 12, 16)
    same = points(*heads)
    match = kp2d_losses.associate(same, same, torch.eye(3)[None])
    assert match.valid.all()
    assert match.distance.max() == 0
    assert kp2d_losses.location(match).item() == 0
    assert kp2d_losses.usp(same, same, match).item() == 0


def test_a_shift_by_a_cell_matches_the_next_cell():
    same = points()
    match = kp2d_losses.associate(same, same, moved(8 + 1.5, 2.0))
    rows, columns = match.cells // 8, match.cells % 8
    assert torch.equal(match.partner[0], rows * 8 + columns + 1)
    assert torch.allclose(match.distance, torch.tensor(2.5))
    assert kp2d_losses.location(match).item() == pytest.approx(2.5)
    far = kp2d_losses.associate(same, same, moved(4.0, 4.0))
    assert not far.valid.any()  # 5.7 px from four points
    assert kp2d_losses.location(far).item() == 0


@pytest.mark.parametrize("cell", [1, 2, 4, 8])
def test_association_finds_what_a_search_over_all_points_finds(cell):
    torch.manual_seed(cell)
    shifts = [torch.randn(1, 2, 12, 12) * 2 for _ in range(2)]
    source, target = (points(shift=shift, grid=(12, 12), cell=cell) for shift in shifts)
    homography = torch.tensor([[[0.8, 0.2, 1.0], [-0.2, 0.9, 2.5], [1e-4, 0, 1]]])
    match = kp2d_losses.associate(source, target, homography)
    distance = (random_views.warp_points(source.at, homography)[:, match.cells, None] - target.at[:, None]).norm(dim=-1)
    least, partner = distance.min(2)
    assert torch.equal(match.valid, match.inside & (least < 4))
    assert match.valid.sum() > 20
    assert torch.allclose(match.distance[match.valid], least[match.valid], atol=1e-5)
    if cell > 1:
        assert torch.equal(match.partner[match.valid], partner[match.valid])


def test_usp_raises_the_scores_of_points_that_repeat():
    torch.manual_seed(3)
    scores = [torch.zeros(1, 1, 6, 8, requires_grad=True) for _ in range(2)]
    source = points(scores[0], torch.randn(1, 2, 6, 8) / 4)
    target = points(scores[1], torch.randn(1, 2, 6, 8) / 4)
    match = kp2d_losses.associate(source, target, torch.eye(3)[None])
    kp2d_losses.usp(source, target, match).sum().backward()
    near = (match.distance < kp2d_losses.location(match)[:, None])[match.valid]
    gradient = scores[0].grad.flatten(1)[:, match.cells][match.valid]
    assert 5 < near.sum() < len(near) - 5
    assert torch.equal(gradient < 0, near)  # descent raises them
    assert scores[1].grad.abs().sum() > 0


def test_consistency_is_twice_the_squared_difference():
    source, target = points(torch.full((1, 1, 6, 8), 2.0)), points()
    match = kp2d_losses.associate(source, target, torch.eye(3)[None])
    target = dataclasses.replace(target, score=torch.full_like(target.score, 0.5))
    expected = 2 * (torch.tensor(2.0).sigmoid() - 0.5) ** 2
    assert kp2d_losses.consistency(source, target, match).item() == pytest.approx(expected.item())


def test_triplet_by_hand(monkeypatch):
    at = torch.tensor([[[0.0, 0], [4, 4], [9, 0]]]).repeat(1, 10, 1)  # ten times the same three points
    angles = torch.tensor([0.0, 0.5, 1.0]).repeat(10)
    one = torch.stack([angles.cos(), angles.sin()], -1)[None]
    turned = angles + torch.tensor([0.3, 0.0, 0.0]).repeat(10)
    two = torch.stack([turned.cos(), turned.sin()], -1)[None]

    def chord(angle):
        return 2 * math.sin(abs(angle) / 2)

    # the second point is within 4 px of the first in x and y, so the third alone is a negative of both
    hinges = [chord(0.3) - chord(1.0) + 0.7, 1e-3 - chord(0.5) + 0.7, 1e-3 - chord(0.5) + 0.7]
    assert min(hinges) > 0
    every, few = torch.ones(1, 30, dtype=torch.bool), torch.arange(30)[None] < 19
    assert kp2d_losses.triplet(one, two, at, every).item() == 0  # all beyond 0.2
    monkeypatch.setattr(kp2d_losses, "MARGIN", 0.7)
    assert kp2d_losses.triplet(one, two, at, every).item() == pytest.approx(sum(hinges) / 3, abs=1e-5)
    assert kp2d_losses.triplet(one, two, at, few).item() == 0


def test_descriptors_do_not_move_points():
    shift = torch.zeros(1, 2, 6, 8, requires_grad=True)
    feat = torch.randn(1, 16, 12, 16, requires_grad=True)
    view = points(shift=shift, feat=feat)
    view.describe(view.at).square().sum().backward()
    assert shift.grad is None
    assert feat.grad is not None


def test_dual_softmax_knows_right_from_wrong():
    torch.manual_seed(4)
    unit = nn.functional.normalize(torch.randn(2, 12, 32), dim=2)
    at = torch.arange(12.0)[None, :, None].expand(2, 12, 2) * 10
    valid = torch.ones(2, 12, dtype=torch.bool)
    right, hit = correspondence.dual_softmax(unit, unit, (at, at), valid, 8.0, 0.07)
    wrong, missed = correspondence.dual_softmax(unit, unit.roll(1, 1), (at, at), valid, 8.0, 0.07)
    assert right.max() < 0.1 < 5 < wrong.min()
    assert hit.all()
    assert not missed.any()
    crowded, _ = correspondence.dual_softmax(unit, unit.roll(1, 1), (at / 100, at / 100), valid, 8.0, 0.07)
    assert crowded.max() == 0  # all are near each other: nothing to confuse


def test_choose_prefers_valid_ones():
    valid = torch.zeros(3, 40, dtype=torch.bool)
    valid[:, 10:20] = True
    assert (correspondence.choose(valid, torch.rand(3, 40), 10).sort(1).values == torch.arange(10, 20)).all()
    assert correspondence.choose(valid, torch.rand(3, 40), 0).shape == (3, 40)


# --- IO-Net


def test_io_net_has_the_published_size():
    net = InlierNet()
    assert sum(p.numel() for p in net.parameters()) == 135_169
    assert net(torch.randn(2, 5, 30)).shape == (2, 30)


class Always(nn.Module):
    """Says one thing of every match."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, matches):
        self.seen = matches
        return torch.full_like(matches[:, 0], self.said)


@pytest.mark.parametrize(("shift", "right"), [(0.0, 1.0), (3.9, 1.0), (4.1, -1.0)])
def test_a_match_is_right_below_4_px(shift, right):
    same = points(torch.randn(1, 1, 6, 8))
    said = {value: Always(value) for value in (1.0, -1.0)}
    losses = {
        value: kp2d_losses.inlier(net, same, same, moved(shift, 0), 20, False, 100).item()
        for value, net in said.items()
    }
    assert losses[right] == 0
    assert losses[-right] == (4 if right == 1 else 0)  # no right match at all: the pair is left out
    rows = said[1.0].seen
    assert rows.shape == (1, 5, 20)
    assert torch.equal(rows[:, :2], rows[:, 2:4])
    assert rows[:, :4].abs().max() < 1
    assert rows[:, 4].max() < 0.002


def test_io_judges_the_best_cells_unless_told_otherwise():
    score = torch.linspace(-3, 3, 48).reshape(1, 1, 6, 8)
    view, net = points(score), Always(1.0)
    kp2d_losses.inlier(net, view, view, torch.eye(3)[None], 5, False, 100)
    assert torch.equal(net.seen[0, 1], view.share(view.at)[0, [38, 37, 36, 35, 34], 1])
    kp2d_losses.inlier(net, view, view, torch.eye(3)[None], 5, True, 100)
    outer = set(range(48)) - set(view.inner().tolist())
    assert {round(v, 4) for v in net.seen[0, 1].tolist()} <= {
        round(view.share(view.at)[0, i, 1].item(), 4) for i in outer
    }


# --- the method


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"descriptor_loss": "dual-softmax", "points": 64},
        {"io": False},
        {"descriptor": False},
        {"io_lowest": True},
    ],
)
def test_two_processes_see_the_loss_of_one(change):
    settings = recipe(**change)
    method = Method(settings, squares(), CPU)
    if method.extra is not None:
        method.extra.eval()
    network = checkpoint.build(settings.model).eval()
    whole, _ = method.loss(network, Dice(1, 5, 4, CPU))
    halves = [method.loss(network, Dice(1, 5, 4, CPU, own))[0] for own in (slice(0, 2), slice(2, 4))]
    assert sum(halves).item() / 2 == pytest.approx(whole.item(), rel=1e-4)
    assert halves[0].item() != pytest.approx(halves[1].item(), rel=1e-4)


def test_the_switches_leave_losses_out():
    pictures, network = squares(), checkpoint.build("kp2dtiny-s-coral").train()
    seen = {}
    for name, change in {"v4": {}, "v3": {"descriptor": False}, "v1": {"io": False}}.items():
        loss, parts = Method(recipe(**change), pictures, CPU).loss(network, Dice(1, 0, 4, CPU))
        seen[name] = set(parts)
        named = sum(value for key, value in parts.items() if key != "valid")
        assert loss.item() == pytest.approx(named.item(), rel=1e-5)
    assert seen["v4"] == {"location", "usp", "consistency", "descriptor", "io", "valid"}
    assert seen["v4"] - seen["v3"] == {"descriptor"}
    assert seen["v4"] - seen["v1"] == {"io"}


@pytest.mark.parametrize("model", ["kp2d", "kp2d-v0", "kp2d-resnet", "kp2dtiny-s"])
def test_views_are_decoded_as_lf_decodes_the_weights(model, monkeypatch):
    row, size = MODELS[model], (64, 96)
    heads = {name: torch.randn(2, deep, size[0] // cell, size[1] // cell) for name, (deep, cell) in row.heads.items()}
    heads["shift"] *= 3
    method = Method(recipe(model, 1, size, io=False), squares(), CPU)
    monkeypatch.setattr(method, "judge", lambda source, target, homography, dice: (target, {}))
    target, _ = method.loss(lambda images: tuple(heads.values()), Dice(1, 0, 1, CPU))
    points, scores, descriptors = row.decode({name: head[0].numpy() for name, head in heads.items()}, **row.settings)
    best = target.inner()[target.score.flatten(1)[0, target.inner()].argsort(descending=True)]
    torch.testing.assert_close(target.score.flatten(1)[0, best], torch.from_numpy(scores))
    torch.testing.assert_close(target.at[0, best], torch.from_numpy(points), atol=1e-4, rtol=0)
    described = target.describe(torch.from_numpy(points)[None])[0]
    torch.testing.assert_close(described, torch.from_numpy(descriptors), atol=1e-4, rtol=0)


@pytest.mark.parametrize("loss", ["triplet", "dual-softmax"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_few_steps_lower_the_loss(loss, bf16):
    change = {"descriptor_loss": loss, "points": 128}
    settings = dataclasses.replace(recipe(**change), bf16=bf16)
    method, network = Method(settings, squares(), CPU), checkpoint.build(settings.model).train()
    optimiser = torch.optim.AdamW([*network.parameters(), *method.extra.parameters()], lr=3e-3)
    losses = []
    for step in range(16):
        value, _ = method.loss(network, Dice(1, step % 2, 4, CPU))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])
    assert all(p.grad is not None for p in network.parameters())


def test_the_same_step_is_the_same_to_the_last_bit():
    settings = recipe()
    pictures, network = squares(), checkpoint.build(settings.model).eval()
    first, again = (Method(settings, pictures, CPU).loss(network, Dice(1, 3, 4, CPU))[0] for _ in range(2))
    assert torch.equal(first, again)


def test_a_network_with_other_heads_is_refused():
    with pytest.raises(
        UsageError, match=r"the heads score, shift and feat; wren has detector, descriptor; see: lf mod"
    ):
        Method(recipe("wren"), squares(), CPU)
