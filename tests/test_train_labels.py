"""Sources of labels of the joint training; every value of its settings selects a loss."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch

from lf.core import BadInput, files
from lf.data import images
from lf.models import checkpoint
from lf.train import CHOICES, RECIPES, label_sources, pictures
from lf.train.label_photos import MANIFEST
from lf.train.methods.superpoint import Method
from lf.train.views.random_views import Dice

CPU = torch.device("cpu")
SMALL = ["batch=2", "size=64", "pictures=3", "picture_size=96", "bf16=False", "points=32", "negatives=5"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def silent(done, total, text):
    pass


@pytest.fixture
def photos(tmp_path):
    """Three photos of 200 x 120 and a folder of labels: three points of each, the second outside the central square."""
    for name in ("a", "b", "c"):
        photo = tmp_path / f"{name}.png"
        cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 255, (120, 200, 3), np.uint8))
        points = np.array([[100, 60, 0.5], [10, 60, 0.9], [60, 30, 0.8]], np.float32)
        (tmp_path / "labels").mkdir(exist_ok=True)
        digest = np.array(images.picture(photo, name).digest)
        np.savez(tmp_path / "labels" / f"{name}.png.npz", points=points, size=np.array([200, 120]), sha256=digest)
    files.write_json(tmp_path / "labels" / MANIFEST, {})
    return tmp_path


def joint(photos, *changes):
    recipe = RECIPES["superpoint-small"].override([*SMALL, *changes])
    return recipe, pictures.collect(recipe, [str(photos)], photos / "out", silent).on(CPU)


def test_labels_of_photos_move_into_their_squares(photos):
    recipe, squares = joint(photos, f"labels={photos / 'labels'}")
    found = label_sources.first_labels(recipe, squares)
    assert found.shape == (3, label_sources.LABELS, 3)
    for crop, points in zip(squares.crops, found, strict=True):
        assert crop[1:4] == (40, 0, 120)
        # half-pixel exact: (x - left + 0.5) * 96 / 120 - 0.5, best first, as shares of the best that is inside
        np.testing.assert_allclose(points[:2], [[15.9, 23.9, 1.0], [47.9, 47.9, 0.625]], atol=1e-5)
        assert not points[2:].any()


def test_a_photo_without_labels_is_named(photos):
    (photos / "labels" / "b.png.npz").unlink()
    recipe, squares = joint(photos, f"labels={photos / 'labels'}")
    with pytest.raises(BadInput, match=r"labels: has no labels for b\.png; make them with: `label\(CHECK"):
        label_sources.first_labels(recipe, squares)


def test_labels_of_another_photo_of_the_same_name_are_refused(photos):
    (photos / "other").mkdir()
    cv2.imwrite(str(photos / "other" / "a.png"), np.zeros((120, 200, 3), np.uint8))
    recipe = RECIPES["superpoint-small"].override([*SMALL, "pictures=4", f"labels={photos / 'labels'}"])
    squares = pictures.collect(recipe, [f"{photos / 'other'}:1", str(photos)], photos / "out", silent)
    with pytest.raises(BadInput) as caught:
        label_sources.first_labels(recipe, squares)
    assert str(caught.value) == (
        f"{photos / 'labels' / 'a.png.npz'}: labels another photo of the name a.png, or one that has changed since; "
        "expected labels of all photos below one DIR; "
        f"type again: `label(CHECKPOINT, photos=DIR, out={photos / 'labels'})`"
    )


def test_corners_are_found_where_they_are():
    image = np.zeros((96, 96), np.float32)
    image[24:72, 24:72] = 1
    found = label_sources._strongest(label_sources._corners(image), label_sources.FAINTEST_CORNER)
    offset = found[:4, :2].numpy() - 47.5
    assert {tuple(side) for side in np.sign(offset)} == {(-1, -1), (-1, 1), (1, -1), (1, 1)}
    np.testing.assert_allclose(np.abs(offset), 24, atol=1.5)  # the structure tensor looks a little inside
    assert np.ptp(np.abs(offset)) < 0.1  # and by the same amount at every corner, to a tenth of a pixel


@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.3])
def test_the_top_of_a_parabola(shift):
    values = [np.array([5 - (x - shift) ** 2]) for x in (-1, 0, 1)]
    np.testing.assert_allclose(label_sources._top(*values), shift, atol=1e-12)


@pytest.mark.parametrize(
    ("descriptor", "detector", "corners", "pairs"),
    [
        *itertools.product(("dual-softmax", "sparse", "dense"), ("categorical",), ("trusted",), ("wide", "published")),
        *itertools.product(("sparse",), CHOICES["detector_loss"], CHOICES["corner_labels"], ("published",)),
    ],
)
def test_every_loss_has_a_gradient_for_both_heads(photos, descriptor, detector, corners, pairs):
    words = {
        "descriptor_loss": descriptor,
        "detector_loss": detector,
        "corner_labels": corners,
        "view_pairs": pairs,
    }
    recipe, squares = joint(photos, *(f"{key}={value}" for key, value in words.items()))
    method = Method(recipe, squares, CPU)
    network = checkpoint.build(recipe.model).train()
    loss, parts = method.loss(network, Dice(1, 0, 2, CPU))
    loss.backward()
    assert torch.isfinite(loss)
    assert {"detector", "descriptor"} <= set(parts)
    for head in (network.detector, network.descriptor):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
        assert any(p.grad.abs().sum() > 0 for p in head.parameters())
