"""PoSFeat's losses: lines clipped to a view, the window's expectation, weights, and the policy gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lf.train.losses import epipolar_losses as lines
from lf.train.losses import policy_gradient as policy

SIZE = (24, 32)  # H, W
SEARCH = lines.Search((96, 128), noise=0.0)


def line(a, b, c):
    return torch.tensor([[[a, b, c]]], dtype=torch.float32)


# --- lines


def test_a_line_ends_where_it_leaves_the_outermost_pixels():
    ends, valid = lines.clip(line(0, 1, -10), SIZE)  # y = 10
    assert valid.item()
    assert ends[0, 0].tolist() == [[0, 10], [31, 10]]
    ends, valid = lines.clip(line(1, 0, -7), SIZE)  # x = 7
    assert valid.item()
    assert ends[0, 0].tolist() == [[7, 0], [7, 23]]
    ends, valid = lines.clip(line(1, 1, -10), SIZE)  # x + y = 10, a corner cut off
    assert valid.item()
    assert ends[0, 0].tolist() == [[0, 10], [10, 0]]


@pytest.mark.parametrize("missing", [(0, 1, 4), (1, 0, -40), (1, 1, 5), (0, 0, 1), (23, -31, 0)])
def test_a_line_outside_or_through_two_corners_does_not_count(missing):
    ends, valid = lines.clip(line(*missing), SIZE)
    assert not valid.item()
    assert ends.isfinite().all()


@given(st.floats(0, 31), st.floats(0, 23), st.floats(0.1, 3.0))
def test_the_ends_lie_on_the_line_and_on_the_border(x, y, angle):
    a, b = math.sin(angle), -math.cos(angle)
    given_line = line(a, b, -(a * x + b * y)).double()
    ends, valid = lines.clip(given_line, SIZE)
    if not valid.item():
        return  # through a corner
    assert lines.distances(ends, given_line[:, :, None]).max() < 1e-6
    last = torch.tensor([31.0, 23.0])
    assert ((ends == 0) | (ends == last)).any(-1).all()
    assert ((ends >= 0) & (ends <= last)).all()


def test_pixels_and_places_are_inverse():
    points = torch.rand(2, 5, 2) * 30
    for corners in (True, False):
        places = lines.normalised(points, SIZE, corners)
        torch.testing.assert_close(lines.pixels(places, SIZE, corners), points)
    edges = torch.tensor([[0.0, 0], [31, 23]])
    assert lines.normalised(edges, SIZE, True).tolist() == [[-1, -1], [1, 1]]
    torch.testing.assert_close(
        lines.normalised(edges, SIZE, False), torch.tensor([[-1, -1], [1, 1]]) * (1 - 1 / torch.tensor([32, 24]))
    )


def test_there_is_one_query_in_every_cell():
    found = lines.queries(torch.rand(2, 6, 2), (35, 50), 16)
    assert found.shape == (2, 6, 2)
    cell = (found / 16).floor()
    assert cell[0].tolist() == cell[1].tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    assert (found == found.floor()).all()


# --- the window


def turning(shift, size=(24, 32)):
    """A map with a direction that rotates slowly with x; the query's direction is `shift` cells farther right."""
    angle = 0.05 * (torch.arange(size[1]) - shift)
    return torch.stack([angle.cos(), angle.sin()])[None, :, None].expand(1, 2, *size).contiguous()


def middle_of(x, y):
    """The pixel of SEARCH that lies on the middle of a cell, as published."""
    return [(x + 0.5) * 127 / 128 * 4, (y + 0.5) * 95 / 96 * 4]


def horizontal():
    """F under which a point's line is the row of pixels of the same y: cameras side by side."""
    return torch.tensor([[[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]])


def test_the_expectation_of_a_known_map_is_where_the_query_lies():
    query = torch.tensor([[middle_of(6, 10)]])
    search = lines.Search((96, 128), steps=2000, noise=0.0)
    found = lines.match(turning(0), turning(11), query, horizontal(), search, torch.zeros(1, 1, 2))
    assert found.valid.item()
    torch.testing.assert_close(found.expected[0, 0], torch.tensor(middle_of(17, 10)), atol=0.2, rtol=0)
    assert found.distance.item() < 0.01
    # 3x3 points of the window, at -0.1, 0 and 0.1 along both axes; along y all are alike
    share = torch.tensor([math.exp(60 * math.cos(0.05 * 1.6)), math.exp(60)])
    spread = 0.1 * math.sqrt(float(2 * share[0] / (2 * share[0] + share[1]))) + 0.1 * math.sqrt(2 / 3)
    assert found.deviation.item() == pytest.approx(spread, abs=0.002)


def test_the_expectation_of_a_flat_map_is_the_middle_of_the_window_and_unsure():
    flat = torch.ones(1, 4, 24, 32)
    query = torch.tensor([[[64.0, 40.0]]])
    noise = torch.tensor([[[0.0, 0.5]]])
    search = lines.Search((96, 128), noise=0.1)
    found = lines.match(flat, flat, query, horizontal(), search, noise)
    # of equal places the first, at the left edge; the window reaches over it, where all is 0 and so unlike
    assert found.valid.item()
    middle = lines.Search((96, 128), window=0.1, noise=0.0)
    y = lines.normalised(query, middle.size, True)[0, 0, 1] + 0.05
    expected = lines.pixels(torch.tensor([-1.0, float(y)]), middle.size, True)
    assert abs(float(found.expected[0, 0, 1] - expected[1])) < 0.01
    assert found.deviation.item() > 0.05


def test_an_anchor_outside_the_view_does_not_count():
    flat = torch.ones(1, 4, 24, 32)
    query = torch.tensor([[[64.0, 40.0]]])
    found = lines.match(flat, flat, query, horizontal(), lines.Search((96, 128)), torch.tensor([[[-1.0, 0.0]]]))
    assert not found.valid.item()  # the first of equal places is at the left edge, and moves out of it


def test_weights_are_one_on_average_and_larger_where_a_match_is_sure():
    deviation = torch.tensor([[0.1, 0.2, 0.2, 0.1]])
    distance = torch.tensor([[1.0, 1.0, 50.0, 1.0]])
    valid = torch.tensor([[True, True, True, False]])
    found = lines.Found(torch.zeros(1, 4, 2), deviation, distance, valid)
    weight = lines.weights(found, SEARCH)
    torch.testing.assert_close(weight, torch.tensor([[8 / 3, 4 / 3, 0, 0]]))
    assert lines.description(found, SEARCH).item() == pytest.approx(1.0)
    far = lines.Found(torch.zeros(1, 4, 2), deviation, distance + 100, valid)
    assert lines.description(far, SEARCH).item() == 0


def test_the_gradient_pulls_the_match_onto_the_line():
    torch.manual_seed(0)
    search = lines.Search((240, 320), noise=0.0)
    one, two = ((2 + 0.5 * torch.randn(1, 8, 60, 80)).requires_grad_() for _ in range(2))
    query, still = lines.queries(torch.rand(1, 300, 2), search.size, 16), torch.zeros(1, 300, 2)
    optimiser, losses = torch.optim.Adam([one, two], lr=0.05), []
    for _ in range(15):
        loss = lines.description(lines.match(one, two, query, horizontal(), search, still), search)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# --- the policy gradient


def one_cell(score):
    """A view of a single cell with pixel 9 proposed and accepted."""
    return policy.points(score, torch.tensor([[9]]), torch.tensor([[True]]))


@pytest.mark.parametrize("reward", [1.0, -0.25])
def test_with_one_cell_and_a_sure_match_the_gradient_is_that_of_the_log_probability(reward):
    torch.manual_seed(0)
    maps = [torch.rand(1, 8, 8, requires_grad=True) for _ in range(2)]
    found = [one_cell(each) for each in maps]
    logp = tuple(each.logp[0] for each in found)
    loss = policy.pair_loss(logp, torch.full((1, 1), reward), torch.ones(1, 1), torch.zeros(1, 1), 0.0)
    ours = torch.autograd.grad(loss, maps)
    plain = torch.autograd.grad(sum(one_cell(each).logp.sum() for each in maps), maps)
    for gradient, of_logp in zip(ours, plain, strict=True):
        torch.testing.assert_close(gradient, -reward * of_logp)
    score = maps[0].detach()[0]
    share = score.reshape(-1).softmax(0).view(8, 8)
    wanted = -share
    wanted[1, 1] += 1 + 1 - score[1, 1].sigmoid()  # of the proposal, and of its acceptance
    torch.testing.assert_close(plain[0][0], wanted)


def test_where_every_match_is_wrong_every_accepted_score_falls():
    torch.manual_seed(0)
    maps = [torch.rand(1, 32, 32, requires_grad=True) for _ in range(2)]
    drawn = [policy.propose(each, torch.rand(1, 16, 64), torch.rand(1, 16)) for each in maps]
    found = [policy.points(each, *both) for each, both in zip(maps, drawn, strict=True)]
    logp = tuple(each.logp[0][each.accepted[0]] for each in found)
    match = torch.rand(len(logp[0]), len(logp[1]))
    loss = policy.pair_loss(logp, torch.full_like(match, policy.BAD), match, match.log(), 0.0)
    for gradient, (proposal, accepted) in zip(torch.autograd.grad(loss, maps), drawn, strict=True):
        chosen = policy.cells(gradient).gather(2, proposal[..., None])[..., 0]
        assert (chosen[accepted] > 0).all()
        assert (chosen[~accepted] == 0).all()


def test_proposals_and_acceptances_follow_the_scores():
    score = torch.zeros(1, 8, 16)
    score[0, 3, 5] = 8.0
    score[0, :, 8:] = -20.0
    torch.manual_seed(0)
    proposal, accepted = policy.propose(score.expand(500, 8, 16), torch.rand(500, 2, 64), torch.rand(500, 2))
    assert (proposal[:, 0] == 3 * 8 + 5).float().mean() == pytest.approx(math.exp(8) / (math.exp(8) + 63), abs=0.02)
    assert accepted[:, 0].float().mean() > 0.9
    assert not accepted[:, 1].any()
    assert policy.points(score, proposal[:1], accepted[:1]).at[0, 0].tolist() == [5, 3]
    assert policy.cells(torch.zeros(1, 20, 27)).shape == (1, 6, 64)


def test_rewards_need_both_distances():
    one, two = torch.tensor([[10.0, 5.0]]), torch.tensor([[3.0, 6.9], [3.0, 7.1], [20.0, 5.0]])
    there, back = horizontal()[0], horizontal()[0].mT
    assert policy.rewards(one, two, there, back).tolist() == [[1, -0.25, 1]]
    shifted = back.clone()
    shifted[2, 1] -= 3  # three pixels off in one direction only
    assert policy.rewards(one, two, there, shifted).tolist() == [[-0.25, -0.25, -0.25]]


def test_a_pair_without_accepted_points_costs_nothing():
    score = torch.rand(1, 16, 16, requires_grad=True)
    none = torch.zeros(1, 4, dtype=torch.bool)
    found = policy.points(score, torch.zeros(1, 4, dtype=torch.long), none)
    outcome = policy.detection((found, found), (torch.eye(4)[None],) * 2, (horizontal(), horizontal().mT))
    outcome.loss.backward()
    assert [value.item() for value in outcome] == [0, 0, 0, 0]
    assert not score.grad.any()


# --- the originals


@pytest.fixture
def held(shared):
    def read(name):
        arrays = np.load(shared / f"parity/posfeat/posfeat_{name}.npz")
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays}

    return read


def test_the_description_loss_is_that_of_the_original(held):
    of = held("description")
    search = lines.Search((240, 320), noise=0.0)
    one, two, query, there = (of[key][None] for key in ("map1", "map2", "query", "F12"))
    wanted = lines.describe(one, query, search.size, True)
    torch.testing.assert_close(wanted[0], of["query_desc"])
    ends, valid = lines.clip(lines.lines(query, there), search.size)
    torch.testing.assert_close(valid[0], of["line_valid"])
    for n, name in enumerate(("endpoint1", "endpoint2")):
        torch.testing.assert_close(lines.normalised(ends[0, :, n], search.size, True), of[name])
    maps = F.normalize(two, dim=1) * search.temperature
    torch.testing.assert_close(lines.anchors(wanted, maps, lines.lines(query, there), search)[0][0], of["anchor"])
    found = lines.match(one, two, query, there, search, torch.zeros(1, 64, 2))
    torch.testing.assert_close(lines.normalised(found.expected, search.size, True)[0], of["expected"])
    # E[x^2] - E[x]^2 cancels: of a variance near 0, one processor keeps other digits than the next, the original's too
    apart = (found.deviation[0] - of["std"]).abs()
    assert apart.max() < (2 * torch.finfo(torch.float32).eps) ** 0.5
    assert apart.median() < 1e-5
    torch.testing.assert_close(found.distance[0], of["epipolar_px"], atol=1e-4, rtol=1e-5)
    assert lines.description(found, search).item() == pytest.approx(2.611067, abs=2e-3)
    found = found._replace(deviation=of["std"][None])  # so that what follows is compared digit by digit
    torch.testing.assert_close(lines.weights(found, search)[0], of["weight"])
    assert lines.description(found, search).item() == pytest.approx(2.611067, abs=2e-5)


def test_the_detection_loss_and_its_gradients_are_those_of_the_original(held):
    of = held("detection")
    scores = [of[f"score{n}"][None].clone().requires_grad_() for n in (1, 2)]
    found = tuple(
        policy.points(score, of[f"proposal{n}"].reshape(1, -1), of[f"accept{n}"].reshape(1, -1))
        for n, score in enumerate(scores, 1)
    )
    described = tuple(
        lines.describe(of[f"map{n}"][None], points.at, (64, 64), True) for n, points in enumerate(found, 1)
    )
    at = [points.at[0] for points in found]
    torch.testing.assert_close(policy.rewards(*at, of["F12"], of["F21"]), of["reward"])
    outcome = policy.detection(found, described, (of["F12"][None], of["F21"][None]))
    outcome.loss.backward()
    assert outcome.loss.item() == pytest.approx(-23.102747, abs=1e-4)
    for n, score in enumerate(scores, 1):
        torch.testing.assert_close(score.grad[0], of[f"grad{n}"], atol=1e-6, rtol=1e-5)
