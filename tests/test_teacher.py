"""A teacher of descriptors: what its similarities teach, what it may be, and what the card says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lf.core import Card, UsageError
from lf.data.drawn import procedural
from lf.models import MODELS, checkpoint
from lf.train import RECIPES, loop
from lf.train.label_sources import taught_labels
from lf.train.teacher import Teacher, similarity_loss

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A file of a network of 32 numbers per point with fresh weights."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "t32.safetensors"
    row = MODELS["edgepoint2-t32"]
    card = Card(
        "edgepoint2-t32",
        {"origin": "T32.pth", "sha256": "0" * 64, "licence": "MIT"},
        (1, None, None),
        outputs=dict(row.heads),
    )
    return checkpoint.save(path, checkpoint.build("edgepoint2-t32"), card)


def test_similarities_by_hand():
    taught = F.normalize(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]), dim=2)
    turned = torch.stack([taught[..., 1], -taught[..., 0], torch.zeros(1, 3)], 2)  # another basis, one number more
    valid = torch.ones(1, 3, dtype=torch.bool)
    assert float(similarity_loss(turned, taught, valid)) == pytest.approx(0, abs=1e-12)
    alike = torch.ones(1, 3, 1)
    assert float(similarity_loss(alike, taught, valid)) == pytest.approx((2 * 1 + 4 * (1 - 0.5**0.5) ** 2) / 9)
    assert float(similarity_loss(alike, taught, torch.zeros_like(valid))) == 0


def test_it_describes_as_the_network_does(teacher):
    from lf.extraction.extractor import Extractor

    picture = procedural.held_out_picture(0, (96, 96))[..., 1]
    extractor = Extractor(teacher, "torch", threshold=0.0)
    found = extractor(picture).top(40)
    views = torch.from_numpy(picture)[None, None] / 255
    made = Teacher(str(teacher.path), (96, 96), CPU).describe(views, torch.from_numpy(found.keypoints)[None])
    torch.testing.assert_close(made[0], torch.from_numpy(found.descriptors), atol=1e-4, rtol=0)


def test_its_keypoints_as_labels(teacher, tmp_path):
    from lf.extraction.extractor import Extractor
    from lf.train import pictures
    from lf.train.label_sources import BORDER, LABELS

    recipe = RECIPES["swift-tiny"].override(["picture_size=96", "pictures=2", "batch=2", "size=64"])
    some = pictures.collect(recipe, ["procedural"], tmp_path, lambda *_: None).on(CPU)
    labels = taught_labels(some, Teacher(str(teacher.path), (64, 64), CPU))
    assert labels.shape == (2, LABELS, 3)
    extractor = Extractor(teacher, "torch", refine="quadratic")
    for square, known in zip(some.squares, labels.numpy(), strict=True):
        found = extractor(square[..., 0]).top(LABELS)
        inside = ((found.keypoints >= BORDER) & (found.keypoints <= 95 - BORDER)).all(1)
        count = int((known[:, 2] > 0).sum())
        assert count == inside.sum() > 20
        assert known[:count, :2] == pytest.approx(found.keypoints[inside], abs=1e-3)
        assert known[0, 2] == 1
        assert (np.diff(known[:count, 2]) <= 0).all()


def test_no_labels_are_refused(teacher):
    from lf.train.pictures import Pictures

    blank = Pictures(np.zeros((2, 64, 64, 1), np.uint8), (), CPU)
    known = Teacher(str(teacher.path), (64, 64), CPU)
    known.row = replace(known.row, decode=lambda maps, **_: (np.zeros((0, 2)), np.zeros(0), np.zeros((0, 32))))
    with pytest.raises(UsageError, match="finds no keypoint in 2 images; expected a network that does"):
        taught_labels(blank, known)


def test_images_that_would_be_resized_are_refused(teacher):
    with pytest.raises(UsageError, match="needs views of multiples of 32 px; the recipe has picture_size=80"):
        Teacher(str(teacher.path), (64, 64), CPU).find(torch.zeros(1, 1, 80, 80), 10)


def test_other_recipes_take_a_folder_of_the_name_teacher():
    assert RECIPES["wren"].override(["labels=teacher"]).settings["labels"] == "teacher"


def test_labels_of_a_teacher_need_one():
    with pytest.raises(UsageError, match="labels=teacher; expected `labels=corners`, or the teacher that finds them"):
        RECIPES["swift-tiny"].override(["labels=teacher"])


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        ("sift", 96, "sift"),
        ("kept", 80, "edgepoint2-t32 needs views of multiples of 32 px; the recipe has size=80x80"),
    ],
)
def test_what_cannot_teach(teacher, name, size, text):
    with pytest.raises(UsageError, match=text):
        Teacher(str(teacher.path) if name == "kept" else name, (size, size), CPU)


def test_the_card_names_the_teacher(teacher, tmp_path):
    few = ["batch=2", "size=64", "picture_size=96", "pictures=2", "points=16", "bf16=False", "steps=1"]
    recipe = RECIPES["swift-tiny"].override([*few, f"teacher={teacher.path}"])
    made = loop.train(recipe, ["procedural"], tmp_path, device="cpu", threads=1, progress=lambda *_: None)
    (step,) = made.card.made
    assert step.teacher["model"] == "edgepoint2-t32"
    assert step.teacher["licence"] == "MIT"
    assert step.teacher["sha256"] == teacher.card.weights["sha256"]
