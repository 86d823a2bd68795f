"""SuperPoint's published training: losses against brute force, views against their definitions, MagicPoint."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lf.core import BadInput
from lf.data import homography as geometry
from lf.data.drawn import synthetic_shapes
from lf.models import MODELS, decode
from lf.train import RECIPES
from lf.train.losses import descriptor_losses
from lf.train.losses.descriptor_losses import DESCRIPTOR_LOSSES, Pair, dense, sparse
from lf.train.losses.detector_losses import DETECTOR_LOSSES, choose, labels, valid_cells
from lf.train.methods import magicpoint, superpoint
from lf.train.pictures import Crop, Pictures
from lf.train.views import random_views as views
from lf.train.views import superpoint_views
from lf.train.views.superpoint_views import PHOTOMETRIES, WARPS

CPU = torch.device("cpu")
SIZE = (24, 32)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def dice(batch=3, step=0):
    return views.Dice(1, step, batch, CPU)


# --- labels


def points(*rows):
    return torch.tensor([rows], dtype=torch.float32)


def test_an_integer_point_is_one_class_of_its_cell():
    target = labels(points((19, 10, 1)), SIZE)
    assert target.shape == (1, 65, 3, 4)
    assert target[0, :, 1, 2].nonzero().tolist() == [[2 * 8 + 3]]  # row 2, column 3 of the cell
    assert target[0, 64].sum() == 11
    torch.testing.assert_close(target.sum(1), torch.ones(1, 3, 4))


def test_labels_and_the_decoder_agree_on_the_channels():
    target = labels(points((19, 10, 1), (0, 23, 1), (31, 0, 1)), SIZE)[0]
    heat = decode.heatmap((target * 50).numpy())
    assert {(x, y) for y, x in np.argwhere(heat > 0.5).tolist()} == {(19, 10), (0, 23), (31, 0)}


def test_a_subpixel_point_splats_bilinearly():
    target = labels(points((9.25, 10.5, 1)), SIZE)[0, :, 1, 1]
    found = {int(c): float(target[c]) for c in target.nonzero()[:, 0]}
    assert found == {17: 0.375, 18: 0.125, 25: 0.375, 26: 0.125}


def test_a_splat_over_two_cells_fills_both_and_keeps_its_parts_on_request():
    target = labels(points((7.25, 3, 1)), SIZE)[0]
    assert (target[31, 0, 0], target[24, 0, 1], target[64, 0, :2].sum()) == (1, 1, 0)
    target = labels(points((7.25, 3, 1)), SIZE, rest=True)[0]
    assert (target[31, 0, 0], target[64, 0, 0], target[24, 0, 1], target[64, 0, 1]) == (0.75, 0.25, 0.25, 0.75)


def test_a_hair_over_the_edge_of_a_cell_is_nothing():
    target = labels(points((8 - 1e-5, 3, 1)), SIZE)[0]
    assert (target[64, 0, 0], target[24, 0, 1]) == (1, 1)


def test_what_is_outside_or_without_weight_is_dropped():
    nothing = points(
        (5, 5, 0), (-1, 5, 1), (32, 5, 1), (5, 1e9, 1), (math.nan, 5, 0), (math.inf, 3, 1), (3, -math.inf, 1)
    )
    assert (labels(nothing, SIZE)[0, 64] == 1).all()
    assert labels(points((31.5, 5, 1)), SIZE)[0, 64, 0, 3] == 0  # half of it is inside


def test_the_order_of_points_changes_no_bit():
    many = torch.rand(1, 300, 3) * 24
    many[..., 2] /= 24
    torch.testing.assert_close(labels(many, SIZE), labels(many.flip(1), SIZE), rtol=0, atol=0)


def test_the_random_choice_follows_the_shares():
    target = labels(points((9.25, 10.5, 1)), SIZE)
    uniform = torch.rand(4000, 3, 4)
    drawn = choose(target.expand(4000, -1, -1, -1), uniform)
    assert set(drawn.unique().tolist()) == {0, 1}
    assert (drawn.sum(1) == 1).all()
    torch.testing.assert_close(drawn.mean(0), target[0], atol=0.03, rtol=0)


def test_cells_with_a_pixel_outside_are_not_valid():
    inside = torch.ones(1, *SIZE, dtype=torch.bool)
    inside[0, 15, 8] = False
    assert (~valid_cells(inside)).nonzero().tolist() == [[0, 1, 1]]


# --- detector losses

BRUTE = {
    "categorical": lambda z, y: -(y * torch.softmax(z, 0).log()).sum(),
    "binary": lambda z, y: F.binary_cross_entropy(torch.softmax(z, 0), y, reduction="sum"),
    "l2": lambda z, y: ((z - y) ** 2).mean(),
}


@pytest.mark.parametrize("name", DETECTOR_LOSSES)
def test_a_detector_loss_is_the_mean_over_valid_cells(name):
    logits, target = torch.randn(2, 65, 3, 4), labels(torch.rand(2, 5, 3) * 24, SIZE)
    valid = torch.rand(2, 3, 4) < 0.6
    found = DETECTOR_LOSSES[name](logits, target, valid)
    for image in range(2):
        cells = [
            BRUTE[name](logits[image, :, r, c].double(), target[image, :, r, c].double())
            for r, c in valid[image].nonzero().tolist()
        ]
        assert float(found[image]) == pytest.approx(float(torch.stack(cells).mean()), rel=1e-5)


@pytest.mark.parametrize("name", DETECTOR_LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e2, 1e4])
def test_a_detector_loss_stays_finite(name, scale):
    logits = (torch.randn(1, 65, 3, 4) * scale).requires_grad_()
    loss = DETECTOR_LOSSES[name](logits, labels(torch.rand(1, 5, 3) * 24, SIZE), torch.ones(1, 3, 4))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", DETECTOR_LOSSES)
def test_without_a_valid_cell_the_loss_is_zero(name):
    assert DETECTOR_LOSSES[name](torch.randn(2, 65, 3, 4), torch.rand(2, 65, 3, 4), torch.zeros(2, 3, 4)).tolist() == [
        0,
        0,
    ]


def test_gradients_of_the_binary_loss_are_those_of_float64_where_the_softmax_is_sharp():
    logits = torch.randn(1, 65, 3, 4) * 12
    target, valid = labels(torch.rand(1, 5, 3) * 24, SIZE), torch.ones(1, 3, 4)
    own = logits.clone().requires_grad_()
    DETECTOR_LOSSES["binary"](own, target, valid).sum().backward()
    exact = logits.double().requires_grad_()
    p = exact.softmax(1)
    rest = torch.stack([p[:, [i for i in range(65) if i != c]].sum(1) for c in range(65)], 1)
    (-(target * p.log() + (1 - target) * rest.log()).sum(1).mean()).backward()
    torch.testing.assert_close(own.grad.double(), exact.grad, atol=1e-6, rtol=1e-4)


# --- descriptor losses

SHIFT = torch.tensor([[1.0, 0, 8], [0, 1, 0], [0, 0, 1]])  # one cell to the right


def pair(first, second, homography=SHIFT, centres=True, hidden=()):
    valid = torch.ones(len(first), *first.shape[2:], dtype=torch.bool)
    second_valid = valid.clone()
    for row, column in hidden:
        second_valid[:, row, column] = False
    return Pair(first, second, homography.expand(len(first), 3, 3), valid, second_valid, centres)


def similar(p):
    one, two = (F.normalize(d, dim=1).flatten(2).double() for d in (p.first, p.second))
    return torch.einsum("bdi,bdj->bij", one, two)


@pytest.mark.parametrize("hidden", [(), [(0, 1), (2, 3)]])
def test_the_dense_loss_is_its_definition(hidden):
    own = pair(torch.randn(2, 6, 3, 4), torch.randn(2, 6, 3, 4), hidden=hidden)
    s = similar(own)
    for b, found in enumerate(dense(own, torch.rand).tolist()):
        total = count = 0
        for i in range(12):
            for j in range(12):
                if not own.valid_second[b].flatten()[j]:
                    continue
                dx, dy = 8 * (i % 4) + 8 - 8 * (j % 4), 8 * (i // 4) - 8 * (j // 4)
                near = math.hypot(dx, dy) <= 8
                total += 250 * max(0, 1 - s[b, i, j]) if near else max(0, s[b, i, j] - 0.2)
                count += 1
        assert found == pytest.approx(float(total / count), rel=1e-5)


def test_the_sparse_loss_is_its_definition_when_it_takes_all():
    """The loss is deterministic if every match is used and every cell is drawn once."""
    own = pair(torch.randn(1, 6, 4, 6), torch.randn(1, 6, 4, 6), hidden=[(0, 1)])
    s = similar(own)[0]

    def every(*shape):
        last = shape[-1]
        return (torch.arange(last) / last + 1e-4).expand(1, *shape)

    positive, hinges, times = [], 0.0, 0
    for i in range(24):
        x, y = i % 6 + 1, i // 6
        if x > 5 or (y, x) == (0, 1):
            continue
        positive.append(max(0, 1 - float(s[i, y * 6 + x])))
        for j in range(24):
            u, v = j % 6, j // 6
            if max(abs(u - x), abs(v - y)) <= 1:
                u, v = (u + 3) % 6, (v + 2) % 4
            hinge = max(0, float(s[i, v * 6 + u]) - 0.2)
            hinges, times = hinges + hinge, times + (hinge > 0)
    expected = np.mean(positive) + hinges / (times + 1)
    found = sparse(own, every, matches=1000, negatives=24)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", DESCRIPTOR_LOSSES)
def test_descriptors_that_fit_cost_nothing_and_others_much(name, monkeypatch):
    monkeypatch.setattr(descriptor_losses, "RADIUS", 4.0)  # no cell but the partner is the same
    first = torch.eye(24).reshape(1, 24, 4, 6)
    second = torch.roll(first, 1, 3)  # what moved by a cell
    came_in = [(row, 0) for row in range(4)]
    right = DESCRIPTOR_LOSSES[name](pair(first, second, hidden=came_in), dice(1).rand)
    wrong = DESCRIPTOR_LOSSES[name](pair(first, first, hidden=came_in), dice(1).rand)
    assert float(right) == pytest.approx(0, abs=1e-6)
    assert float(wrong) > 0.5


@pytest.mark.parametrize("name", DESCRIPTOR_LOSSES)
@pytest.mark.parametrize("centres", [False, True])
def test_descriptor_losses_have_finite_gradients_of_each_pair_alone(name, centres):
    first, second = (torch.randn(2, 6, 4, 6, requires_grad=True) for _ in "ab")
    loss = DESCRIPTOR_LOSSES[name](pair(first, second, centres=centres), dice(2).rand)
    assert loss.shape == (2,)
    loss[0].backward()
    assert torch.isfinite(first.grad).all()
    assert first.grad[0].abs().sum() > 0
    assert first.grad[1].abs().sum() == 0


@pytest.mark.parametrize("name", DESCRIPTOR_LOSSES)
def test_descriptor_losses_survive_a_pair_without_overlap(name):
    away = torch.tensor([[1.0, 0, 1e4], [0, 1, 0], [0, 0, 1]])
    own = pair(torch.randn(1, 6, 4, 6), torch.randn(1, 6, 4, 6), homography=away)
    assert torch.isfinite(DESCRIPTOR_LOSSES[name](own, dice(1).rand)).all()


JOINT = [name for name, recipe in RECIPES.items() if recipe.method == "superpoint"]


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("loss", ["sparse", "dense"])
def test_cells_are_read_by_the_rule_of_the_decoder(name, loss, monkeypatch):
    recipe = RECIPES[name].override(["size=32x48", "picture_size=64", f"descriptor_loss={loss}", "bf16=False"])
    seen = []
    monkeypatch.setitem(DESCRIPTOR_LOSSES, loss, lambda own, rand, **_: seen.append(own) or own.first.mean((1, 2, 3)))
    heads = torch.randn(6, 65, 4, 6), torch.randn(6, 16, 4, 6)
    superpoint.Method(recipe, shapes(side=64), CPU).loss(lambda views: heads, dice())
    _, pixels = seen[0].warped()
    maps = {"descriptor": heads[1][0].numpy()}
    expected = MODELS[recipe.model].describe(maps, pixels.numpy().astype(np.float32))
    np.testing.assert_allclose(F.normalize(seen[0].descriptors()[0][0], dim=1), expected, atol=1e-5)


@pytest.mark.parametrize("name", JOINT)
def test_points_are_read_by_the_rule_of_the_decoder(name, monkeypatch):
    recipe = RECIPES[name].override(
        ["size=32x48", "picture_size=64", "descriptor_loss=dual-softmax", "points=20", "bf16=False"]
    )
    seen = []

    def watch(one, two, at, valid, near, temperature):
        seen.append((one, at[0]))
        return one.mean((1, 2)), valid

    monkeypatch.setattr(superpoint, "SHAKE", 0.0)
    monkeypatch.setattr(superpoint.correspondence, "dual_softmax", watch)
    heads = torch.randn(6, 65, 4, 6), torch.randn(6, 16, 4, 6)
    superpoint.Method(recipe, shapes(side=64), CPU).loss(lambda views: heads, dice())
    ((read, at),) = seen
    expected = MODELS[recipe.model].describe({"descriptor": heads[1][0].numpy()}, at[0].numpy())
    np.testing.assert_allclose(read[0], expected, atol=1e-5)


# --- views


@pytest.mark.parametrize("name", WARPS)
def test_homographies_stay_within_their_amplitudes(name):
    warp, size = WARPS[name], (100, 200)
    found = superpoint_views.sample(dice(500), size, warp)
    corners = torch.from_numpy(geometry.corners(size)) + torch.tensor(
        [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]
    )
    patch = (views.warp_points(corners.expand(500, 4, 2), found) + 0.5) / torch.tensor([200.0, 100.0])
    reach = (patch - patch.mean(1, keepdim=True)).norm(dim=2)
    half = math.hypot(warp.patch / 2, warp.patch / 2)
    spread = (1 + warp.scale) * (half + math.hypot(*warp.perspective))
    assert reach.max() <= spread + 1e-6
    assert reach.mean() == pytest.approx(half, rel=0.1)
    assert abs(float(patch.mean()) - 0.5) < 0.02
    turn = torch.atan2(*(patch[:, 1] - patch[:, 0]).T.flip(0))
    assert turn.abs().max() <= warp.angle + 2 * sum(warp.perspective) + 1e-6
    assert turn.abs().max() > 1


def test_amplitudes_are_two_deviations_of_a_truncated_normal():
    """Truncated normals: 68 % of the draws within half of the largest, none beyond it."""
    drawn = superpoint_views._normal(dice(20_000), 1)
    assert drawn.abs().max() <= 2
    assert float((drawn.abs() < 1).float().mean()) == pytest.approx(0.6827 / 0.9545, abs=0.01)
    assert abs(float(drawn.mean())) < 0.02


def test_a_mask_shrinks_by_its_margin():
    inside = torch.ones(1, 9, 9, dtype=torch.bool)
    inside[0, 4, 0] = False
    assert (~superpoint_views.shrink(inside, 2)).nonzero()[:, 1:].tolist() == [
        [y, x] for y in range(2, 7) for x in range(3)
    ]
    assert superpoint_views.shrink(inside, 0) is inside


@pytest.mark.parametrize("name", PHOTOMETRIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_photometry_keeps_pictures_pictures(name, channels):
    view = torch.rand(3, channels, 40, 56)
    changed = superpoint_views.photometric(view, dice(), PHOTOMETRIES[name])
    assert changed.shape == view.shape
    assert 0 <= changed.min() < changed.max() <= 1
    torch.testing.assert_close(changed * 255, (changed * 255).round(), atol=1e-4, rtol=0)
    torch.testing.assert_close(changed, superpoint_views.photometric(view, dice(), PHOTOMETRIES[name]), atol=0, rtol=0)
    assert not torch.equal(changed, superpoint_views.photometric(view, dice(step=1), PHOTOMETRIES[name]))


def test_motion_blur_keeps_the_mean_and_blurs_half():
    view = torch.zeros(400, 1, 15, 15)
    view[:, :, 7, 7] = 1
    blurred = superpoint_views._motion_blur(view, dice(400), 7)
    torch.testing.assert_close(blurred.sum((1, 2, 3)), torch.ones(400))
    changed = blurred[:, 0, 7, 7] < 0.99
    assert 0.4 < float(changed.float().mean()) < 0.6
    spread = (blurred[changed] > 0.01).sum((1, 2, 3))
    assert spread.min() >= 5
    assert spread.max() <= 21
    torch.testing.assert_close(blurred, blurred.flip(2, 3))  # along a line through the pixel


def test_shades_are_soft_and_cover_a_part():
    shade = superpoint_views._shades(dice(20), (120, 160), PHOTOMETRIES["magicpoint"])
    assert shade.shape == (20, 1, 120, 160)
    assert 0 <= shade.min() < shade.max() <= 1 + 1e-6
    assert 0.1 < float(shade.mean()) < 0.7
    assert (shade[..., 1:] - shade[..., :-1]).abs().max() < 0.15


# --- MagicPoint

RECIPE = dataclasses.replace(
    RECIPES["magicpoint"], model="superpoint", steps=2, batch=3, size=(64, 96), pictures=4, picture_size=96
)


def shapes(count=4, side=96, name="shapes"):
    squares = np.stack([synthetic_shapes.shape(seed, (side, side))[0] for seed in range(count)])[..., None]
    return Pictures(squares, tuple(Crop(f"{name}/{seed}", 0, 0, side, "") for seed in range(count))).on(CPU)


class Watched(torch.nn.Module):
    """A detector that remembers what it saw and says a constant."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(65))

    def forward(self, view):
        self.view = view
        cells = self.bias[None, :, None, None].expand(len(view), 65, view.shape[2] // 8, view.shape[3] // 8)
        return cells, cells[:, :1]


@pytest.mark.parametrize("corner_labels", ["soft", "drawn"])
@pytest.mark.parametrize("name", DETECTOR_LOSSES)
def test_magicpoint_learns_that_most_cells_have_no_corner(name, corner_labels):
    recipe = RECIPE.override([f"detector_loss={name}", f"corner_labels={corner_labels}"])
    method, network = magicpoint.Method(recipe, shapes(), CPU), Watched()
    loss, parts = method.loss(network, dice())
    again, _ = method.loss(network, dice())
    assert float(loss.detach()) == float(again.detach()) == float(parts["detector"])
    loss.backward()
    assert network.view.shape == (3, 1, 64, 96)
    assert network.bias.grad[64] < 0  # more of "no corner" is better
    assert method.extra is None
    assert method.state() == {}


def test_magicpoint_moves_corners_with_the_picture():
    """A bright dot at every corner stays under its label, through the window and the homography."""
    side = 96
    method = magicpoint.Method(RECIPE, shapes(), CPU)
    dots = torch.zeros(4, 1, side, side)
    corners = torch.tensor([[20.0, 30.0, 1], [60, 25, 1], [45, 70, 1]]).expand(4, -1, -1)
    for x, y, _ in corners[0].long().tolist():
        dots[:, :, y - 1 : y + 2, x - 1 : x + 2] = 1
    rolls = dice(4)
    homography = method._window(rolls) @ superpoint_views.sample(rolls, RECIPE.size, magicpoint.WARP)
    view, _ = views.render(dots, homography, RECIPE.size)
    projected = views.project(corners, homography.inverse(), RECIPE.size)
    seen = 0
    for picture, points in zip(view[:, 0], projected, strict=True):
        for x, y, weight in points.tolist():
            if 1 < x < 94 and 1 < y < 62:
                assert weight == 1
                assert picture[round(y), round(x)] > 0.9
                seen += 1
    assert seen >= 4


def test_magicpoint_can_be_looked_at():
    samples = magicpoint.Method(RECIPE, shapes(), CPU).sample(dice())
    assert len(samples) == 3
    for sample in samples:
        assert sample.views[0].shape == (64, 96, 3)
        seen = sample.labels[0][sample.labels[0][:, 2] > 0]
        assert ((seen[:, :2] > -0.5) & (seen[:, :2] < (95.5, 63.5))).all()


def test_magicpoint_refuses_photos():
    with pytest.raises(BadInput, match=r"not from procedural/0; type: `photos=shapes`"):
        magicpoint.Method(RECIPE, shapes(name="procedural"), CPU)
