"""Labelled images: readers, label sets, conversions, and files that lie."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path

import cv2
import mask_files as drawn
import numpy as np
import pytest

from lf.cli import data_masks
from lf.core import BadInput, UsageError
from lf.data import homography, masks
from lf.data.masks import VOID, convert, label_sets, labelled, png, resize_mask, warp_mask
from lf.data.masks.coco_categories import CATEGORIES
from lf.data.masks.label_sets import FROM_CS34, LABEL_SETS


@pytest.fixture(autouse=True)
def _said_again() -> None:
    masks._say.cache_clear()


def opened(spec: object) -> masks.Labels:
    return labelled(f"masks:{spec}")


def used(mask: np.ndarray) -> list[int]:
    return np.unique(mask).tolist()


# Label sets


def test_the_classes_of_every_label_set() -> None:
    assert {name: len(row) for name, row in LABEL_SETS.items()} == {
        "cs34": 34,
        "cs34-fork": 34,
        "cs19": 19,
        "cs4": 4,
        "camvid11": 11,
        "coco133": 133,
    }
    cs34, cs19 = LABEL_SETS["cs34"], LABEL_SETS["cs19"]
    assert cs34.ignored == (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
    assert cs34.names == LABEL_SETS["cs34-fork"].names
    assert LABEL_SETS["cs34-fork"].ignored == ()
    assert cs19.names[:3] == ("road", "sidewalk", "building")
    assert cs19.names[-1] == "bicycle"
    assert cs34.palette[26].tolist() == cs19.palette[13].tolist() == [0, 0, 142]
    assert [FROM_CS34["cs19"][n] for n in (7, 33, 0, 255)] == [0, 18, VOID, VOID]
    assert [FROM_CS34["cs4"][n] for n in (11, 20, 7, 10, 22, 24, 33, 0, 21, 23, 255)] == [
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        3,
        3,
        3,
        255,
    ]


def test_coco_tables_by_their_known_faults() -> None:
    rows = {row.id: row for row in CATEGORIES}
    assert len(rows) == 133
    assert (rows[1].name, rows[200].name) == ("person", "rug-merged")
    assert [rows[n].fork for n in (14, 17, 18, 178, 191)] == [14, 21, 25, 23, 9]
    assert [rows[n].ours for n in (14, 17, 18, 178, 191)] == [17, 5, 5, 6, 8]
    assert sum(row.fork == 0 for row in CATEGORIES) == 66
    assert 8 not in {row.fork for row in CATEGORIES}  # the fork has no sidewalk


def test_ids_that_are_no_class_are_refused_and_never_clipped(tmp_path: Path) -> None:
    drawn.pairs(tmp_path, ids=(3, 200))  # raw panoptic ids
    with pytest.raises(BadInput) as refused:
        opened(f"{tmp_path}@cs4")[0].mask()
    assert str(refused.value) == (
        f"{tmp_path}/masks/0.png: holds the id 200, which is no class; expected 0 to 3 of label set cs4, and 255 for "
        "void; name another set, such as masks:DIR@SET"
    )


def test_void_ids_of_a_set_become_255(tmp_path: Path) -> None:
    item = opened(f"{drawn.pairs(tmp_path, ids=(3, 11))}@camvid11")[0]
    assert used(item.mask()) == [3, VOID]
    assert used(item.source()) == [3, 11]  # as they stand in the file


# Readers


def test_cityscapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = drawn.cityscapes(tmp_path)
    with pytest.raises(UsageError, match=r"holds 2 splits; expected one, type: masks:.*train or masks:.*val$"):
        opened(root)
    train = opened(root / "leftImg8bit" / "train")
    assert ([item.image.key for item in train], train.left_out) == (
        ["aachen/aachen_000000_000019_leftImg8bit", "bochum/bochum_000001_000019_leftImg8bit"],
        0,
    )
    assert train.classes is LABEL_SETS["cs34"]
    assert used(train[0].mask()) == [7, 21]
    capsys.readouterr()
    spec = f"masks:{root}/leftImg8bit/val@cs4"
    val = labelled(spec)
    assert (len(val), val.left_out, used(val[0].mask())) == (1, 1, [1, 3])
    assert capsys.readouterr().err == f"lf: {spec}: 1 images without a mask are left out, 1 are used\n"


def test_cityscapes_by_train_ids_where_they_are(tmp_path: Path) -> None:
    root = drawn.cityscapes(tmp_path)
    spec = f"{root}/leftImg8bit/val@cs19"
    assert used(opened(spec)[0].mask()) == [0, 8]  # of labelIds
    stem = f"{drawn.MORE[1]}_gtFine_labelTrainIds.png"
    drawn.save(root / "gtFine" / stem, drawn.halves(13, 255))
    assert [used(item.mask()) for item in opened(spec)] == [[0, 8], [13, VOID]]


def test_cityscapes_ids_are_checked_before_a_table_can_hide_them(tmp_path: Path) -> None:
    root = drawn.cityscapes(tmp_path)
    drawn.save(root / "gtFine" / f"{drawn.MORE[0]}_gtFine_labelIds.png", drawn.halves(7, 40))
    with pytest.raises(BadInput, match="holds the id 40, which is no class; expected 0 to 33"):
        opened(f"{root}/leftImg8bit/val@cs19")[0].mask()


@pytest.mark.parametrize("below", ["", "annotations"])
def test_coco_panoptic_in_both_places(tmp_path: Path, below: str) -> None:
    root = drawn.coco(tmp_path, below)
    for spec in (root, root / "val2017"):
        found = opened(spec)
        assert (len(found), found.left_out, found.classes.name) == (2, 1, "cs34")
    ids = {name: used(opened(f"{root}@{name}")[0].source()) for name in ("cs34", "cs34-fork", "cs19", "cs4", "coco133")}
    assert ids == {
        "cs34": [0, 5, 8],
        "cs34-fork": [0, 9, 25],
        "cs19": [1, VOID],
        "cs4": [1, 3],
        "coco133": [[row.id for row in CATEGORIES].index(category) for category in (18, 191)] + [VOID],
    }
    assert used(opened(root)[0].mask()) == [8, VOID]  # a dog is `dynamic`, which Cityscapes leaves out


def test_coco_files_that_do_not_fit_together(tmp_path: Path) -> None:
    root = drawn.coco(tmp_path)
    table = root / "panoptic_val2017.json"
    text = table.read_text()
    table.write_text(text.replace("140000", "140001"))
    with pytest.raises(
        BadInput, match="holds segment 140000, which its JSON does not list; expected the JSON of this PNG"
    ):
        opened(root)[0].mask()
    table.write_text(text.replace("191", "12"))
    with pytest.raises(BadInput, match=r"annotations\[0\] has category 12; expected one of COCO panoptic's 133"):
        opened(root)
    table.write_text(text.replace('"id": 70000', '"id": "70000"'))
    with pytest.raises(BadInput, match=r"annotations\[0\] is damaged"):
        opened(root)
    table.write_text("[]")
    with pytest.raises(BadInput, match="holds no list of annotations; expected a panoptic JSON of COCO"):
        opened(root)


def test_folders_of_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = drawn.pairs(tmp_path / "a")
    with pytest.raises(
        UsageError, match=r"nothing says which classes its masks hold; type: masks:.*@camvid11, with one"
    ):
        opened(root)
    found = opened(f"{root}@camvid11")
    assert (len(found), found.left_out, found[0].image.key) == (2, 1, "0")
    assert opened(f"{root}/images,{root}/masks@camvid11").digest == found.digest
    (root / "images").rename(tmp_path / "a" / "val")  # CamVid's names
    (root / "masks").rename(tmp_path / "a" / "valannot")
    assert opened(f"{root}@camvid11").digest == opened(f"{root}/val@camvid11").digest == found.digest
    assert opened(f"{root}@cs4").digest != found.digest
    (root / "valannot" / "0.png").write_bytes((root / "valannot" / "1.png").read_bytes() + b"\0")
    assert opened(f"{root}@camvid11").digest != found.digest


def test_classes_of_a_category_file(tmp_path: Path) -> None:
    root = drawn.pairs(tmp_path)
    rows = [
        {"id": 0, "name": "grass", "color": [0, 255, 0]},
        {"id": 1, "name": "net", "color": [9, 9, 9], "ignored": True},
    ]
    (root / "masks" / "categories.json").write_text(json.dumps(rows))
    found = opened(root)
    assert (found.classes.names, used(found[0].mask())) == (("grass", "net"), [0, VOID])
    assert label_sets.categories(found.classes) == rows
    for broken, what in (
        ([], "not a list of 1 to 255 categories"),
        ([rows[1]], "entry 0 is not category 0 with a name"),
        ([{**rows[0], "color": [0, 256, 0]}], r"the color of category 0 is \[0, 256, 0\]; expected \[R, G, B\]"),
    ):
        (root / "masks" / "categories.json").write_text(json.dumps(broken))
        with pytest.raises(BadInput, match=what):
            opened(root)


def test_places_without_labelled_images(tmp_path: Path) -> None:
    drawn.save(tmp_path / "some" / "a.png", drawn.photo())
    for spec, what in (
        (tmp_path / "none", "no such folder; expected leftImg8bit and gtFine"),
        (tmp_path, "holds no labelled images; expected leftImg8bit and gtFine"),
        (f"{tmp_path}/some,{tmp_path}/none@cs4", "no such folder; expected a folder of masks NAME.png"),
        (f"{tmp_path}/some,{tmp_path}@cs4", "none of its 1 images has a mask"),
    ):
        with pytest.raises(BadInput, match=what):
            opened(spec)
    with pytest.raises(UsageError, match="unknown label set 'cs20'; known: cs34, cs34-fork, cs19"):
        opened(f"{tmp_path}/some,{tmp_path}@cs20")
    with pytest.raises(UsageError, match="needs a folder after the colon"):
        opened("")


def test_a_mask_of_another_image_is_refused(tmp_path: Path) -> None:
    root = drawn.pairs(tmp_path)
    drawn.save(root / "masks" / "0.png", drawn.halves(0, 1, (16, 24)))
    drawn.save(root / "masks" / "1.png", drawn.halves(0, 1, (48, 32)))
    small, turned = opened(f"{root}@cs4")
    assert [each.shape for each in small.load()] == [(32, 48, 3), (16, 24)]
    with pytest.raises(BadInput, match="a mask of 32x48 px for an image of 48x32; expected the same size"):
        turned.load()


# Files


def chunks(*found: tuple[bytes, bytes]) -> bytes:
    return png.SIGNATURE + b"".join(png._chunk(*each) for each in found)


def small_png(depth: int, colour: int, row: bytes, width: int = 4) -> bytes:
    head = (b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    plte = [(b"PLTE", bytes(range(48)))] if colour == 3 else []
    return chunks(head, *plte, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))


@pytest.mark.parametrize("colour", [png.GREY, png.PALETTE])
def test_ids_of_few_bits_are_the_numbers_in_the_file(tmp_path: Path, colour: int) -> None:
    path = tmp_path / "a.png"
    for depth, row, ids in ((8, bytes([0, 7, 200, 255]), [0, 7, 200, 255]), (4, b"\x1f\x05", [1, 15, 0, 5])):
        path.write_bytes(small_png(depth, colour, row))
        assert png.read_ids(path).tolist() == [ids]
    path.write_bytes(small_png(1, colour, b"\x50"))
    assert png.read_ids(path).tolist() == [[0, 1, 0, 1]]


def test_a_palette_file_reads_back_as_ids_and_shows_as_colours(tmp_path: Path) -> None:
    mask = drawn.halves(26, VOID)
    path = png.write_palette(tmp_path / "a.png", mask, LABEL_SETS["cs34"].palette)
    assert np.array_equal(png.read_ids(path), mask)
    assert cv2.imread(str(path))[0, 0].tolist() == [142, 0, 0]  # BGR


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    path = drawn.save(tmp_path / "rgb.png", drawn.photo())
    deep = drawn.save(tmp_path / "deep.png", drawn.halves(0, 1).astype(np.uint16))
    jpeg = drawn.save(tmp_path / "a.jpg", drawn.photo())
    whole = drawn.save(tmp_path / "cut.png", drawn.halves(0, 1)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    huge = chunks((b"IHDR", struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 0, 0, 0, 0)), (b"IEND", b""))
    (tmp_path / "huge.png").write_bytes(huge)
    for file, what in (
        (path, "8 bits per channel, RGB; expected a mask"),
        (deep, "16 bits per channel, grey; expected a mask"),
        (jpeg, "no PNG; expected a mask"),
        (tmp_path / "cut.png", "does not decode"),
        (tmp_path / "huge.png", "declares 1048576 x 1048576 pixels; expected 1 to 100 million"),
        (tmp_path / "none.png", "no such file; expected a mask"),
    ):
        with pytest.raises(BadInput, match=what):
            png.read_ids(file)
    with pytest.raises(BadInput, match="expected a panoptic PNG of COCO: 8-bit RGB"):
        png.read_segments(deep)


# Geometry


def test_masks_and_images_move_alike() -> None:
    mask = drawn.halves(0, 1, (60, 80))
    image = np.where(mask[..., None] == 1, 250, 5).astype(np.uint8).repeat(3, 2)
    matrix = homography.sample(np.random.default_rng(3), (60, 80))
    warped, seen = warp_mask(mask, matrix, (60, 80)), homography.warp_image(image, matrix, (60, 80))[..., 0]
    counted = (seen == 250) | (seen == 5)  # no mixture of both, nor of the border
    inner = cv2.erode((warped != VOID).astype(np.uint8), np.ones((3, 3))) == 1
    assert (counted & inner).sum() > 1000
    assert np.array_equal(warped[counted & inner], (seen[counted & inner] == 250).astype(np.uint8))
    assert VOID in warped
    assert set(used(warped)) == {0, 1, VOID}


def test_masks_are_resized_by_the_nearest_pixel_with_areas_aligned() -> None:
    mask = np.array([[0, 1, 2, 3, 4, 5]], np.uint8).repeat(6, 0)
    assert resize_mask(mask, (2, 2)).tolist() == [[1, 4], [1, 4]]
    assert resize_mask(mask, (6, 12))[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


# Conversion


def test_convert_counts_writes_and_resumes(tmp_path: Path, lf) -> None:
    root, out = drawn.coco(tmp_path / "coco"), tmp_path / "out"
    drawn.save(root / "panoptic_val2017" / "99.png", drawn.photo())  # of no annotation
    said = lf("data", "masks", "--from", "coco-panoptic", "--to", "cs34", root / "val2017", out)
    assert said == (
        0,
        f"{out}: 2 masks written, 0 kept; 1 PNG without annotation, 1 annotations without PNG\n"
        "void: 3.1% of the pixels; left out of cs34: 51.6%\n",
        "",
    )
    assert sorted(path.name for path in out.glob("*.png")) == ["000000000000.png", "000000000001.png"]
    assert png.read_ids(out / "000000000000.png")[:, 0].tolist() == [0, *[5] * 31]
    assert json.loads((out / "categories.json").read_text())[7] == {"id": 7, "name": "road", "color": [128, 64, 128]}
    (out / "000000000001.png").unlink()
    code, text, _ = lf("data", "masks", root / "panoptic_val2017", out, "--json")
    assert code == 0
    assert {name: json.loads(text)[name] for name in ("written", "kept", "to")} == {
        "written": 1,
        "kept": 1,
        "to": "cs34",
    }
    code, _, error = lf("data", "masks", root / "val2017", out, "--to", "cs4")
    assert code == 2
    assert error.startswith(f"lf: {out}: was made with other settings (to: was cs34, now cs4); choose another")
    converted = opened(f"{root}/val2017,{out}")
    assert used(converted[0].mask()) == [8, VOID]
    assert converted.classes.names == LABEL_SETS["cs34"].names


def test_converted_masks_are_found_beside_their_images(tmp_path: Path) -> None:
    root = drawn.coco(tmp_path)
    raw = [item.mask() for item in opened(f"{root}@cs4")]
    convert.convert(root / "val2017", "cs4", root / "panoptic_cs4_val2017")
    (root / "panoptic_val2017.json").unlink()
    found = opened(root / "val2017")
    assert found.classes.names == LABEL_SETS["cs4"].names
    assert all(np.array_equal(*each) for each in zip(raw, (item.mask() for item in found), strict=True))


def test_conversions_that_are_refused(tmp_path: Path, lf) -> None:
    root = drawn.coco(tmp_path / "coco")
    masks_, images = root / "panoptic_val2017", root / "val2017"
    other = drawn.save(tmp_path / "other" / "a.png", drawn.photo()).parent
    for words, code, what in (
        ((images, masks_), 2, "holds the panoptic PNG files themselves; choose another folder for the masks"),
        ((images, other), 2, "holds other PNG files; choose another folder for the masks"),
        (
            (images, tmp_path / "out", "--to", "cs5"),
            2,
            "unknown label set for COCO 'cs5'; did you mean 'cs4'? known: cs34",
        ),
        ((images, tmp_path / "out", "--from", "voc"), 2, "unknown source of masks 'voc'; known: coco-panoptic"),
        ((root, tmp_path / "out"), 5, "panoptic_coco is not there; expected a folder such as COCO/val2017"),
    ):
        got, _, error = lf("data", "masks", *words)
        assert (got, error.count("\n")) == (code, 1), error
        assert what in error
    assert all(name in data_masks.SETS for name in ("cs34", "cs34-fork", "cs19", "cs4", "coco133"))


def test_every_mask_of_the_sample_is_the_forks(shared: Path, tmp_path: Path) -> None:
    expected = json.loads((shared / "parity" / "segmentation" / "coco_cs34_fork.json").read_text())["images"]
    void = 0
    for split in ("train2017", "val2017"):
        tally = convert.convert(shared / "data" / "coco_sample" / split, "cs34-fork", tmp_path / split)
        void += tally.void
        assert (tally.without_annotation, tally.without_png) == (0, 0)
    assert len(expected) == 70
    for name, row in expected.items():
        mask = png.read_ids(tmp_path / name)
        assert list(mask.shape) == row["shape"]
        assert hashlib.sha256(mask.tobytes()).hexdigest() == row["sha256_of_bytes"]
        assert {str(n): c for n, c in enumerate(np.bincount(mask.ravel()).tolist()) if c} == row["counts"]
    assert void == sum(row["void_pixels"] for row in expected.values())


def test_our_table_is_the_stored_one(shared: Path) -> None:
    stored = json.loads((shared / "parity" / "segmentation" / "coco_cs34_proposal.json").read_text())
    assert {str(row.id): row.ours for row in CATEGORIES} == stored


def test_notes_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = drawn.pairs(tmp_path)
    for _ in range(2):
        opened(f"{root}@cs4")
    assert capsys.readouterr().err.count("without a mask") == 1
