"""Recipes, views with known answers, and the loop: it learns, it resumes to the last bit, it stops when it must."""

from __future__ import annotations

import dataclasses
import json
import math

import cv2
import numpy as np
import pytest
import torch

from lf import files
from lf.core import BadInput, LfError, Unavailable, UsageError
from lf.data import homography as geometry
from lf.models import checkpoint
from lf.models.resolve import resolve
from lf.runtimes import open_session
from lf.train import RECIPES, loop, pictures, views
from lf.train.loop import train
from lf.train.wren import Method

SMALL = ["steps=6", "batch=2", "size=64", "pictures=4", "picture_size=96", "points=32", "adaptations=2", "warmup=2"]
SEEDS = range(5)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request):
    """Every recipe, made small: a few steps on a few small pictures, the pictures labelled anew in the middle."""
    return RECIPES[request.param].override([*SMALL, "relabel=0.5"])


def silent(done, total, text):
    pass


def run(recipe, out, data="procedural", progress=silent):
    return train(recipe, data, out, device="cpu", threads=1, progress=progress)


# --- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_own_values(name):
    recipe = RECIPES[name]
    own = [f.name for f in dataclasses.fields(recipe) if f.name not in ("model", "method")]
    texts = {key: getattr(recipe, key) for key in own}
    texts["relabel"] = ",".join(map(str, recipe.relabel))
    assert recipe.override([f"{key}={value}" for key, value in texts.items()]) == recipe


def test_overrides_have_the_type_of_their_field():
    changed = RECIPES["wren"].override(["steps=7", "lr=1e-4", "bf16=False", "relabel=0.25,", "steps=8"])
    assert (changed.steps, changed.lr, changed.bf16, changed.relabel) == (8, 1e-4, False, (0.25,))
    assert RECIPES["wren"].override(["relabel="]).relabel == ()
    assert RECIPES["wren"].override([]) == RECIPES["wren"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz=3", "unknown recipe setting 'stepz'; did you mean 'steps'? known: steps, batch, size, "),
        ("method=loop", "unknown recipe setting 'method'; known: "),
        ("steps", "--set steps: expected steps=<int>, for example steps=12000"),
        ("steps=1.5", "--set steps=1.5: expected steps=<int>"),
        ("lr=fast", "--set lr=fast: expected lr=<float>, for example lr=0.002"),
        ("bf16=yes", "--set bf16=yes: expected bf16=<bool>, for example bf16=True"),
        ("relabel=a,b", "--set relabel=a,b: expected relabel=<tuple>"),
        ("steps=0", "recipe: steps=0; expected a number above 0"),
        ("batch=-2", "recipe: batch=-2; expected a number above 0"),
        ("lr=nan", "recipe: lr=nan; expected a number above 0"),
        ("lr=inf", "recipe: lr=inf; expected a number above 0"),
        ("seed=-1", "recipe: seed=-1; expected a number from 0"),
        ("size=100", "recipe: size=100; wren needs a multiple of 8"),
        ("picture_size=321", "recipe: picture_size=321; wren needs a multiple of 8"),
    ],
)
def test_a_wrong_override_is_named(text, message):
    with pytest.raises(UsageError) as caught:
        RECIPES["wren"].override([text])
    assert str(caught.value).startswith(message)


def test_the_rate_warms_up_and_falls_to_zero():
    recipe = RECIPES["wren"].override(["lr=1", "warmup=4", "steps=14"])
    rates = [loop._rate(recipe, step) for step in range(14)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert rates[9] == pytest.approx(0.5)  # half of the cosine
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.03


# --- views


def test_points_move_as_everywhere_else_in_lf():
    homography = views.sample(3, 64, 96, views.RELATION, torch.Generator().manual_seed(1))
    points = torch.rand(3, 10, 2, dtype=torch.float64) * 63
    for moved, own, matrix in zip(views.warp_points(points, homography), points, homography, strict=True):
        np.testing.assert_allclose(moved, geometry.warp_points(own.numpy(), matrix.numpy()), atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_four_points_determine_a_homography(seed):
    rng = np.random.default_rng(seed)
    source = geometry.corners((64, 64))[None] + np.zeros((2, 1, 1))
    target = source + rng.uniform(-12, 12, (2, 4, 2))
    found = views.four_point(torch.from_numpy(source), torch.from_numpy(target))
    np.testing.assert_allclose(views.warp_points(torch.from_numpy(source), found), target, atol=1e-9)
    for own, a, b in zip(found, source, target, strict=True):
        np.testing.assert_allclose(own, geometry.four_point(a, b), atol=1e-9)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_sample_has_the_scale_it_is_asked_for(factor):
    still = views.Spread(scale=(factor, factor), rotation=0, tilt=0, shift=0)
    (homography,) = views.sample(1, 65, 129, still, torch.Generator())
    corners = geometry.warp_points(geometry.corners((65, 65)), homography.numpy())
    np.testing.assert_allclose(corners.mean(0), [64, 64], atol=1e-4)  # the centre of the target
    np.testing.assert_allclose(np.ptp(corners, axis=0), [64 * factor] * 2, rtol=0.02)


def test_samples_follow_their_generator_and_stay_in_bounds():
    first, again, other = (views.sample(50, 64, 96, views.PLACE, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    centres = views.warp_points(torch.full((50, 1, 2), 31.5, dtype=torch.float64), first)[:, 0]
    # tilted corners move the middle of the view a little beyond the square of `shift`
    assert float((centres - 47.5).abs().max()) < 96 * views.PLACE.shift / 2 + 64 * 1.6 * views.PLACE.tilt
    assert (torch.linalg.det(first) > 0).all()  # never mirrored


def dot(x, y, side=96):
    """A picture (1, 1, side, side) that is black but for a soft dot."""
    image = np.zeros((side, side), np.float32)
    image[y, x] = 1
    return torch.from_numpy(cv2.GaussianBlur(image, (0, 0), 2)[None, None])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dot_lands_where_the_homography_says(seed):
    mild = views.Spread(scale=(0.9, 1.1), rotation=20, tilt=0.02, shift=0.05)
    homography = views.sample(1, 64, 96, mild, torch.Generator().manual_seed(seed))
    expected = geometry.warp_points(np.array([[50, 44]]), homography[0].inverse().numpy())[0]
    view, inside = views.render(dot(50, 44), homography, 64)
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
    view, inside = views.render(picture, shift, 64)
    assert torch.allclose(view[0, 0], picture[0, 0, 3:67, 7:71], atol=1e-4)
    assert inside.all()


def test_photometric_changes_are_8_bit_pictures_of_the_generator():
    view = torch.rand(4, 1, 32, 32)
    first, again, other = (views.photometric(view, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    levels = first * 255
    assert torch.equal(levels, levels.round())
    assert 0 <= first.min() < first.max() <= 1


# --- pictures


def test_drawn_pictures_repeat(recipe):
    seen = []
    drawn = pictures.collect(recipe, "procedural", lambda *report: seen.append(report))
    assert (drawn.shape, drawn.dtype) == ((4, 96, 96), np.uint8)
    assert np.array_equal(drawn, pictures.collect(recipe, "procedural", silent))
    assert not np.array_equal(drawn, pictures.collect(recipe.override(["seed=2"]), "procedural", silent))
    assert all(done <= total == 4 for done, total, _ in seen)


def test_a_broken_photo_is_counted_and_left_out(recipe, tmp_path):
    for name, size in (("a.png", (120, 200)), ("b.png", (200, 120)), ("small.png", (1, 1))):
        cv2.imwrite(str(tmp_path / name), np.full((*size, 3), 77, np.uint8))
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    seen = []
    found = pictures.collect(recipe, str(tmp_path), lambda *report: seen.append(report))
    assert (found.shape, set(found.ravel().tolist())) == ((2, 96, 96), {77})
    assert seen[-1] == (4, 4, "read 2 pictures, 2 unreadable")


def test_no_usable_photo_is_an_error(recipe, tmp_path):
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="none of its 1 images could be read; expected a folder of photos"):
        run(recipe, tmp_path / "out", str(tmp_path))
    with pytest.raises(BadInput, match="nowhere: no such folder; expected a folder of images"):
        run(recipe, tmp_path / "out", str(tmp_path / "nowhere"))


# --- the loop


def test_a_run_makes_weights_that_say_where_they_are_from(recipe, tmp_path):
    made = run(recipe, tmp_path)
    assert made == files.load(made.path) == resolve(made.path)
    (step,) = made.card.made
    assert step["command"] == "train"
    assert step["options"] == json.loads(json.dumps({**dataclasses.asdict(recipe), "data": "procedural"}))
    assert made.card.weights["licence"] == "Apache-2.0"
    maps = open_session(made, "torch").run(np.zeros((1, 1, 64, 64), np.float32))
    assert {name: value.shape[1] for name, value in maps.items()} == {n: c for n, (c, _) in made.card.outputs.items()}
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [6]
    stamp = made.path.read_bytes()
    assert run(recipe, tmp_path).path.read_bytes() == stamp  # finished: nothing is trained again


def test_the_loss_goes_down(recipe, tmp_path):
    longer = recipe.override(["steps=40", "bf16=False", "relabel="])
    method = Method(longer, pictures.collect(longer, "procedural", silent), torch.device("cpu"))
    torch.manual_seed(longer.seed)
    fresh = checkpoint.build(longer.model).train()
    trained = checkpoint.build(longer.model).train()
    trained.load_state_dict(checkpoint.load(run(longer, tmp_path).path)[1])
    before, after = (
        sum(float(method.loss(network, step)[0].detach()) for step in range(3)) for network in (fresh, trained)
    )
    assert after < 0.9 * before


@pytest.mark.parametrize("stop", [3, 5])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_resumes_to_the_last_bit(recipe, tmp_path, monkeypatch, stop, error):
    monkeypatch.setattr(loop, "EVERY", 2)

    def interrupt(done, total, text):
        if (done, total) == (stop, recipe.steps):
            raise error

    with pytest.raises(error):
        run(recipe, tmp_path / "a", progress=interrupt)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"checkpoint.pt", "log.jsonl", "recipe.json"}
    steps = []
    resumed = run(recipe, tmp_path / "a", progress=lambda done, total, text: steps.append((done, total)))
    assert [done for done, total in steps if total == recipe.steps] == list(range(stop // 2 * 2 + 1, recipe.steps + 1))
    assert resumed.path.read_bytes() == run(recipe, tmp_path / "b").path.read_bytes()


def test_another_recipe_in_the_same_folder_is_refused(recipe, tmp_path, monkeypatch):
    made = run(recipe, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(loop, "collect", None)  # before a picture is drawn
    with pytest.raises(UsageError, match=r"checkpoint\.pt: belongs to a run with other settings; choose another --out"):
        run(recipe.override(["lr=1"]), tmp_path)
    with pytest.raises(UsageError, match="other settings"):
        run(recipe, tmp_path, data=str(tmp_path))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert made.path.name in before


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
    honest = Method.loss

    def broken(self, network, step):
        loss, parts = honest(self, network, step)
        if step == 3:
            loss = loss * math.nan if where == "loss" else loss + 0 * next(network.parameters()).sum().mul(0).sqrt()
        return loss, parts

    monkeypatch.setattr(loop, "EVERY", 2)
    monkeypatch.setattr(Method, "loss", broken)
    with pytest.raises(LfError, match=r"not finite at step 3; the last good state is .+checkpoint\.pt; lower lr"):
        run(recipe, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.pt", "log.jsonl", "recipe.json"}
    state = torch.load(tmp_path / loop.CHECKPOINT, weights_only=True)
    assert state["step"] == 2
    assert all(value.isfinite().all() for value in state["network"].values())


def test_a_folder_that_cannot_be_written_is_found_before_the_work(recipe, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(loop, "collect", None)
    with pytest.raises(
        UsageError, match=r"recipe\.json: cannot be written \(.+\); choose another place with -o or --out"
    ):
        run(recipe, tmp_path / "file" / "out")


def test_devices_are_checked_before_anything_else(recipe, tmp_path):
    with pytest.raises(UsageError, match="unknown device 'gpu'; did you mean 'cpu'"):
        train(recipe, "procedural", tmp_path / "out", device="gpu", threads=1, progress=silent)
    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="device cuda was asked for, this torch sees no GPU; use --device cpu"):
            train(recipe, "procedural", tmp_path / "out", device="cuda", threads=1, progress=silent)
    assert not (tmp_path / "out").exists()
