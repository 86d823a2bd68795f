"""The HPatches layout: one name for every image and homography, any image format, homographies as people write them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from lf import data
from lf.benchmarks.run.suite import suite
from lf.core import BadInput
from lf.data import hpatches, images, open_dataset
from lf.extraction import store
from lf.models.resolve import resolve

NUMBERS = "0.9 0.1 7\n-0.1 0.8 3e-1\n1e-06 -2E-6 1\n"
MATRIX = [[0.9, 0.1, 7], [-0.1, 0.8, 0.3], [1e-6, -2e-6, 1]]


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    path.write_bytes(cv2.imencode(".png", drawn)[1].tobytes())
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One sequence of two pairs, three different images."""
    for k in (1, 2, 3):
        picture(tmp_path / "v_a" / f"{k}.png", k)
    for k in (2, 3):
        (tmp_path / "v_a" / f"H_1_{k}").write_text(NUMBERS)
    return tmp_path


def names(root: Path) -> list[str]:
    return [pair.name for pair in hpatches.pairs(root)]


# Names

REFUSED = {
    "H_1_02": "v_a: H_1_02 and H_1_2 are both the homography of image 2; delete one",
    "H_1_002": "v_a: H_1_002 and H_1_2 are both the homography of image 2; delete one",
    "H_1_\N{FULLWIDTH DIGIT TWO}": "v_a: H_1_\N{FULLWIDTH DIGIT TWO} and H_1_2 are both the homography of image 2",
    "H_1_1": "v_a/H_1_1: pairs image 1 with itself; delete the file",
    "H_1_01": "v_a/H_1_01: pairs image 1 with itself; delete the file",
    "H_1_04": "v_a/H_1_04: expected the name H_1_4; rename the file, or delete it",
    "H_1_4.txt": "v_a/H_1_4.txt: expected the name H_1_4; rename the file, or delete it",
    "H_1_4": "v_a: image 4 is missing; expected 4 with one of .ppm, .png, .jpg, .jpeg, .pgm, .bmp, .webp, .tif, .tiff",
    "1.PNG": "v_a: 1.PNG and 1.png are all image 1; keep one, delete the rest",
    "1.ppm": "v_a: 1.png and 1.ppm are all image 1; keep one, delete the rest",
    "02.png": "v_a: 02.png and 2.png are all image 2; keep one, delete the rest",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_second_name_is_refused(root: Path, name: str) -> None:
    """A second name is refused even if the content is the same, because the loader must not choose."""
    if name.startswith("H"):
        (root / "v_a" / name).write_text(NUMBERS)
    else:
        picture(root / "v_a" / name)
    with pytest.raises(BadInput, match=re.escape(REFUSED[name])):
        names(root)


@pytest.mark.parametrize(
    "name", ["H_1_2.bak", "H_1_2~", "H_1_02.orig", "H_1_1.bak", "H_1_x", "H_2_2", "H_2_3", "._H_1_9", "1.txt", "a.png"]
)
def test_other_files_change_nothing(root: Path, name: str) -> None:
    (root / "v_a" / name).write_text(NUMBERS)
    assert names(root) == ["1_2", "1_3"]


def test_an_image_with_leading_zeros_alone_is_told_its_name(root: Path) -> None:
    (root / "v_a/2.png").rename(root / "v_a/02.png")
    with pytest.raises(BadInput, match=r"v_a/02.png: expected the name 2.png; rename the file"):
        names(root)


def test_a_folder_or_a_broken_link_is_no_image(root: Path) -> None:
    (root / "v_a/2.ppm").mkdir()
    (root / "v_a/3.ppm").symlink_to("nothing")
    assert names(root) == ["1_2", "1_3"]


# Copies


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Remarks on stderr."""
    said: list[str] = []
    monkeypatch.setattr(data.console, "note", said.append)
    return said


def test_copies_of_a_sequence_count_and_are_told_once(root: Path, told: list[str]) -> None:
    assert len(open_dataset(str(root))) == 2
    assert told == []
    (root / "v_b").symlink_to(root / "v_a")
    shutil.copytree(root / "v_a", root / "i_c")
    assert len(open_dataset(str(root))) == len(open_dataset(str(root))) == 6
    assert told == [
        f"lf: {root}: 4 of 6 pairs are copies, such as v_a 1_2 as i_c 1_2: same images, same homography; "
        "each one counts, delete the copies"
    ]


def test_an_image_with_itself_among_pairs_is_told(root: Path, told: list[str]) -> None:
    shutil.copy(root / "v_a/1.png", root / "v_a/3.png")
    (root / "v_a/H_1_3").write_text("1 0 0 0 1 0 0 0 1")
    assert len(open_dataset(str(root))) == 2
    assert told == [
        f"lf: {root}: 1 of 2 pairs show one image twice, such as v_a 1_3: they count and measure nothing, delete them"
    ]


def test_a_dataset_of_images_with_themselves_is_a_test_of_the_tools(root: Path, told: list[str]) -> None:
    for k in (2, 3):
        shutil.copy(root / "v_a/1.png", root / f"v_a/{k}.png")
    (root / "v_a/H_1_3").write_text("1 0 0 0 1 0 0 0 1")
    assert len(open_dataset(str(root))) == 2
    assert told == []


def test_copies_of_a_photo_are_told(tmp_path: Path, told: list[str]) -> None:
    for name, seed in {"a.png": 0, "b.png": 1, "c.png": 0}.items():
        picture(tmp_path / name, seed)
    assert len(open_dataset(f"warps:{tmp_path}")) == 3
    assert [line.partition(": same")[0] for line in told] == [
        f"lf: warps:{tmp_path}: 1 of 3 pairs are copies, such as v_00002_c 1_2 as v_00000_a 1_2"
    ]


# Formats of images


@pytest.mark.parametrize("suffix", [*images.SUFFIXES, *(suffix.upper() for suffix in images.SUFFIXES), ".Jpg"])
def test_every_image_suffix_in_any_case(root: Path, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A suffix works in a sequence, for photos to warp, and for images to extract."""
    for k in (1, 2, 3):
        (root / f"v_a/{k}.png").rename(root / f"v_a/{k}{suffix}")
    pairs = hpatches.pairs(root)
    assert [pair.name for pair in pairs] == ["1_2", "1_3"]
    assert pairs[0].first.load().shape == (48, 64, 3)
    assert len(open_dataset(f"warps:{root}")) == 3
    assert list(store.find([root])) == [f"v_a/{k}{suffix}" for k in (1, 2, 3)]


# Homographies

READ = {
    "plain": NUMBERS.encode(),
    "byte order mark": b"\xef\xbb\xbf" + NUMBERS.encode(),
    "CRLF": NUMBERS.replace("\n", "\r\n").encode(),
    "CR": NUMBERS.replace("\n", "\r").encode(),
    "commas": NUMBERS.replace(" ", ",").encode(),
    "commas and spaces": NUMBERS.replace(" ", ", ").encode(),
    "spaces and commas": NUMBERS.replace(" ", " ,").encode(),
    "commas alone": NUMBERS.strip().replace("\n", ",").replace(" ", ",").encode(),
    "rows that end in a comma": NUMBERS.replace("\n", ",\r\n").encode(),
    "tabs": NUMBERS.replace(" ", "\t").encode(),
    "trailing white space": NUMBERS.replace("\n", "  \t\n").encode() + b"\n\n ",
    "byte order mark, commas, CRLF": b"\xef\xbb\xbf" + NUMBERS.replace(" ", ",").replace("\n", "\r\n").encode(),
}


@pytest.mark.parametrize("form", READ)
def test_homographies_are_read_as_people_write_them(tmp_path: Path, form: str) -> None:
    (tmp_path / "H_1_2").write_bytes(READ[form])
    assert hpatches.read_homography(tmp_path / "H_1_2").tolist() == MATRIX


UNREAD = {
    "UTF-16": (NUMBERS.encode("utf-16"), r"\('utf-8' codec can't decode byte 0xff"),
    "semicolons": (NUMBERS.replace(" ", ";").encode(), r"\(could not convert string to float: '0.9;0.1;7'"),
    "comment": (b"# one\n" + NUMBERS.encode(), r"\(could not convert string to float: '#'"),
    "Fortran": (NUMBERS.replace("e-", "D-").encode(), r"\(could not convert string to float: '3D-1'"),
    "brackets": (b"[[" + NUMBERS.encode() + b"]]", r"\(could not convert string to float: '\[\[0.9'"),
    "a missing number": (b"1,,0,0,1,0,0,0,1", r"\(could not convert string to float: ''"),
    "a long word": (b"x" * 60000, r"\(could not convert string to float: 'x{50,100}\); expected"),
    "a long file": (b"1 " * 60000, r"\(more than 65536 bytes\)"),
}


@pytest.mark.parametrize("form", UNREAD)
def test_other_homographies_are_refused_with_what_was_expected(tmp_path: Path, form: str) -> None:
    content, words = UNREAD[form]
    (tmp_path / "H_1_2").write_bytes(content)
    expected = "expected 9 numbers with spaces, line breaks or commas between them, as ASCII or UTF-8 text"
    with pytest.raises(BadInput, match=rf"H_1_2: cannot be read as a homography {words}") as raised:
        hpatches.read_homography(tmp_path / "H_1_2")
    assert str(raised.value).endswith(expected)
    assert "\n" not in str(raised.value)


def test_decimal_commas_are_not_taken_for_separators(tmp_path: Path) -> None:
    for text in (NUMBERS.replace(".", ","), "0,5 0 0 0 1 0 0 1", "0,5 0 0\n0 1 0\n0 1"):
        (tmp_path / "H_1_2").write_text(text)
        with pytest.raises(BadInput, match=r"H_1_2: cannot be read .*string to float: '[59] 0"):
            hpatches.read_homography(tmp_path / "H_1_2")


# The cases

WANTED = {"repeatability": 0.6416666666666667, "localization_error": 0.6241939786509907, "n_matches": 177}


def evaluated(boat: Path, root: Path, homography: Path, suffix: str = ".png") -> dict[str, float]:
    folder = root / "v_boat"
    folder.mkdir()
    for k in (1, 2):
        shutil.copy(boat / f"{k}.png", folder / f"{k}{suffix}")
    shutil.copy(homography, folder / "H_1_2")
    (run,) = suite([resolve("sift")], ["opencv"], str(root), "kp2d", repeats=0)
    return {name: run.pairs[0].extra[name] for name in WANTED}


@pytest.mark.parametrize("form", ["plain", "bom", "comma", "commasp"])
def test_the_cases_of_homographies(shared: Path, tmp_path: Path, form: str) -> None:
    case = shared / "cases/08-homography-text" / f"H_1_2.{form}"
    assert evaluated(shared / "data/oxford/v_boat", tmp_path, case) == pytest.approx(WANTED, abs=1e-12)


@pytest.mark.parametrize("suffix", [".PNG", ".JPG", ".bmp", ".webp", ".pgm"])
def test_the_cases_of_suffixes(shared: Path, tmp_path: Path, suffix: str) -> None:
    boat = shared / "data/oxford/v_boat"
    assert evaluated(boat, tmp_path, boat / "H_1_2", suffix) == pytest.approx(WANTED, abs=1e-12)
