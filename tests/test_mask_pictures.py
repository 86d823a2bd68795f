"""Pictures of masks: the colours of the label set, a legend that names them, and what `lf` draws of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import mask_files as drawn
import numpy as np
import pytest

from lf.benchmarks.report import class_pictures
from lf.benchmarks.run.suite import suite
from lf.core import Artifact, Features, UsageError
from lf.data import contact_sheets, homography
from lf.data.masks import VOID, ClassRow, labelled, pictures
from lf.data.masks.label_sets import LABEL_SETS, categories
from lf.formats import model_file

CS34 = LABEL_SETS["cs34"]


def there(picture: np.ndarray, colour: object, off: int = 1) -> int:
    """Count the pixels of a colour."""
    return int((np.abs(picture.astype(int) - np.asarray(colour)) <= off).all(-1).sum())


def test_an_overlay_is_half_grey_image_and_half_class_in_true_rgb() -> None:
    image = np.full((8, 12, 3), 100, np.uint8)
    mask = drawn.halves(26, 25, (8, 12))  # car is blue, rider is red
    mask[0] = VOID
    found = pictures.overlay(image, mask, CS34.palette)
    assert found[4, 0].tolist() == [50, 50, 121]
    assert found[4, -1].tolist() == [178, 50, 50]
    assert found[0, 0].tolist() == [60, 60, 60]
    assert np.array_equal(found, pictures.overlay(image[..., 0], mask, CS34.palette))
    assert np.array_equal(found[2:], pictures.overlay(image, mask[::2, ::2], CS34.palette)[2:])  # a smaller mask
    red = np.full((8, 12, 3), (255, 0, 0), np.uint8)
    assert pictures.overlay(red, mask, CS34.palette, alpha=0)[4, 0].tolist() == [76, 76, 76]  # the grey of red


def test_a_legend_names_the_classes_that_occur_and_wraps() -> None:
    strip = pictures.legend(CS34, {7, 26, VOID}, 400)
    assert strip.shape == (30, 400, 3)
    assert [there(strip, colour, 0) > 150 for colour in (CS34.palette[7], CS34.palette[26], CS34.palette[25])] == [
        True,
        True,
        False,
    ]
    assert len(pictures.legend(CS34, range(34), 400)) > 5 * 26
    assert pictures.legend(CS34, range(34), 400).shape[1] == 400
    assert pictures.legend(CS34, [], 100).shape == (30, 100, 3)


def test_image_and_mask_are_warped_alike(tmp_path: Path) -> None:
    items = [*labelled(f"masks:{drawn.grey_frames(tmp_path, 2)}")]
    panels, masks = pictures.warped(items, seed=3)
    assert [panel.caption for panel in panels[:2]] == ["00", "00: 2 classes, 8% left out"]
    matrix = homography.sample(np.random.default_rng([3, 0]), (48, 64))
    assert np.array_equal(panels[2].image, homography.warp_image(items[0].image.load(), matrix, (48, 64)))
    seen, mask = panels[2].image[..., 0], masks[1]
    inner = cv2.erode((mask != VOID).astype(np.uint8), np.ones((5, 5))) == 1
    sure = inner & ((seen == 10) | (seen == 255))
    assert sure.sum() > 300
    assert np.array_equal(mask[sure], (seen[sure] > 10).astype(np.uint8))
    assert pictures.seen(masks) == {0, 1, VOID}


def test_truth_beside_prediction_and_where_they_differ() -> None:
    truth, predicted = drawn.halves(0, 1, (8, 12)), np.zeros((8, 12), np.uint8)
    truth[:2] = VOID
    panels, strip = pictures.beside(drawn.photo(size=(8, 12)), truth, predicted, LABEL_SETS["cs4"])
    assert [panel.caption for panel in panels] == [
        "truth: 2 classes, 25% left out",
        "prediction: 1 class, 0% left out",
        "orange: wrong, 50.0% of the counted pixels",
    ]
    assert there(strip, (0, 0, 255)) > 150
    grey = panels[2].image[4].astype(int)
    assert (np.ptp(grey[:6], axis=-1) <= 1).all()  # right: white over grey
    assert (grey[6:, 0] - grey[6:, 2] > 100).all()  # wrong: orange


def test_data_show_draws_labelled_images(tmp_path: Path, lf) -> None:
    spec, out = f"masks:{drawn.grey_frames(tmp_path / 'frames')}", tmp_path / "seen.png"
    assert lf("data", "show", spec, "-o", out, "--count", 2) == (0, f"{out}\n", "")
    page = cv2.imread(str(out))
    assert page.shape[1] == contact_sheets.WIDTH + 2 * contact_sheets.MARGIN
    assert lf("data", "show", f"{spec}@cs4", "-o", out, "--count", 2)[0] == 0
    code, _, error = lf("data", "show", "masks:nowhere")
    assert (code, error.count("\n")) == (5, 1)


def test_data_list_counts_the_pixels_of_classes(tmp_path: Path, lf) -> None:
    spec = f"masks:{drawn.pairs(tmp_path)}@camvid11"
    code, text, _ = lf("data", "list", spec)
    assert code == 0
    assert text.splitlines()[0] == f"  0 {'sky':24}  50.00% of the pixels"
    assert text.splitlines()[-1] == "2 labelled images, 1 without a mask; label set camvid11"
    found = json.loads(lf("data", "list", spec, "--json")[1])
    assert (found["pixels"]["0"], found["left_out"], found["without_mask"]) == (2 * 32 * 24, 0, 1)


def test_bench_draws_the_worst_and_best_images(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    artifact = drawn.network(tmp_path / "a.onnx", [0.0, 1.0, 9.0])
    spec = f"masks:{drawn.grey_frames(tmp_path / 'frames', 5)}"
    for protocol in ("segmentation", "segmentation-fork"):
        out = tmp_path / protocol
        suite([artifact], None, spec, protocol, repeats=0, out=out, draw=True)
        names = sorted(path.name for path in out.glob("pictures/*/*.png"))
        assert [name.partition("-0")[0] for name in names] == ["best-1", "best-2", "worst-1", "worst-2"]
        assert all(name.endswith("-mask-segmentation.png") for name in names)
        assert not (out / "pictures" / "curves.png").exists()


# Matches


def features(points: list[tuple[float, float]], size: tuple[int, int] = (64, 48)) -> Features:
    return Features(np.array(points), np.ones(len(points)), np.eye(len(points), 8), size)


def test_stable_classes_are_those_of_the_four() -> None:
    cs34, cs19 = LABEL_SETS["cs34"], LABEL_SETS["cs19"]
    assert class_pictures.chosen(cs34, "stable") == {*range(7, 21), 22} - set()
    assert {cs19.names[n] for n in class_pictures.chosen(cs19, "stable")} == {
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "terrain",
    }  # fmt: skip
    assert class_pictures.chosen(LABEL_SETS["cs4"], "stable") == {0, 1}
    assert class_pictures.chosen(cs19, "road, sky") == {0, 10}
    assert class_pictures.chosen(cs19, None) == {*range(19)}
    with pytest.raises(UsageError, match="label set camvid11 does not say which classes are stable; name them: `only="):
        class_pictures.chosen(LABEL_SETS["camvid11"], "stable")
    with pytest.raises(UsageError, match="unknown class of label set cs19 'raod'; did you mean 'road'"):
        class_pictures.chosen(cs19, "raod")


def test_matches_have_the_colours_of_their_classes_and_only_those_asked_for() -> None:
    image, cs4 = np.zeros((48, 64, 3), np.uint8), LABEL_SETS["cs4"]
    mask = drawn.halves(0, 2, (48, 64))
    both = features([(10, 10), (20, 30), (50, 20), (30, 40)]), features([(12, 10), (22, 30), (52, 20), (60, 40)])
    masks = mask, mask
    every = class_pictures.matches((image, image), both, masks, cs4, range(4), "t")
    some = class_pictures.matches((image, image), both, masks, cs4, {0, 1}, "t")
    blue, red, white = (0, 0, 255), (255, 0, 0), class_pictures.MIXED
    body = slice(80, 600)
    assert all(there(every[body], colour) > 20 for colour in (blue, red, white))
    assert there(some[body], blue) > 20
    assert not there(some[body], red)
    assert not there(some[body], white)
    assert class_pictures.lightened(np.array([[70, 70, 70], [0, 0, 142], [0, 0, 0], [250, 1, 1]])).tolist() == [
        [200, 200, 200],
        [0, 0, 200],
        [120, 120, 120],
        [250, 1, 1],
    ]


def named(artifact, rows) -> Path:
    """The same model file with a class table in its card."""
    table = tuple((row.name, row.colour) for row in rows)
    card = dataclasses.replace(artifact.card, classes=table)
    return model_file.save(artifact.path, artifact.path.read_bytes(), card).path


def test_match_by_class_on_the_command_line(tmp_path: Path, lf) -> None:
    frames, out = drawn.grey_frames(tmp_path / "frames", 2), tmp_path / "m.png"
    a, b = frames / "images" / "00.png", frames / "images" / "01.png"
    model = drawn.network(tmp_path / "a.onnx", [0.0, 1.0, 9.0, 9.5])
    rows = tmp_path / "own.json"
    rows.write_text(json.dumps(categories(LABEL_SETS["cs4"])))
    words = ("match", a, b, "--model", model.path, "-o", out)
    for extra in (("cs4",), ("cs4", "--only", "stable"), (rows, "--only", "static structure")):
        assert lf(*words, "--segmentation", "--classes", *extra) == (0, f"{out}\n", "")
    (tmp_path / "H").write_text("1 0 0\n0 1 0\n0 0 1\n")
    for extra, what in (
        (("--only", "stable"), "--only keeps classes of a segmentation; add --segmentation"),
        (("--classes", "cs4"), "--classes names classes of a segmentation; add --segmentation"),
        (("--segmentation",), "a.onnx: its card names no classes; name their label set: --classes SET, such as cs34"),
        (("--segmentation", "--classes", "cs34"), "tells 4 classes apart, label set cs34 has 34; name the set"),
        (("--segmentation", "--classes", "cs35"), "unknown label set 'cs35'"),
        (("--segmentation", "--homography", tmp_path / "H"), "--homography and --segmentation both colour the"),
        (("--model", "wren", "--backend", "torch", "--segmentation"), "has no output segmentation, its outputs: "),
    ):
        code, _, error = lf(*words, *extra)
        assert (code, error.count("\n")) == (2, 1), error
        assert what in error


def test_match_takes_the_classes_of_the_card(tmp_path: Path, lf) -> None:
    frames, out = drawn.grey_frames(tmp_path / "frames", 2), tmp_path / "m.png"
    model = named(drawn.network(tmp_path / "a.onnx", [0.0, 1.0, 9.0, 9.5]), LABEL_SETS["cs4"].classes)
    names = ("images/00.png", "images/01.png")
    words = ("match", *(frames / name for name in names), "--model", model, "-o", out, "--segmentation")
    for extra in ((), ("--only", "stable"), ("--only", "flat surfaces")):
        assert lf(*words, *extra) == (0, f"{out}\n", "")
    own = [ClassRow(name, (0, 0, n)) for n, name in enumerate("wxyz")]
    named(Artifact(model, model_file.load(model).card), own)
    assert lf(*words, "--only", "w,x") == (0, f"{out}\n", "")
    for only, what in (
        ("stable", "label set a.onnx does not say which classes are stable; name them: --only NAME,NAME with some of"),
        ("v", "unknown class of label set a.onnx 'v'"),
    ):
        code, _, error = lf(*words, "--only", only)
        assert (code, error.count("\n")) == (2, 1), error
        assert what in error


def test_masks_take_the_classes_of_a_card(tmp_path: Path, lf) -> None:
    spec, camvid = f"masks:{drawn.pairs(tmp_path / 'data')}", LABEL_SETS["camvid11"]
    model = drawn.network(tmp_path / "a.onnx", [float(n) for n in range(11)])
    code, _, error = lf("data", "list", f"{spec}@{model.path}")
    assert (code, error) == (
        2,
        f"lf: {model.path}: its card names no classes; expected a label set, such as cs34\n",
    )
    named(model, camvid.classes)
    assert labelled(f"{spec}@{model.path}").classes is camvid  # with its void, which the card does not hold
    assert lf("data", "show", f"{spec}@{model.path}", "-o", tmp_path / "seen.png")[0] == 0
    run = tmp_path / "run"
    run.mkdir()
    code, _, error = lf("data", "show", f"{spec}@{run}")
    expected = f"lf: {run}: holds 0 files .safetensors; expected the one of a finished run of lf train\n"
    assert (code, error) == (5, expected)
    empty = (2).to_bytes(8, "little") + b"{}"
    model_file.save(run / "a.safetensors", empty, model_file.load(model.path).card)
    assert labelled(f"{spec}@{run}").classes is camvid
