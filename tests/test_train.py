"""Recipes, views with known answers, and the loop: it learns, it resumes to the last bit, it stops when it must."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import itertools
import json
import math

import cv2
import numpy as np
import pytest
import torch

from lf.core import BadInput, Card, LfError, Unavailable, UsageError, fingerprint
from lf.data import homography as geometry
from lf.formats import model_file
from lf.models import MODELS, checkpoint
from lf.models.resolve import resolve
from lf.runtimes import open_session
from lf.train import RECIPES, loop, pictures, show, state
from lf.train.loop import train
from lf.train.views import random_views
from lf.train.views.random_views import PLACE, RELATION

SMALL = {"steps": 6, "batch": 2, "size": 64, "pictures": 4, "picture_size": 96, "warmup": 2}
SMALL_SETTINGS = {"points": 32, "adaptations": 2, "relabel": 0.5}  # of the methods that have them
SEEDS = range(5)
CPU = torch.device("cpu")
LEFT = {"checkpoint.pt", "log.jsonl", "recipe.json", "pictures.npy", "pictures.json"}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


SMALLEST = {  # one float recipe for each method: the one with the smallest network; of labelled images elsewhere
    recipe.method: name
    for name, recipe in sorted(RECIPES.items(), key=lambda r: -MODELS[r[1].model].parameters)
    if not (recipe.weight_bits or recipe.data == "masks:")
}


OF_SQUARES = [name for name in SMALLEST.values() if not hasattr(loop.method_of(RECIPES[name]), "collect")]
of_squares = pytest.mark.parametrize("recipe", OF_SQUARES, indirect=True)  # methods that learn from single pictures


@pytest.fixture(scope="module", params=SMALLEST.values())
def recipe(request):
    """Make a recipe small: a few steps on a few small images, with new labels in the middle."""
    return small(RECIPES[request.param])


def small(recipe):
    wanted = SMALL | {key: value for key, value in SMALL_SETTINGS.items() if key in recipe.settings}
    return recipe.override([f"{key}={value}" for key, value in wanted.items()])


def silent(done, total, text):
    pass


def run(recipe, out, data=None, progress=silent, every=loop.EVERY):
    return train(recipe, data or [recipe.data], out, device="cpu", threads=1, progress=progress, every=every)


def dice(pairs=1, seed=1, own=None):
    return random_views.Dice(seed, 0, pairs, CPU, own)


# --- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_own_values(name):
    recipe = RECIPES[name]
    for steps in ((), (3,), (3, 7), (3, 7, 9)):  # whatever numbers there are, also two whole ones
        stepped = dataclasses.replace(recipe, decay_steps=steps)
        assert recipe.override([f"{key}={show(key, value)}" for key, value in stepped.flat().items()]) == stepped


def test_overrides_have_the_type_of_their_field():
    changed = RECIPES["wren"].override(["steps=7", "lr=1e-4", "bf16=False", "relabel=0.25,", "steps=8"])
    assert (changed.steps, changed.lr, changed.bf16, changed.settings["relabel"]) == (8, 1e-4, False, (0.25,))
    assert RECIPES["wren"].override(["relabel="]).settings["relabel"] == ()
    assert RECIPES["wren"].override(["size=64"]).size == (64, 64)
    assert RECIPES["wren"].override(["size=64x96"]).size == (64, 96)
    assert RECIPES["wren"].override([]) == RECIPES["wren"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz=3", "unknown recipe setting 'stepz'; did you mean 'steps'? known: steps, batch, size, "),
        ("method=loop", "unknown recipe setting 'method'; known: "),
        ("steps", "`change=steps`: expected steps=<int>, for example steps=12000"),
        ("steps=1.5", "`change=steps=1.5`: expected steps=<int>"),
        ("lr=fast", "`change=lr=fast`: expected lr=<float>, for example lr=0.002"),
        ("bf16=yes", "`change=bf16=yes`: expected bf16=<bool>, for example bf16=True"),
        ("relabel=a,b", "`change=relabel=a,b`: expected relabel=<numbers>, for example relabel=0.3,0.6"),
        ("size=64x", "`change=size=64x`: expected size=<HxW>, for example size=160x160"),
        ("schedule=cos", "unknown schedule 'cos'; did you mean 'cosine'? known: cosine, step, constant"),
        ("steps=0", "recipe: steps=0; expected a number above 0"),
        ("batch=-2", "recipe: batch=-2; expected a number above 0"),
        ("lr=nan", "recipe: lr=nan; expected a number above 0"),
        ("lr=inf", "recipe: lr=inf; expected a number above 0"),
        ("seed=-1", "recipe: seed=-1; expected a number from 0"),
        ("size=96x100", "recipe: size=96x100; wren needs multiples of 8"),
    ],
)
def test_a_wrong_override_is_named(text, message):
    with pytest.raises(UsageError) as caught:
        RECIPES["wren"].override([text])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("wren", ["adaptations=0"], "adaptations=0; expected a number above 0"),
        ("wren", ["temperature=0"], "temperature=0.0; expected a number above 0"),
        ("wren", ["relabel=0.3,1.5"], "relabel=0.3,1.5; expected shares of the run below 1, as 0.3,0.6"),
        ("wren", ["relabel=1"], "relabel=1.0; expected shares of the run below 1"),
        ("superpoint-bn", ["points=0"], "points=0; expected at least 1 for sparse"),
        ("kp2d", ["io_points=0"], "io_points=0; expected a number above 0"),
        ("kp2d", ["temperature=0"], "temperature=0.0; expected a number above 0"),
        ("kp2d", ["patch_ratio=0"], "patch_ratio=0.0; expected a number above 0"),
        ("kp2d", ["patch_ratio=1.5"], "patch_ratio=1.5; expected at most 1"),
        ("kp2d", ["scaling=2"], "scaling=2.0; expected below 2"),
        ("kp2d", ["perspective=1.4"], "perspective=1.4; expected below twice patch_ratio"),
        ("kp2d", ["jitter=0.1,0.2"], "jitter=0.1,0.2; expected brightness, contrast, saturation, hue, as 0.2,0.2,0"),
        ("r2d2", ["jitter=0.1"], "jitter=0.1; expected brightness, contrast, saturation, hue"),
        ("r2d2", ["window=193"], "window=193; expected from 2 to the shorter side of a view"),
        ("r2d2", ["size=64x32", "window=33"], "window=33; expected from 2 to the shorter side of a view"),
        ("r2d2", ["bins=1"], "bins=1; expected at least 2"),
        ("r2d2", ["trials=0"], "trials=0; expected a number above 0"),
        ("r2d2", ["shorter=256"], "shorter=256.0; expected two sides in px, as 256,1024"),
        ("r2d2", ["source=both"], "flow=; expected the folder of the pairs with flow"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, changes, message):
    with pytest.raises(UsageError) as caught:
        RECIPES[name].override(changes)
    assert str(caught.value).startswith(f"recipe: {message}")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("wren", "descriptor_loss=triplet", "unknown descriptor_loss 'triplet'; known: dual-softmax, sparse, dense"),
        ("kp2d", "descriptor_loss=dense", "unknown descriptor_loss 'dense'; known: triplet, dual-softmax"),
        ("magicpoint", "corner_labels=trusted", "unknown corner_labels 'trusted'; known: soft, drawn"),
    ],
)
def test_a_word_of_another_method_is_refused(name, change, message):
    with pytest.raises(UsageError) as caught:
        RECIPES[name].override([change])
    assert str(caught.value) == message


def test_the_rate_warms_up_and_falls_to_zero():
    recipe = RECIPES["wren"].override(["lr=1", "warmup=4", "steps=14"])
    rates = [loop._rate(recipe, step) for step in range(14)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert rates[9] == pytest.approx(0.5)  # half of the cosine
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.03
    stepped = recipe.override(["schedule=step", "decay=0.1", "decay_steps=6,8"])
    assert [loop._rate(stepped, step) for step in (0, 4, 5, 6, 7, 8, 13)] == pytest.approx(
        [0.25, 1, 1, *[0.1] * 2, *[0.01] * 2]
    )
    assert loop._rate(recipe.override(["schedule=constant"]), 13) == 1


# --- views


def test_points_move_as_everywhere_else_in_lf():
    homography = random_views.sample(dice(3), (64, 64), (96, 96), RELATION)
    points = torch.rand(3, 10, 2, dtype=torch.float64) * 63
    for moved, own, matrix in zip(random_views.warp_points(points, homography), points, homography, strict=True):
        np.testing.assert_allclose(moved, geometry.warp_points(own.numpy(), matrix.numpy()), atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_four_points_determine_a_homography(seed):
    rng = np.random.default_rng(seed)
    source = geometry.corners((64, 64))[None] + np.zeros((2, 1, 1))
    target = source + rng.uniform(-12, 12, (2, 4, 2))
    found = random_views.four_point(torch.from_numpy(source), torch.from_numpy(target))
    np.testing.assert_allclose(random_views.warp_points(torch.from_numpy(source), found), target, atol=1e-9)
    for own, a, b in zip(found, source, target, strict=True):
        np.testing.assert_allclose(own, geometry.four_point(a, b), atol=1e-9)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_sample_has_the_scale_it_is_asked_for(factor):
    still = random_views.Spread(scale=(factor, factor), rotation=0, tilt=0, shift=0)
    (homography,) = random_views.sample(dice(), (65, 81), (129, 161), still)
    corners = geometry.warp_points(geometry.corners((65, 81)), homography.numpy())
    np.testing.assert_allclose(corners.mean(0), [80, 64], atol=1e-4)  # the centre of the target
    np.testing.assert_allclose(np.ptp(corners, axis=0), [80 * factor, 64 * factor], rtol=1e-5)


def test_samples_follow_their_generator_and_stay_in_bounds():
    first, again, other = (random_views.sample(dice(50, s), (64, 64), (96, 96), PLACE) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    centres = random_views.warp_points(torch.full((50, 1, 2), 31.5, dtype=torch.float64), first)[:, 0]
    # tilted corners move the middle of the view a little beyond the square of `shift`
    assert float((centres - 47.5).abs().max()) < 96 * PLACE.shift / 2 + 64 * 1.6 * PLACE.tilt
    assert (torch.linalg.det(first) > 0).all()  # never mirrored


def dot(x, y, side=96):
    """Return an image (1, 1, side, side), black except for a soft dot."""
    image = np.zeros((side, side), np.float32)
    image[y, x] = 1
    return torch.from_numpy(cv2.GaussianBlur(image, (0, 0), 2)[None, None])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dot_lands_where_the_homography_says(seed):
    mild = random_views.Spread(scale=(0.9, 1.1), rotation=20, tilt=0.02, shift=0.05)
    homography = random_views.sample(dice(1, seed), (64, 64), (96, 96), mild)
    expected = geometry.warp_points(np.array([[50, 44]]), homography[0].inverse().numpy())[0]
    view, inside = random_views.render(dot(50, 44), homography, (64, 64))
    mass = view[0, 0].numpy() / view.sum().item()
    y, x = np.mgrid[:64, :64]
    np.testing.assert_allclose([(mass * x).sum(), (mass * y).sum()], expected, atol=0.05)
    assert view.shape == (1, 1, 64, 64)
    at = geometry.warp_points(np.stack([x, y], -1).reshape(-1, 2), homography[0].numpy())
    seen = geometry.inside(at, (96, 96)).reshape(64, 64)
    assert (inside[0].numpy() == seen).mean() > 0.999  # float32 on the border


def test_a_shift_by_whole_pixels_copies_them():
    picture = torch.rand(1, 1, 96, 96)
    shift = torch.tensor([[[1.0, 0, 7], [0, 1, 3], [0, 0, 1]]])
    view, inside = random_views.render(picture, shift, (64, 48))
    assert torch.allclose(view[0, 0], picture[0, 0, 3:67, 7:55], atol=1e-4)
    assert inside.all()


def test_photometric_changes_are_8_bit_pictures_of_the_generator():
    view = torch.rand(4, 1, 32, 32)
    first, again, other = (random_views.photometric(view, dice(4, s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    levels = first * 255
    assert torch.equal(levels, levels.round())
    assert 0 <= first.min() < first.max() <= 1


def test_several_processes_throw_what_one_would():
    whole, parts = dice(4), [dice(4, own=slice(i, i + 2)) for i in (0, 2)]
    assert [part.pairs for part in parts] == [2, 2]
    for draw in (
        lambda d: d.uniform(2, 3, 5),
        lambda d: d.normal(5),
        lambda d: d.integers(9, 5),
        lambda d: d.noise(2, 3),
        lambda d: d.rand(2, 3),
        lambda d: random_views.sample(d, (64, 64), (96, 96), RELATION),
    ):
        assert torch.equal(draw(whole), torch.cat([draw(part) for part in parts]))


# --- pictures


@of_squares
def test_drawn_pictures_repeat(recipe, tmp_path):
    seen = []
    drawn = pictures.collect(recipe, [recipe.data], tmp_path / "a", lambda *report: seen.append(report))
    assert (drawn.squares.shape[:3], drawn.squares.dtype) == ((4, 96, 96), np.uint8)
    again = pictures.collect(recipe, [recipe.data], tmp_path / "b", silent)
    assert np.array_equal(drawn.squares, again.squares)
    assert drawn.crops == again.crops
    other = pictures.collect(recipe.override(["seed=2"]), [recipe.data], tmp_path / "c", silent)
    assert not np.array_equal(drawn.squares, other.squares)
    assert all(done <= total == 4 for done, total, _ in seen)


@of_squares
def test_pictures_are_collected_once(recipe, tmp_path, monkeypatch):
    first = pictures.collect(recipe, [recipe.data], tmp_path, silent)
    monkeypatch.setattr(pictures, "_squares", None)
    again = pictures.collect(recipe, [recipe.data], tmp_path, silent)
    assert np.array_equal(first.squares, again.squares)
    taken = again.on(CPU).take(torch.tensor([2, 0]))
    assert (taken.shape[-2:], taken.dtype, len(again)) == ((96, 96), torch.float32, 4)
    np.testing.assert_array_equal(taken[1, 0] * 255, first.squares[0, ..., 0])


def test_pictures_of_other_code_stay_only_where_training_has_begun(tmp_path, monkeypatch):
    recipe = small(RECIPES[SMALLEST["magicpoint"]])
    first = pictures.collect(recipe, [recipe.data], tmp_path, silent)
    monkeypatch.setattr(fingerprint, "fingerprint", lambda *names: "of other code")
    drawn, black = [], [(crop, np.zeros((96, 96, 3), np.uint8)) for crop in first.crops]
    monkeypatch.setattr(pictures, "_squares", lambda *words: drawn.append(1) or black)
    kept = pictures.collect(recipe, [recipe.data], tmp_path, silent, begun=True)
    assert np.array_equal(kept.squares, first.squares)
    assert not drawn
    assert not pictures.collect(recipe, [recipe.data], tmp_path, silent).squares.any()
    assert drawn == [1]


def test_a_run_that_an_earlier_version_began_goes_on(tmp_path, monkeypatch):
    """Earlier versions stored only the settings in their file, and those of images under another name."""
    recipe = small(RECIPES[SMALLEST["magicpoint"]])
    first = pictures.collect(recipe, [recipe.data], tmp_path, silent)
    index = tmp_path / pictures.INDEX
    crops, names = json.loads(index.read_text())["crops"], ("pictures", "picture_size", "seed", "model")
    settings = {"data": [recipe.data], **{name: getattr(recipe, name) for name in names}}
    index.write_text(json.dumps({"settings": settings, "versions": {"code of lf": "earlier"}, "crops": crops}))
    (tmp_path / state.SETTINGS).write_text(json.dumps(state.identity(recipe, [recipe.data])))
    monkeypatch.setattr(pictures, "_squares", None)
    kept = pictures.collect(recipe, [recipe.data], tmp_path, silent, begun=True)
    assert np.array_equal(kept.squares, first.squares)
    assert kept.crops == first.crops
    assert state.read(recipe, [recipe.data], tmp_path, CPU) is None
    with pytest.raises(UsageError, match=r"was made with other settings \(recipe\.lr: was "):
        state.read(recipe.override(["lr=1"]), [recipe.data], tmp_path, CPU)


@of_squares
@pytest.mark.parametrize("name", [pictures.FILE, pictures.INDEX])
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"{}", lambda b: b"[1]"])
def test_damaged_pictures_are_collected_again(recipe, tmp_path, name, damage):
    first = np.array(pictures.collect(recipe, [recipe.data], tmp_path, silent).squares)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    assert np.array_equal(pictures.collect(recipe, [recipe.data], tmp_path, silent).squares, first)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (["procedural"], [("procedural", 10)]),
        (["procedural:7", "a"], [("procedural", 7), ("a", 3)]),
        (["a", "b", "c"], [("a", 4), ("b", 3), ("c", 3)]),
        (["a:4", "b:6"], [("a", 4), ("b", 6)]),
        (["C:photos"], [("C:photos", 10)]),
        (["C:²"], [("C:²", 10)]),
        (["a:12"], None),
        (["a:4"], None),
        (["a:10", "b"], None),
    ],
)
def test_sources_share_the_pictures(data, expected):
    if expected:
        assert pictures.shares(data, 10) == expected
    else:
        with pytest.raises(UsageError, match="counts do not add up to the recipe's pictures=10"):
            pictures.shares(data, 10)


@pytest.mark.parametrize("total", [0, 10])
@pytest.mark.parametrize("data", [["a:0"], ["a:00", "b"], ["a", "b:0"]])
def test_a_source_of_no_pictures_is_refused(data, total):
    with pytest.raises(
        UsageError, match=r"^`photos=[ab]:00?`: expected a count above 0; leave the source out, or leave"
    ):
        pictures.shares(data, total)


@pytest.mark.parametrize(
    ("data", "changes", "expected"),
    [
        (["procedural"], [], 40),
        (["procedural"], ["steps=3"], 6),
        (["procedural"], ["steps=20"], 40),
        (["a", "b", "c"], ["steps=1"], 3),
        (["procedural:40"], ["steps=3"], 40),
        (["procedural:10", "a"], ["steps=3"], 40),
        (["a"], ["steps=3", "pictures=0"], 0),
        (["procedural"], ["steps=3", "init=wren", "weight_bits=8"], 32),
    ],
)
def test_a_short_run_needs_few_pictures(data, changes, expected):
    recipe = small(RECIPES["wren"]).override(["pictures=40", "steps=1000", "batch=2", *changes])
    assert pictures.enough(recipe, data) == expected


def test_a_short_run_collects_few_pictures_and_finds_them_again(tmp_path):
    recipe = small(RECIPES["wren"]).override(["pictures=40", "steps=3", "batch=2"])
    seen = []
    first = pictures.collect(recipe, ["procedural"], tmp_path, lambda *report: seen.append(report))
    assert len(first) == seen[-1][0] == seen[-1][1] == 6
    seen.clear()
    again = pictures.collect(recipe, ["procedural"], tmp_path, lambda *report: seen.append(report))
    assert np.array_equal(first.squares, again.squares)
    assert not seen
    whole = pictures.collect(recipe.override(["steps=1000"]), ["procedural"], tmp_path / "whole", silent)
    assert np.array_equal(whole.squares[:6], first.squares)


def test_a_run_that_began_with_more_pictures_keeps_them(tmp_path):
    recipe = small(RECIPES["wren"]).override(["pictures=12", "steps=1000", "batch=2"])
    before = pictures.collect(recipe, ["procedural"], tmp_path, silent)  # as earlier code did whatever the steps
    short = recipe.override(["steps=3"])
    assert len(pictures.collect(short, ["procedural"], tmp_path, silent, begun=True)) == len(before) == 12
    assert len(pictures.collect(short, ["procedural"], tmp_path, silent)) == 6


@of_squares
def test_every_photo_once(recipe, tmp_path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((120, 200, 3), 20 * index, np.uint8))
    every = recipe.override(["pictures=0"])
    found = pictures.collect(every, [str(tmp_path)], tmp_path / "out", silent)
    assert [crop.name for crop in found.crops] == ["0.png", "1.png", "2.png"]
    assert len(pictures.collect(every, [str(tmp_path), "procedural:2"], tmp_path / "both", silent)) == 5
    with pytest.raises(UsageError, match="give it `photos=DIR`, or say how many: procedural:1500"):
        pictures.collect(every, ["procedural"], tmp_path / "none", silent)


@of_squares
def test_many_photos_give_their_centres_and_few_give_random_squares(recipe, tmp_path):
    for index in range(6):
        photo = np.full((120, 200, 3), 20 * index, np.uint8)
        photo[:, :40] = photo[:, 160:] = 255  # outside the central square
        cv2.imwrite(str(tmp_path / f"{index}.png"), photo)
    many = pictures.collect(recipe, [str(tmp_path)], tmp_path / "many", silent)
    assert [crop[1:4] for crop in many.crops] == [(40, 0, 120)] * 4
    assert len({crop.name for crop in many.crops}) == 4
    assert many.squares.max() < 255
    few = pictures.collect(recipe.override(["pictures=20", "steps=10"]), [str(tmp_path)], tmp_path / "few", silent)
    assert len(few) == len(set(few.crops)) == 20
    for name, left, top, side, sha256 in few.crops:
        assert sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert left >= 0
        assert top >= 0
        assert left + side <= 200
        assert 60 <= side <= 120 - top


@of_squares
def test_a_broken_photo_is_counted_and_left_out(recipe, tmp_path):
    for name, size in (("a.png", (120, 200)), ("b.png", (200, 120)), ("small.png", (1, 1))):
        cv2.imwrite(str(tmp_path / name), np.full((*size, 3), 77, np.uint8))
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    found = pictures.collect(recipe, [str(tmp_path)], tmp_path / "out", silent)
    assert (found.squares.shape[:3], set(found.squares.ravel().tolist())) == ((2, 96, 96), {77})
    assert len(found) == 2


@of_squares
def test_no_usable_photo_is_an_error(recipe, tmp_path):
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="none of its 1 images could be read; expected a folder of photos"):
        run(recipe, tmp_path / "out", [str(tmp_path)])
    with pytest.raises(BadInput, match="nowhere: no such folder; expected a folder of images"):
        run(recipe, tmp_path / "out", [str(tmp_path / "nowhere")])


# --- the loop


def test_a_run_makes_weights_that_say_where_they_are_from(recipe, tmp_path):
    made = run(recipe, tmp_path)
    assert made == model_file.load(made.path) == resolve(made.path)
    (step,) = made.card.made
    assert step.command == "train"
    assert step.options == json.loads(json.dumps({**dataclasses.asdict(recipe), "data": [recipe.data]}))
    assert made.card.weights["licence"] == "Apache-2.0"
    maps = open_session(made, "torch").run(np.zeros((1, made.card.input[0], 64, 64), np.float32))
    assert {name: value.shape[1] for name, value in maps.items()} == {n: c for n, (c, _) in made.card.outputs.items()}
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [6]
    stamp = made.path.read_bytes()
    assert run(recipe, tmp_path).path.read_bytes() == stamp  # finished: nothing is trained again


def test_the_loss_goes_down(recipe, tmp_path):
    if recipe.method.startswith("posfeat_"):
        pytest.skip("64 px have too few cells, and the value of a policy gradient says nothing: see test_train_posfeat")
    longer = recipe.override(
        ["steps=40", "bf16=False", "warmup=5", "lr=2e-3", *(["relabel="] if "relabel" in recipe.settings else [])]
    )
    trained = checkpoint.network(run(longer, tmp_path)).train()
    torch.manual_seed(longer.seed)
    fresh = checkpoint.build(longer.model).train()
    method = method_of(longer, tmp_path)
    before, after = (
        sum(float(method.loss(network, random_views.Dice(longer.seed, step, 2, CPU))[0].detach()) for step in range(3))
        for network in (fresh, trained)
    )
    assert after < 0.9 * before


def method_of(recipe, out):
    kind = loop.method_of(recipe)
    gather = getattr(kind, "collect", pictures.collect)
    return kind(recipe, gather(recipe, [recipe.data], out, silent).on(CPU), CPU)


def test_a_run_keeps_the_running_mean_of_its_weights(recipe, tmp_path):
    averaged = run(recipe.override(["ema=0.9"]), tmp_path / "a")
    last = run(recipe.override(["ema=0"]), tmp_path / "b")
    state = torch.load(tmp_path / "a" / loop.CHECKPOINT, weights_only=True)
    assert checkpoint.load(averaged.path)[1].keys() == checkpoint.load(last.path)[1].keys()
    shipped, current = checkpoint.load(averaged.path)[1], state["network"]
    differ = [
        name for name, value in shipped.items() if value.is_floating_point() and not torch.equal(value, current[name])
    ]
    assert differ
    for name, value in checkpoint.load(last.path)[1].items():
        assert torch.equal(value, current[name])  # the mean only watches


def test_fine_tuning_starts_from_a_checkpoint(recipe, tmp_path):
    first = run(recipe, tmp_path / "a")
    still = [*SMALL_STILL, f"init={first.path}"]
    tuned = run(recipe.override(still), tmp_path / "b")
    for name, value in checkpoint.load(tuned.path)[1].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, checkpoint.load(first.path)[1][name], atol=1e-6, rtol=1e-6)
    assert tuned.card.made[-1].parent == first.card.weights["sha256"]
    other = next(r for r in RECIPES.values() if r.model != recipe.model)
    with pytest.raises(UsageError, match=f"init=.+ is a {recipe.model}; this recipe trains {other.model}"):
        run(small(other).override([f"init={first.path}"]), tmp_path / "c")


def test_tuned_weights_keep_the_licence_they_came_with(recipe, tmp_path):
    card = Card(recipe.model, {"origin": "x", "sha256": "0" * 64, "licence": "CC BY-NC-SA 3.0"}, (1, None, None))
    parent = checkpoint.save(tmp_path / "x.safetensors", checkpoint.build(recipe.model), card)
    tuned = run(recipe.override([*SMALL_STILL, f"init={parent.path}"]), tmp_path / "b")
    assert tuned.card.weights["licence"] == "CC BY-NC-SA 3.0"
    assert tuned.card.made[-1].parent == "0" * 64


SMALL_STILL = ["steps=1", "lr=1e-12", "weight_decay=0"]


@pytest.mark.parametrize("stop", [3, 5])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_resumes_to_the_last_bit(recipe, tmp_path, stop, error):
    def interrupt(done, total, text):
        if (done, total) == (stop, recipe.steps):
            raise error

    with pytest.raises(error):
        run(recipe, tmp_path / "a", progress=interrupt, every=2)
    assert {p.name for p in (tmp_path / "a").iterdir()} == LEFT
    steps = []
    resumed = run(recipe, tmp_path / "a", progress=lambda done, total, text: steps.append((done, total)))
    assert [done for done, total in steps if total == recipe.steps] == list(range(stop // 2 * 2 + 1, recipe.steps + 1))
    assert resumed.path.read_bytes() == run(recipe, tmp_path / "b").path.read_bytes()


def test_a_run_that_goes_on_with_other_code_says_so(tmp_path, monkeypatch, capsys):
    recipe = small(RECIPES[SMALLEST["magicpoint"]])

    def interrupt(done, total, text):
        if (done, total) == (3, recipe.steps):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path, progress=interrupt, every=2)
    squares = (tmp_path / pictures.FILE).read_bytes()
    began = fingerprint.fingerprint("lf.train.loop")
    monkeypatch.setattr(fingerprint, "fingerprint", lambda *names: "of other code")
    made = run(recipe, tmp_path)
    assert capsys.readouterr().err == (
        f"warning: {tmp_path}: this run began with other code (code of lf: was {began}, now of other code), "
        "and goes on with this; its result is not that of a run in one go\n"
    )
    assert made.card.made[-1].extra["began_with"]["code of lf"] == began
    assert (tmp_path / pictures.FILE).read_bytes() == squares
    run(recipe, tmp_path)  # it is done: no step by other code
    assert capsys.readouterr().err == ""


def test_a_run_by_one_code_says_nothing_of_it(tmp_path, capsys):
    made = run(small(RECIPES[SMALLEST["magicpoint"]]), tmp_path)
    assert "began_with" not in made.card.made[-1].extra
    assert capsys.readouterr().err == ""


def test_another_recipe_in_the_same_folder_is_refused(recipe, tmp_path, monkeypatch):
    made = run(recipe, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(loop, "collect", None)  # before an image is drawn
    with pytest.raises(
        UsageError,
        match=r": was made with other settings \(recipe\.lr: was [\d.]+, now 1\.0\); choose another `out`",
    ):
        run(recipe.override(["lr=1"]), tmp_path)
    with pytest.raises(UsageError, match=r"was made with other settings \(data\.0: was \w+, now "):
        run(recipe, tmp_path, data=[str(tmp_path)])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert made.path.name in before


def test_a_run_without_a_checkpoint_yet_keeps_its_folder(recipe, tmp_path):
    def interrupt(done, total, text):
        if (done, total) == (1, recipe.steps):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path, progress=interrupt)
    assert {p.name for p in tmp_path.iterdir()} == LEFT - {"checkpoint.pt", "log.jsonl"}
    with pytest.raises(
        UsageError,
        match=r": was made with other settings \(recipe\.lr: was [\d.]+, now 1\.0\); choose another `out`",
    ):
        run(recipe.override(["lr=1"]), tmp_path)
    assert run(recipe, tmp_path).path.exists()


def test_a_run_that_is_refused_leaves_its_folder_to_others(recipe, tmp_path, monkeypatch):
    def broken(*arguments):
        raise BadInput("no labels")

    module = importlib.import_module(f"lf.train.methods.{recipe.method}")
    broken.collect = getattr(module.Method, "collect", pictures.collect)
    monkeypatch.setattr(module, "Method", broken)
    with pytest.raises(BadInput, match="no labels"):
        run(recipe, tmp_path)
    monkeypatch.undo()
    assert {p.name for p in tmp_path.iterdir()} == {"pictures.npy", "pictures.json"}
    assert run(recipe.override(["lr=1e-4"]), tmp_path).path.exists()


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:1000], lambda b: b"PK" + b[2:900], lambda b: b"hello"])
def test_a_damaged_checkpoint_is_named(recipe, tmp_path, damage):
    path = run(recipe.override(["steps=1"]), tmp_path).path.with_name(loop.CHECKPOINT)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        BadInput, match=r"checkpoint\.pt: not a checkpoint of lf train, or a damaged one; remove it to s"
    ):
        run(recipe, tmp_path)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(recipe, tmp_path, monkeypatch, where):
    Method = importlib.import_module(f"lf.train.methods.{recipe.method}").Method
    honest, turn = Method.loss, itertools.count()

    def broken(self, network, dice):
        loss, parts = honest(self, network, dice)
        if next(turn) == 3:
            weight = next(each for each in network.parameters() if each.requires_grad)
            loss = loss * math.nan if where == "loss" else loss + 0 * weight.sum().mul(0).sqrt()
        return loss, parts

    monkeypatch.setattr(Method, "loss", broken)
    with pytest.raises(LfError, match=r"not finite at step 3; the last good state is .+checkpoint\.pt; lower lr"):
        run(recipe, tmp_path, every=2)
    assert {p.name for p in tmp_path.iterdir()} == LEFT
    state = torch.load(tmp_path / loop.CHECKPOINT, weights_only=True)
    assert state["step"] == 2
    assert all(value.isfinite().all() for value in state["network"].values())


def test_a_folder_that_cannot_be_written_is_found_before_the_work(recipe, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(loop, "collect", None)
    with pytest.raises(UsageError, match=r"recipe\.json: cannot be written \(.+\); choose another place"):
        run(recipe, tmp_path / "file" / "out")


def test_devices_are_checked_before_anything_else(recipe, tmp_path):
    with pytest.raises(UsageError, match="unknown device 'gpu'; did you mean 'cpu'"):
        train(recipe, ["procedural"], tmp_path / "out", device="gpu", threads=1, progress=silent)
    if not torch.cuda.is_available():
        with pytest.raises(
            Unavailable, match="device cuda was requested, but this torch finds no GPU; type: `device=cpu`"
        ):
            train(recipe, ["procedural"], tmp_path / "out", device="cuda", threads=1, progress=silent)
    assert not (tmp_path / "out").exists()
