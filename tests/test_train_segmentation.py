"""Training of a segmentation: losses, masks of views, labelled images, frozen trunk, resume."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from test_train_loop import Board

from lf.core import BadInput, UsageError
from lf.data.masks import VOID
from lf.models import checkpoint
from lf.models.resolve import resolve
from lf.train import RECIPES, boards, labelled, pictures
from lf.train.loop import train
from lf.train.losses.segmentation_losses import SEGMENTATION_LOSSES, dice_per_class, resized
from lf.train.methods.superpoint_seg import Method
from lf.train.views.random_views import Dice, render, render_classes
from lf.train.views.superpoint_views import WARPS
from lf.train.views.superpoint_views import sample as sample_published

CPU = torch.device("cpu")
CATEGORIES = [{"id": n, "name": name, "color": [90 * n, 200, 30]} for n, name in enumerate(("ground", "block"))]
SMALL = ["steps=6", "batch=2", "size=64", "picture_size=96", "warmup=2", "bf16=False"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def silent(done, total, text):
    pass


def labelled_folder(folder, count=4, size=(60, 80)):
    """Dark images with a bright rectangle of class 1; a strip at the left is void, and one image has no mask."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count + 1):
        picture = rng.integers(20, 90, (*size, 3), np.uint8)
        mask = np.zeros(size, np.uint8)
        top, left = rng.integers(5, 25, 2)
        picture[top : top + 25, left : left + 40] += 130
        mask[top : top + 25, left : left + 40] = 1
        mask[:, :4] = VOID
        cv2.imwrite(str(folder / "images" / f"{index}.png"), picture)
        if index < count:
            cv2.imwrite(str(folder / "masks" / f"{index}.png"), mask)
    (folder / "masks" / "categories.json").write_text(json.dumps(CATEGORIES))
    return f"masks:{folder}"


@pytest.fixture
def source(tmp_path):
    return labelled_folder(tmp_path / "data")


def recipe(*changes):
    return RECIPES["superpoint-small-seg"].override([*SMALL, *changes])


def run(own, source, out, progress=silent, every=250):
    return train(own, [source], out, device="cpu", threads=1, progress=progress, every=every)


# --- losses: the values were computed by another implementation

LOGITS = torch.linspace(-1, 1, 120).reshape(2, 4, 3, 5)
MASKS = (torch.arange(30) % 3).reshape(2, 3, 5)


def test_the_losses_have_the_values_of_the_published_ones():
    shares, occurs = dice_per_class(LOGITS, MASKS)
    assert shares.tolist() == pytest.approx([0.779560, 0.740918, 0.700055, 0], abs=1e-6)
    assert occurs.tolist() == [True, True, True, False]
    found = {name: float(loss(LOGITS, MASKS)) for name, loss in SEGMENTATION_LOSSES.items()}
    assert found["dice-fork"] == pytest.approx(0.555133, abs=1e-6)
    assert found["dice"] == pytest.approx(0.555133 * 4 / 3, abs=1e-6)
    assert found["cross-entropy"] == pytest.approx(1.551715, abs=1e-6)
    assert found["cross-entropy+dice"] == pytest.approx(1.551715 + 0.555133 * 4 / 3, abs=2e-6)


@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_ignored_pixels_carry_no_gradient(name):
    masks = MASKS.clone()
    masks[:, 1] = VOID
    logits = LOGITS.clone().requires_grad_()
    loss = SEGMENTATION_LOSSES[name](logits, masks)
    loss.backward()
    assert not logits.grad[:, :, 1].any()
    assert logits.grad[:, :, [0, 2]].any()
    changed = LOGITS.clone()
    changed[:, :, 1] = 7 * torch.randn(2, 4, 5)
    assert float(SEGMENTATION_LOSSES[name](changed, masks)) == pytest.approx(loss.item(), abs=1e-6)


@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_without_a_known_pixel_the_loss_is_zero(name):
    logits = LOGITS.clone().requires_grad_()
    loss = SEGMENTATION_LOSSES[name](logits, torch.full_like(MASKS, VOID))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_logits_are_resized_with_aligned_areas():
    small = torch.tensor([[[[0.0, 1.0]]]])
    assert resized(small, (1, 4)).flatten().tolist() == pytest.approx([0, 0.25, 0.75, 1])


# --- masks of views


@pytest.mark.parametrize("seed", range(4))
def test_masks_and_images_go_through_one_homography(seed):
    """In views of an image with two colours, every pixel that is not a mixture has the class of its colour."""
    mask = torch.zeros(1, 90, 90, dtype=torch.uint8)
    mask[:, 20:50, 30:80] = 1
    mask[:, 60:, :25] = 1
    homography = sample_published(Dice(seed, 0, 1, CPU), (64, 80), WARPS["joint"])
    view, inside = render(mask[:, None].float(), homography, (64, 80))
    found = render_classes(mask, homography, (64, 80), VOID)
    plain = inside & ((view[:, 0] < 1e-4) | (view[:, 0] > 1 - 1e-4))
    assert plain.float().mean() > 0.3
    assert torch.equal(found[plain].float(), view[:, 0][plain].round())
    assert set(found[inside].tolist()) <= {0, 1}
    assert (found[~inside] == VOID).all()


def test_a_step_supervises_both_views(source, tmp_path):
    own = recipe()
    squares = pictures.collect(own, [source], tmp_path / "out", silent).on(CPU)
    method = Method(own, squares, CPU)
    views = method._views(Dice(1, 0, 2, CPU))
    masks = method._masks(views)
    assert masks.shape == (4, 64, 64)
    assert set(masks.unique().tolist()) <= {0, 1, VOID}
    light, dark = (views.batch[:, 0][masks == each].mean() for each in (1, 0))
    assert light > dark + 0.1
    for half in masks.chunk(2):
        assert (half == 1).any()
    assert (masks[~views.seen & (masks != VOID)]).numel() < 0.1 * masks.numel()


@pytest.mark.parametrize("trunk", ["joint", "frozen"])
def test_data_show_draws_a_pair_with_its_masks(lf, source, tmp_path, trunk):
    """Rings on the views where labels are learned from; both masks in the colours of their classes; the legend."""
    own = recipe(f"trunk={trunk}", "keypoints=labels", "relabel=")
    method = Method(own, pictures.collect(own, [source], tmp_path / "own", silent).on(CPU), CPU)
    sample = method.sample(Dice(1, 0, 2, CPU))[1]
    masks = method._masks(method._views(Dice(1, 0, 2, CPU)))
    assert all(np.array_equal(found, masks[1 + 2 * n]) for n, found in enumerate(sample.masks))
    assert (sample.labels is None) == (trunk == "frozen")
    out, changes = (
        tmp_path / "seen.png",
        [word for change in (*SMALL, f"trunk={trunk}", "keypoints=labels") for word in ("--set", change)],
    )
    code, text, _ = lf("data", "show", own.model, "--photos", source, "--count", 1, "-o", out, *changes)
    assert (code, text) == (0, f"{out}\n")
    page = cv2.imread(str(out))[..., ::-1].astype(int)
    grey_and = page - 0.5 * np.array(CATEGORIES[1]["color"])  # half of the class over the grey image
    assert (np.ptp(grey_and, axis=-1) <= 1.5).sum() > 500
    for row in CATEGORIES:  # the legend
        assert (np.abs(page - row["color"]).max(-1) <= 1).sum() > 150


# --- labelled pictures


def test_squares_hold_whole_images(source, tmp_path, capfd):
    made = pictures.collect(recipe(), [source], tmp_path / "out", silent)
    assert "1 images without a mask are left out, 4 are used" in capfd.readouterr().err
    assert (made.masked, made.squares.shape, len(made)) == (True, (4, 96, 96, 2), 4)
    assert [(crop.name, crop.left, crop.top, crop.side) for crop in made.crops][:2] == [
        ("0", 0, -10, 80),
        ("1", 0, -10, 80),
    ]
    index = torch.arange(4)
    masks, views = made.on(CPU).masks(index), made.on(CPU).take(index)
    assert views.shape == (4, 1, 96, 96)
    assert (masks[:, :12] == VOID).all()  # the rim beyond the image
    assert (masks[:, :, 0] == VOID).all()
    for mask, view in zip(masks, views[:, 0], strict=True):
        assert view[mask == 1].mean() > view[mask == 0].mean() + 0.4
    again = pictures.collect(recipe(), [source], tmp_path / "out", lambda *_: pytest.fail("made again"))
    assert again.masked


def test_a_count_takes_fewer(source, tmp_path):
    assert len(pictures.collect(recipe(), [f"{source}:3"], tmp_path / "out", silent)) == 3


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (
            "superpoint-small-seg",
            ["procedural"],
            "`photos=procedural`: superpoint-small-seg learns from labelled images",
        ),
        ("superpoint-seg", ["masks:"], "`masks:` needs a folder after the colon"),
        ("wren", ["masks:x"], "`photos=masks:x`: wren has no segmentation head; give it the folder of the images"),
    ],
)
def test_sources_that_do_not_fit_are_refused(name, data, said):
    with pytest.raises(UsageError, match=said):
        labelled.label_set(RECIPES[name], data)


def test_label_sets_are_not_mixed(source, tmp_path):
    other = labelled_folder(tmp_path / "other")
    assert len(labelled.label_set(recipe(), [source, f"{other}:2"])) == 2
    (tmp_path / "other" / "masks" / "categories.json").write_text(json.dumps([*CATEGORIES, {**CATEGORIES[0], "id": 2}]))
    with pytest.raises(UsageError, match="2 classes of masks and 3 of masks; expected one label set"):
        labelled.label_set(recipe(), [source, other])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("batch=1", "recipe: batch=1; expected at least 2: batch normalisation learns nothing from one value"),
        ("trunk=none", "unknown trunk 'none'"),
        ("init=", "recipe: init=; expected a checkpoint, whose trunk stays as it is"),
        ("init= trunk=joint", "recipe: keypoints=parent; expected `keypoints=labels`, or a float network and `init="),
        ("weight_bits=8", "recipe: trunk=frozen; expected joint where weights have few bits"),
        ("segmentation_loss=focal", "unknown segmentation_loss 'focal'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, said):
    with pytest.raises(UsageError, match=said):
        recipe(*change.split())


def test_one_pair_per_process_is_refused(source, tmp_path):
    method = Method(recipe(), pictures.collect(recipe(), [source], tmp_path / "out", silent).on(CPU), CPU)
    with pytest.raises(UsageError, match="batch=2 over 2 processes; expected at least 2 for each"):
        method.loss(checkpoint.build("superpoint-small-seg", 2), Dice(1, 0, 2, CPU, slice(0, 1)))


# --- runs


def test_a_frozen_trunk_keeps_its_keypoints_and_the_loss_falls(source, tmp_path):
    made = run(recipe("steps=30", "lr=4e-3"), source, tmp_path / "out", every=1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [line["segmentation"] for line in lines]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert lines[-1]["accuracy"] > 0.8
    assert made.card.outputs["segmentation"] == (2, 8)
    assert made.card.classes == (("ground", (0, 200, 30)), ("block", (90, 200, 30)))
    parent = checkpoint.load(resolve("superpoint-small").path)[1]
    trained = checkpoint.load(made.path)[1]
    assert all(torch.equal(trained[name], value) for name, value in parent.items())
    assert made.card.made[-1].parent == resolve("superpoint-small").card.weights["sha256"]


@pytest.mark.parametrize("trunk", ["joint", "detached"])
def test_all_heads_learn_together(source, tmp_path, trunk):
    made = run(
        recipe(f"trunk={trunk}", "keypoints=labels", "steps=3", "relabel=", "points=32"), source, tmp_path / "out"
    )
    line = json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[-1])
    assert {"detector", "descriptor", "segmentation", "accuracy"} <= line.keys()
    parent, trained = (checkpoint.load(resolve(each).path)[1] for each in ("superpoint-small", made.path))
    assert any(not torch.equal(trained[name], value) for name, value in parent.items())


def test_the_parent_teaches_the_keypoints_of_a_joint_run(source, tmp_path):
    """The first loss is 0, for the trunk begins as the parent's; later ones are not; statistics of its norms stay."""
    made = run(recipe("trunk=joint", "lr=1e-2", "warmup=0"), source, tmp_path / "out", every=1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert max(lines[0]["detector"], lines[0]["descriptor"]) < 1e-5
    assert min(lines[-1]["detector"], lines[-1]["descriptor"]) > 1e-3
    parent, trained = (checkpoint.load(resolve(each).path)[1] for each in ("superpoint-small", made.path))
    same = {name for name, value in parent.items() if torch.equal(trained[name], value)}
    assert same == {name for name in parent if "running" in name or name.endswith("num_batches_tracked")}


def test_a_detached_segmentation_sends_no_gradient_into_the_trunk():
    net = checkpoint.build("superpoint-small-seg", 2)
    net(torch.rand(2, 1, 32, 32), detach=True)[2].sum().backward()
    assert {name.partition(".")[0] for name, value in net.named_parameters() if value.grad is not None} == {
        "segmentation"
    }


def test_an_interrupted_run_resumes_to_the_last_bit(source, tmp_path):
    def interrupt(done, total, text):
        if (done, total) == (3, 6):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe(), source, tmp_path / "a", interrupt, every=2)
    resumed = run(recipe(), source, tmp_path / "a")
    assert resumed.path.read_bytes() == run(recipe(), source, tmp_path / "b").path.read_bytes()


def test_fine_tuning_needs_the_same_classes(source, tmp_path):
    first = run(recipe("steps=1"), source, tmp_path / "a")
    run(recipe("steps=1", f"init={first.path}"), source, tmp_path / "b")
    (tmp_path / "data" / "masks" / "categories.json").write_text(json.dumps([*CATEGORIES, {**CATEGORIES[0], "id": 2}]))
    with pytest.raises(UsageError, match="has 2 classes, the masks have 3; expected as many, or a superpoint-small"):
        run(recipe("steps=1", f"init={first.path}"), source, tmp_path / "c")
    with pytest.raises(UsageError, match="is a wren; this recipe trains superpoint-small-seg"):
        run(recipe("init=wren"), source, tmp_path / "d")


def test_a_mask_with_a_strange_id_is_refused(source, tmp_path):
    path = tmp_path / "data" / "masks" / "2.png"
    cv2.imwrite(str(path), np.full((60, 80), 7, np.uint8))
    with pytest.raises(BadInput, match="holds the id 7, which is no class"):
        run(recipe(), source, tmp_path / "out")


def test_validation_shows_miou_and_a_picture(lf, source, tmp_path, monkeypatch):
    board = Board()
    monkeypatch.setitem(boards.BOARDS, "tensorboard", lambda: board)
    changes = [word for change in (*SMALL, "lr=4e-3") for word in ("--set", change)]
    watch = ("--validate", source, "--protocol", "segmentation", "--validate-every", 3, "--tensorboard")
    out = tmp_path / "out"
    code, _, said = lf("train", "superpoint-small-seg", "--photos", source, "--out", out, *changes, *watch)
    assert (code, said) == (0, f"lf: {source}: 1 images without a mask are left out, 4 are used\n")
    lines = [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]
    assert [(line["step"], line["protocol"]) for line in lines] == [(3, "segmentation"), (6, "segmentation")]
    assert all(0 <= line["miou"] <= 1 for line in lines)
    assert board.numbers[6]["validation/miou"] == lines[1]["miou"]
    assert board.numbers[6].keys() >= {"train/segmentation", "train/accuracy"}
    assert board.pictures == [(3, "validation/segmentation"), (6, "validation/segmentation")]
    assert (out / "validation" / "0000006-segmentation.png").is_file()


def test_labels_of_lf_label_are_found_by_the_bytes_of_an_image(lf, source, tmp_path):
    folder = source.removeprefix("masks:")
    words = ("--out", tmp_path / "labels", "--warps", 2, "--area", "64x80")
    assert lf("label", "superpoint-small", "--photos", f"{folder}/images", *words)[0] == 0
    own = recipe("trunk=joint", "keypoints=labels", f"labels={tmp_path / 'labels'}", "relabel=")
    method = Method(own, pictures.collect(own, [source], tmp_path / "out", silent).on(CPU), CPU)
    assert (method.labels[..., 2] > 0).any()
    assert method.labels.shape[0] == 4
