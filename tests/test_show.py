"""Sheets of data: what is drawn lies where the data says, and `lf data show` says what it cannot draw."""

from __future__ import annotations

import importlib
import os
import sys

import cv2
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from lf.cli import data_show
from lf.core import BadInput, UsageError
from lf.data import contact_sheets, homography, images
from lf.studies import data_pictures
from lf.train import RECIPES
from lf.train.sample import pairs, single

SIZE = (60, 80)
SHIFT = homography.translation_matrix(20, -10)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def noise(size=SIZE, seed=0):
    return cv2.blur(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8), (5, 5))


def centre(canvas, colour, off=12):
    """Mean place (x, y) of the pixels that are nearly of one colour."""
    y, x = np.nonzero((abs(canvas.astype(int) - colour) < off).all(2))
    assert len(x), "nothing of that colour"
    return np.array([x.mean(), y.mean()])


def body(panel, width, scores=(1.0, 1.0)):
    """A panel as it is drawn, without its caption."""
    canvas = contact_sheets._drawn(panel, width, scores)
    return canvas[len(canvas) - round(panel.image.shape[0] * width / panel.image.shape[1]) :]


# --- sheets


def test_the_flow_of_a_homography_is_where_it_sends_each_pixel():
    matrix = np.array([[1.1, 0.1, -5], [-0.05, 0.9, 4], [1e-3, 0, 1]])
    found = contact_sheets.flow(matrix, SIZE, (50, 70))
    for x, y in ((30, 20), (10, 40), (60, 30)):
        np.testing.assert_allclose(found[y, x], homography.warp_points(np.array([[x, y]]), matrix)[0], atol=1e-4)
    inside = homography.inside(found[~np.isnan(found[..., 0])], (50, 70))
    assert inside.all()
    assert 0 < np.isnan(found[..., 0]).mean() < 1


def test_the_flow_knows_what_the_second_image_does_not_show():
    found = contact_sheets.flow(SHIFT, SIZE, SIZE)
    seen = ~np.isnan(found[..., 0])
    assert seen[10:, :60].all()
    assert not seen[:10].any()
    assert not seen[:, 60:].any()


def test_what_lies_behind_the_line_at_infinity_is_not_seen():
    folded = np.array([[1.0, 0, 0], [0, 1, 0], [-0.02, 0, 1]])  # x = 50 goes to infinity, beyond it all comes back
    folded = homography.translation_matrix(79, 59) @ folded
    assert np.isfinite(homography.warp_points(np.array([[79, 59]]), folded)).all()
    assert np.isnan(contact_sheets.flow(folded, SIZE, (400, 400))[:, 51:]).all()


@pytest.mark.parametrize("width", [80, 240, 320])
def test_a_ring_lies_round_its_point(width):
    at = np.array([[30.0, 20.0, 0.5], [60.0, 40.0, 0.0]])
    canvas = body(contact_sheets.Panel(np.zeros(SIZE, np.uint8), "", labels=at), width)
    factor = width / 80
    np.testing.assert_allclose(centre(canvas, contact_sheets.HIGH, 60), (at[0, :2] + 0.5) * factor - 0.5, atol=0.5)


def test_rings_go_from_orange_to_sky_blue_by_score():
    shades = contact_sheets.colours(np.array([0.01, 0.1, 1.0]), 0.01, 1.0)
    np.testing.assert_allclose(shades, [contact_sheets.LOW, contact_sheets.MIDDLE, contact_sheets.HIGH])
    np.testing.assert_allclose(contact_sheets.colours(np.ones(2), 1.0, 1.0), [contact_sheets.HIGH] * 2)


def test_a_number_marks_the_same_point_in_both_images():
    first = np.zeros((*SIZE, 3), np.uint8)
    here, there, _ = contact_sheets.pair(first, first, contact_sheets.flow(SHIFT, SIZE, SIZE), None, "p")
    shown = ~np.isnan(here.places[:, 0])
    np.testing.assert_allclose(here.places[shown] + (20, -10), there.places[shown])
    assert np.isnan(there.places[~shown]).all()
    assert 0 < shown.sum() < contact_sheets.COLUMNS * contact_sheets.ROWS
    number = int(np.flatnonzero(shown)[len(shown) // 4])
    only = np.where(np.arange(len(shown))[:, None] == number, there.places, np.nan)
    canvas = body(contact_sheets.Panel(first, "", places=only), 400)
    disc = centre(canvas, contact_sheets.NUMBERED[number % len(contact_sheets.NUMBERED)])
    np.testing.assert_allclose(disc, (there.places[number] + 0.5) * 5 - 0.5, atol=0.5)


def test_the_checkerboard_of_a_true_pair_is_the_first_image_again():
    second = noise()
    first = homography.warp_image(second, np.linalg.inv(SHIFT), SIZE)
    known = contact_sheets.flow(SHIFT, SIZE, SIZE)
    seen = ~np.isnan(known[..., 0])
    right = contact_sheets.checkerboard(first, second, known)
    np.testing.assert_array_equal(right[seen], first[seen])
    wrong = contact_sheets.checkerboard(first, second, np.where(seen[..., None], known - (3, 0), np.nan))
    assert abs(wrong[seen].astype(int) - first[seen]).mean() > 5
    assert right[~seen].max() <= 255 // 3


def test_labels_add_their_own_panels():
    known = contact_sheets.flow(np.eye(3), SIZE, SIZE)
    labels = [np.array([[1.0, 2, 1], [3, 4, 0]]), np.zeros((0, 3))]
    panels = contact_sheets.pair(noise(), noise(), known, labels, "p")
    assert [panel.caption for panel in panels[:2]] == ["p first, 1 labels", "p second, 0 labels"]
    assert panels[-1].caption == "p both, 100% of first is in second"


@pytest.mark.parametrize("columns", [1, 3, 5])
@pytest.mark.parametrize("size", [(16, 16), (60, 80), (900, 100), (100, 900)])
def test_a_sheet_is_as_wide_as_a_page_and_cuts_nothing_off(size, columns):
    labels = np.array([[0.0, 0, 0.1], [size[1] - 1, size[0] - 1, 1]])
    panels = [contact_sheets.Panel(noise(size), "a caption " * 9, labels, labels[:, :2])] * 4
    page = contact_sheets.sheet("a title " * 40, panels, columns, "a note " * 60)
    assert page.dtype == np.uint8
    assert page.shape[1:] == (contact_sheets.WIDTH + 2 * contact_sheets.MARGIN, 3)
    assert (page[:, [0, -1]] == 255).all()
    assert (page[[0, -1]] == 255).all()


# --- samples


def test_a_pair_keeps_its_views_apart():
    both = torch.stack([torch.full((1, 6, 8), level) for level in (0.0, 0.2, 0.8, 1.0)])
    shift = torch.tensor(homography.translation_matrix(2, 0)).expand(2, 3, 3)
    inside = torch.ones(4, 6, 8, dtype=torch.bool)
    inside[1, :, :3] = False
    made = pairs(both, homography=shift, inside=inside)
    assert [[int(view[0, 0, 0]) for view in sample.views] for sample in made] == [[0, 204], [51, 255]]
    assert made[0].views[0].shape == (6, 8, 3)
    np.testing.assert_allclose(made[0].flow[4, 5], (7, 4))
    assert np.isnan(made[0].flow[4, 6]).all()
    assert np.isnan(made[1].flow[4, 2]).all()
    assert not np.isnan(made[0].flow[4, 2]).any()


def test_a_flow_is_taken_as_it_is():
    aflow = torch.rand(1, 2, 6, 8)
    aflow[0, :, 1, 2] = torch.nan
    made = pairs(torch.rand(2, 3, 6, 8), torch.rand(2, 5, 3), aflow=aflow)
    np.testing.assert_array_equal(made[0].flow, aflow[0].permute(1, 2, 0))
    assert [len(found) for found in made[0].labels] == [5, 5]


def test_single_views_have_no_flow():
    made = single(torch.rand(3, 1, 6, 8), torch.rand(3, 4, 3))
    assert [(len(sample.views), sample.flow, len(sample.labels[0])) for sample in made] == [(1, None, 4)] * 3


SILENT = lambda done, total, text: None  # noqa: E731
METHODS = {recipe.method: name for name, recipe in reversed(RECIPES.items()) if recipe.data != "masks:"}
SHOWN = [m for m in METHODS if hasattr(importlib.import_module(f"lf.train.methods.{m}").Method, "sample")]


@pytest.mark.parametrize("method", SHOWN)
def test_what_a_method_shows_agrees_with_itself(method):
    """Labels that both views see lie where the flow says; so do images, though their colours changed."""
    recipe = RECIPES[METHODS[method]].override(["size=160", "picture_size=200", "seed=2"])
    made, _ = data_pictures._samples(METHODS[method], recipe, [recipe.data], 3, SILENT)
    assert len(made) == 3
    for sample in made:
        assert all(view.shape == (160, 160, 3) and view.dtype == np.uint8 for view in sample.views)
        if sample.flow is None:
            continue
        seen = ~np.isnan(sample.flow[..., 0])
        assert seen.any()
        back = contact_sheets.checkerboard(np.zeros_like(sample.views[0]), sample.views[1], sample.flow)
        y, x = np.mgrid[:160, :160] // (160 // contact_sheets.SQUARES)
        seen &= (x + y) % 2 == 1
        one, two = (cv2.blur(view, (3, 3))[seen].mean(1) for view in (sample.views[0], back))
        if min(one.std(), two.std()) > 10:
            assert np.corrcoef(one, two)[0, 1] > 0.5
        if sample.labels is not None:
            first, second = sample.labels
            near = (first[:, 2] > 0) & (second[:, 2] > 0) & (first[:, :2] >= 0).all(1) & (first[:, :2] <= 158).all(1)
            at = first[near, :2].round().astype(int)
            there = sample.flow[at[:, 1], at[:, 0]]
            known = ~np.isnan(there[:, 0])
            assert np.median(np.hypot(*(there - second[near, :2])[known].T)) < 1.5


# --- the command


@pytest.fixture
def lf(monkeypatch, tmp_path):
    """Run `lf data show ... -o out.png` in this process; errors are raised."""
    app = typer.Typer()
    app.command()(data_show.data_show)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        done = CliRunner().invoke(app, ["-o", "out.png", *map(str, arguments)])
        if isinstance(done.exception, UsageError | BadInput):
            raise done.exception
        assert done.exit_code == 0, done.output
        return cv2.imread(done.output.strip())

    return run


@pytest.mark.parametrize(
    "arguments", [("procedural:3", "--count", 2), ("shapes", "--count", 4), ("wren", "--set", "size=64", "--count", 1)]
)
def test_datasets_shapes_and_recipes_become_a_picture(lf, arguments):
    assert lf(*arguments).shape[1] == contact_sheets.WIDTH + 2 * contact_sheets.MARGIN


def test_labels_are_drawn_on_their_photos(lf, tmp_path):
    photos, labels = tmp_path / "photos", tmp_path / "labels"
    (photos / "sub").mkdir(parents=True)
    (labels / "sub").mkdir(parents=True)
    cv2.imwrite(str(photos / "sub" / "a.png"), np.zeros((60, 80, 3), np.uint8))
    (labels / "manifest.json").write_text("{}")
    points, digest = np.array([[40, 30, 0.5]], np.float32), images.picture(photos / "sub" / "a.png", "").digest
    np.savez(labels / "sub" / "a.png.npz", points=points, size=np.array([80, 60]), sha256=np.array(digest))
    page = lf(photos, "--labels", labels)[..., ::-1]
    scale = min((contact_sheets.WIDTH - 2 * contact_sheets.GAP) // 3 / 80, contact_sheets.MAGNIFIED)
    ring = centre(page, contact_sheets.HIGH, 60)
    assert ring[0] == pytest.approx(contact_sheets.MARGIN + 40.5 * scale - 0.5, abs=1)
    cv2.imwrite(str(photos / "sub" / "a.png"), np.ones((60, 80, 3), np.uint8))
    with pytest.raises(BadInput, match=r"labels/sub/a\.png\.npz: labels another photo of the name sub/a\.png"):
        lf(photos, "--labels", labels)
    (labels / "manifest.json").write_text("hello")
    with pytest.raises(BadInput, match=r"manifest\.json: not JSON .*; expected the manifest of lf label"):
        lf(photos, "--labels", labels)
    (labels / "manifest.json").write_text("{}")
    (photos / "sub" / "a.png").unlink()
    with pytest.raises(UsageError, match=r"holds none of the 1 photos that .*labels has labels of, such as sub/a\.png"):
        lf(photos, "--labels", labels)


def test_a_photo_whose_name_is_not_utf8_is_shown(lf, tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 80, 3), np.uint8))
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    assert lf(f"warps:{tmp_path}", "--count", 1) is not None


def test_errors_say_what_to_type(lf, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="unknown recipe, dataset or folder 'wrenn'; did you mean 'wren'"):
        lf("wrenn")
    with pytest.raises(UsageError, match="`photos` and `change` belong to a recipe, not to procedural"):
        lf("procedural", "--set", "size=64")
    with pytest.raises(UsageError, match="unknown recipe setting"):
        lf("wren", "--set", "sise=64")
    with pytest.raises(BadInput, match="no such folder"):
        lf("./nowhere")
    with pytest.raises(BadInput, match=r"holds no manifest\.json"):
        lf(tmp_path, "--labels", tmp_path)
    with pytest.raises(UsageError, match=r"a\.doc: cannot be written as an image"):
        lf("shapes", "-o", "a.doc")
    monkeypatch.delattr(sys.modules["lf.train.methods.superpoint"].Method, "sample")
    with pytest.raises(UsageError, match=r"superpoint cannot show what it sees; give .* see lf/train/sample\.py"):
        lf("wren")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("total", "count"), [(25, 4), (3, 9), (1, 4), (9, 1), (5, 5)])
def test_examples_are_spread_over_all(total, count):
    chosen = data_pictures._spread(total, count)
    assert len(chosen) == len(set(chosen)) == min(total, count)
    assert chosen[0] == 0
    assert count == 1 or chosen[-1] == total - 1


def test_a_sheet_goes_on_with_the_next_step_where_one_batch_is_not_enough():
    recipe = RECIPES["wren"].override(["size=64", "pictures=4", "picture_size=96", "batch=2"])
    made, count = data_pictures._samples("wren", recipe, ["procedural"], 3, SILENT)
    again, _ = data_pictures._samples("wren", recipe, ["procedural"], 1, SILENT)
    assert (len(made), count) == (3, 4)
    np.testing.assert_array_equal(made[0].views[0], again[0].views[0])
    assert not np.array_equal(made[0].views[0], made[2].views[0])  # the third is of the second step
