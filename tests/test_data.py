"""The data room: known geometry, repeatable images, disjoint splits, real layouts, and files that lie."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lf.core import BadInput, UsageError
from lf.data import DATASETS, DRAWN, dataset_digest, headers, hpatches, images, open_dataset, photometric, warps
from lf.data import homography as geometry
from lf.data import kept as kept_pictures
from lf.data.drawn import procedural
from lf.data.drawn.surfaces import FIELDS, surface

SMALL = (96, 128)
seeds = st.integers(0, 2**32 - 1)


def write(path: Path, image: np.ndarray) -> Path:
    """Write an image file, whatever its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def noise(height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """An HPatches folder: v_a with pairs 1_2 and 1_10, i_b with 1_2, and something that is no sequence."""
    for name, numbers in {"v_a": (2, 10), "i_b": (2,), "notes": ()}.items():
        for k in (1, *numbers):
            write(tmp_path / name / f"{k}.png", noise())
        for k in numbers:
            (tmp_path / name / f"H_1_{k}").write_text(f"1 0 {k}\n0 1 0\n0 0 1\n")
    return tmp_path


# Geometry


def test_resize_matrix_aligns_pixel_areas() -> None:
    matrix = geometry.resize_matrix((100, 200), (50, 800))
    np.testing.assert_allclose(geometry.warp_points(np.array([[0, 0], [10, 20]]), matrix), [[1.5, -0.25], [41.5, 9.75]])
    borders = geometry.warp_points(np.array([[-0.5, -0.5], [199.5, 99.5]]), matrix)
    np.testing.assert_allclose(borders, [[-0.5, -0.5], [799.5, 49.5]])


@given(seeds)
def test_warping_there_and_back_returns_every_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = geometry.sample(rng, SMALL, perspective=0.24, rotation=180, scale=3, translation=1)
    points = rng.uniform(0, 95, (20, 2))
    back = geometry.warp_points(geometry.warp_points(points, matrix), np.linalg.inv(matrix))
    np.testing.assert_allclose(back, points, atol=1e-6)


@given(seeds)
def test_four_points_land_where_they_should(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = geometry.corners((300, 400))
    target = source + rng.uniform(-60, 60, (4, 2))
    np.testing.assert_allclose(geometry.warp_points(source, geometry.four_point(source, target)), target, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_a_rendered_dot_lands_where_the_homography_says(seed: int) -> None:
    matrix = geometry.sample(np.random.default_rng(seed), (240, 320), perspective=0.1)
    y, x = np.mgrid[:240, :320]
    dot = 255 * np.exp(-((x - 150.25) ** 2 + (y - 120.5) ** 2) / (2 * 2.0**2))
    warped = geometry.warp_image(dot.astype(np.float32), matrix, (480, 640))
    expected = geometry.warp_points(np.array([[150.25, 120.5]]), matrix)[0]
    y, x = np.mgrid[:480, :640]
    centre = np.array([(warped * x).sum(), (warped * y).sum()]) / warped.sum()
    assert np.linalg.norm(centre - expected) < 0.1  # px


def test_a_point_on_the_line_at_infinity_is_not_finite_and_silent() -> None:
    sends_x1_away = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 1]])
    warped = geometry.warp_points(np.array([[1.0, 5.0], [0.0, 5.0]]), sends_x1_away)
    assert np.isfinite(warped).all(axis=1).tolist() == [False, True]
    assert geometry.warp_points(np.empty((0, 2)), np.eye(3)).shape == (0, 2)


@pytest.mark.parametrize("wrong", [{"perspective": 0.25}, {"perspective": -0.1}, {"scale": 0.5}])
def test_sampler_refuses_what_it_cannot_draw(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"need perspective in \[0, 0.25\) and scale >= 1"):
        geometry.sample(np.random.default_rng(0), SMALL, **wrong)


# Procedural pictures


@pytest.mark.parametrize("family", procedural.FAMILIES)
def test_a_picture_depends_on_family_seed_and_size_only(family: str) -> None:
    picture = procedural.draw(family, 7, SMALL)
    assert picture.shape == (*SMALL, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, procedural.draw(family, 7, SMALL))
    assert (picture != procedural.draw(family, 8, SMALL)).any()


@pytest.mark.parametrize("family", procedural.FAMILIES)
def test_pictures_have_contrast(family: str) -> None:
    deviations = [procedural.draw(family, seed, SMALL).std() for seed in range(8)]
    assert np.median(deviations) > 20  # grey levels


@pytest.mark.parametrize("size", [(32, 32), (33, 200), (200, 33)])
@pytest.mark.parametrize("family", procedural.FAMILIES)
def test_pictures_of_awkward_sizes(family: str, size: tuple[int, int]) -> None:
    for seed in range(3):
        assert procedural.draw(family, seed, size).shape == (*size, 3)


@pytest.mark.parametrize("kind", FIELDS)
def test_surfaces_are_reflectances(kind: str) -> None:
    drawn = surface(np.random.default_rng(3), SMALL, kind)
    assert drawn.dtype == np.float32
    assert 0 <= drawn.min() < drawn.max() <= 1


def test_training_never_sees_a_held_out_family_or_seed() -> None:
    assert set(procedural.HELD_OUT_FAMILIES) <= set(procedural.FAMILIES)
    assert not set(procedural.TRAIN_FAMILIES) & set(procedural.HELD_OUT_FAMILIES)
    for index in (0, 1, 5, procedural.HELD_OUT_SEED - 1):
        family, seed = procedural.held_out(index)
        assert family in procedural.HELD_OUT_FAMILIES
        assert procedural.HELD_OUT_SEED <= seed < 2**32
        family, seed = procedural.training(index)
        assert family in procedural.TRAIN_FAMILIES
        assert seed < procedural.HELD_OUT_SEED


@pytest.mark.parametrize("index", [-1, procedural.HELD_OUT_SEED])
@pytest.mark.parametrize("door", [procedural.training_picture, procedural.held_out_picture])
def test_the_doors_refuse_numbers_of_the_other_side(door: object, index: int) -> None:
    with pytest.raises(UsageError, match="have numbers in"):
        door(index)  # type: ignore[operator]


def test_unknown_family_is_offered_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'mosaic'"):
        procedural.draw("mosiac", 0)


# Photometric changes


@given(seeds, st.sampled_from([0.0, 0.35, 1.0]))
@settings(max_examples=30, deadline=None)
def test_photometric_changes_repeat_and_keep_the_shape(seed: int, strength: float) -> None:
    image = noise()
    changed = photometric.change(image, np.random.default_rng(seed), strength)
    assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(changed, photometric.change(image, np.random.default_rng(seed), strength))


@pytest.mark.parametrize("seed", range(4))
def test_tone_and_shade_are_these_formulas_bit_by_bit(seed: int) -> None:
    image, rng = noise(), np.random.default_rng(seed)
    bent = 255 * (image.astype(np.float32) / 255) ** np.float32(2 ** (0.5 * rng.uniform(-0.8, 0.8)))
    contrast, cast, mean = 2 ** (0.5 * rng.uniform(-1, 0.6)), 1 + 0.5 * rng.uniform(-0.08, 0.08, 3), bent.mean()
    toned = (((bent - mean) * contrast + mean + 0.5 * rng.uniform(-50, 50)) * cast).astype(np.float32)
    np.testing.assert_array_equal(photometric.tone(image, np.random.default_rng(seed), 0.5), toned)
    factor = photometric.shade(np.ones_like(toned), np.random.default_rng(seed), 0.5)
    np.testing.assert_array_equal(photometric.shade(toned, np.random.default_rng(seed), 0.5), toned * factor)


@pytest.mark.parametrize("seed", range(12))
def test_blur_moves_no_pixel(seed: int) -> None:
    dot = np.zeros((31, 31), np.float32)
    dot[15, 15] = 1
    blurred = photometric.blur(dot, np.random.default_rng(seed), 1.0)
    y, x = np.mgrid[:31, :31]
    assert (blurred * x).sum() / blurred.sum() == pytest.approx(15, abs=1e-4)
    assert (blurred * y).sum() / blurred.sum() == pytest.approx(15, abs=1e-4)


# Image files


@pytest.mark.parametrize("suffix", images.SUFFIXES)
def test_every_suffix_is_read_as_rgb(tmp_path: Path, suffix: str) -> None:
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 2] = 200  # OpenCV writes BGR
    path = write(tmp_path / f"a{suffix}", red if suffix != ".pgm" else red[..., 2])
    expected = (200, 200, 200) if suffix == ".pgm" else (200, 0, 0)
    np.testing.assert_allclose(images.read(path)[10, 10], expected, atol=3)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16)
    path = write(tmp_path / "a.png", np.tile(values, (16, 1)))
    np.testing.assert_array_equal(images.read(path)[3, :, 1], np.arange(256))


@pytest.mark.parametrize("most", [1, 15, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_white_of_a_pnm_file_is_white(tmp_path: Path, kind: str, most: int) -> None:
    values = np.arange(48 * 64).reshape(48, 64) * most // (48 * 64 - 1)
    plane = np.dstack([values] * 3) if kind in ("P3", "P6") else values
    text = " ".join(map(str, plane.ravel())).encode() + b"\n"
    body = text if kind in ("P2", "P3") else plane.astype(np.uint8 if most < 256 else ">u2").tobytes()
    (tmp_path / "a.pnm").write_bytes(f"{kind} # made up\n64 48\n{most}\n".encode() + body)
    rounding = 1 if kind in ("P2", "P3") and most < 255 else 0.51  # OpenCV cuts those off
    np.testing.assert_allclose(images.read(tmp_path / "a.pnm")[..., 1], values * (255 / most), atol=rounding)


SIZED = {
    **{suffix: [] for suffix in images.SUFFIXES},
    ".lossless.webp": [cv2.IMWRITE_WEBP_QUALITY, 101],
    ".lossy.webp": [cv2.IMWRITE_WEBP_QUALITY, 80],
}


@pytest.mark.parametrize("suffix", SIZED)
def test_every_suffix_declares_its_size(suffix: str) -> None:
    image = noise() if suffix != ".pgm" else noise()[..., 0]
    data = cv2.imencode(f".{suffix.split('.')[-1]}", image, SIZED[suffix])[1].tobytes()
    assert headers.declared_size(data) == (48, 64)
    for kept in range(0, 64, 3):
        assert headers.declared_size(data[:kept]) in (None, (48, 64))


def tiff(**tags: int) -> bytes:
    """A big-endian TIFF that is all header: tags by their numbers."""
    body = b"".join(struct.pack(">HHIHH", int(tag[1:]), 3, 1, value, 0) for tag, value in tags.items())
    return b"MM\0*" + struct.pack(">IH", 8, len(tags)) + body


def test_a_turned_tiff_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(t256=64, t257=48, t274=6))
    with pytest.raises(BadInput, match=r"a.tif: a TIFF with a rotation tag, which cannot be ignored; save it without"):
        images.read(tmp_path / "a.tif")


def test_alpha_is_dropped_and_orientation_ignored(tmp_path: Path) -> None:
    rgba = np.dstack([noise(), np.zeros((48, 64), np.uint8)])
    np.testing.assert_array_equal(images.read(write(tmp_path / "a.png", rgba)), noise()[..., ::-1])
    jpeg = write(tmp_path / "b.jpg", noise()).read_bytes()
    quarter_turn = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    segment = b"\xff\xe1" + struct.pack(">H", len(quarter_turn) + 2) + quarter_turn
    (tmp_path / "b.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    assert images.read(tmp_path / "b.jpg").shape == (48, 64, 3)


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\0\0\0"


JPEG_HEADER = b"\xff\xd8\xff\xe0\0\x04ab\xff\xff\xc0\0\x11\x08" + struct.pack(">HH", 60000, 50000)
HUGE = "declares 50000 x 60000 pixels; expected at most 100 million"
BAD_FILES = {
    "empty": (b"", "0 bytes that do not decode"),
    "text": (b"hello, I am a picture", "21 bytes that do not decode .* expected a whole image file"),
    "huge png": (png_header(50000, 60000), HUGE),
    "huge jpeg": (JPEG_HEADER, HUGE),
    "huge ppm": (b"P6 # made up\n50000 60000\n255\n", HUGE),
    "huge bmp": (b"BM" + bytes(16) + struct.pack("<ii", 50000, -60000), HUGE),
    "huge tiff": (tiff(t256=50000, t257=60000), HUGE),
    "huge webp": (
        b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + struct.pack("<IH", 49999 | (59999 & 0xFF) << 24, 59999 >> 8),
        HUGE,
    ),
    "png header only": (png_header(64, 64), "do not decode"),
    "damaged jpeg": (b"\xff\xd8\xff\xe0\0\x04abcd", "do not decode"),
    "one pixel": (b"P5 1 1 255 \x80", "1 x 1 pixels; expected at least 16 x 16"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named_and_explained(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, words = BAD_FILES[name]
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=f"picture.png: .*{words}"):
        images.read(path)
    assert capfd.readouterr().err == ""  # no words of OpenCV, libpng or libjpeg


@pytest.mark.parametrize("suffix", images.SUFFIXES)
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    image = noise() if suffix != ".pgm" else noise()[..., 0]
    path = write(tmp_path / f"a{suffix}", image)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput, match="damaged, cut short"):
        images.read(path)
    assert capfd.readouterr().err == ""


def test_threads_that_read_damaged_files_say_nothing_and_give_stderr_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = [write(tmp_path / f"{n}.png", noise()) for n in range(40)]
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def attempt(path: Path) -> bool:
        with pytest.raises(BadInput):
            images.read(path)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(attempt, paths))
    os.write(2, b"here again")
    assert capfd.readouterr().err == "here again"


def test_a_jpeg_with_words_to_say_is_read_without_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jpg", noise())
    path.write_bytes(path.read_bytes()[:-2] + bytes(100) + b"\xff\xd9")
    assert images.read(path).shape == (48, 64, 3)
    assert capfd.readouterr().err == ""


def test_absent_files_and_floats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no.png: cannot be read \(No such file"):
        images.read(tmp_path / "no.png")
    with pytest.raises(BadInput, match="cannot be read"):
        images.picture(tmp_path / "no.png", "key")
    with pytest.raises(BadInput, match="holds float32 values; expected 8 or 16 bits"):
        images.read(write(tmp_path / "a.tiff", noise().astype(np.float32)))
    assert images.read(write(tmp_path / "b.png", noise(1, 1)), smallest=1).shape == (1, 1, 3)


def test_images_are_listed_in_byte_order_through_links(tmp_path: Path) -> None:
    for name in ("photos/b/1.JPG", "photos/a.png", "photos/B.png", "elsewhere/c.png", "photos/.hidden.png"):
        write(tmp_path / name, noise())
    (tmp_path / "photos/z").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/b/round").symlink_to(tmp_path / "photos")
    found = [p.relative_to(tmp_path / "photos").as_posix() for p in images.list_images(tmp_path / "photos")]
    assert found == ["B.png", "a.png", "b/1.JPG", "z/c.png"]
    assert len(images.list_images(tmp_path / "photos", limit=2)) == 2


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no image; expected files with one of \.png"):
        images.list_images(tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        images.list_images(tmp_path / "no")


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The permissions themselves do not keep root out."""
    for name in ("a.png", "closed/b.png"):
        write(tmp_path / name, noise())

    def scan(folder: Path | str) -> Iterator[os.DirEntry[str]]:
        if Path(folder).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(BadInput, match=r"closed: cannot be read \(Permission denied\); expected a folder of images"):
        images.list_images(tmp_path)


# HPatches


def test_a_root_that_cannot_be_read_is_named(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(folder: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(BadInput, match=r"cannot be read \(Permission denied\); expected a folder of sequences"):
        hpatches.pairs(scenes)


def test_sequences_and_pairs_come_in_order(scenes: Path) -> None:
    pairs = hpatches.pairs(scenes)
    assert [(p.sequence, p.name) for p in pairs] == [("i_b", "1_2"), ("v_a", "1_2"), ("v_a", "1_10")]
    assert pairs[2].second.key == "v_a/10"
    assert pairs[2].homography[0, 2] == 10
    assert pairs[0].first.digest == hashlib.sha256((scenes / "i_b/1.png").read_bytes()).hexdigest()
    np.testing.assert_array_equal(pairs[0].first.load(), noise()[..., ::-1])
    assert [p.sequence for p in hpatches.pairs(scenes, exclude=["i_b"])] == ["v_a", "v_a"]


def test_a_limit_takes_both_kinds(scenes: Path) -> None:
    for name in ("i_c", "i_d"):
        (scenes / name).symlink_to(scenes / "i_b")
    assert {p.sequence for p in hpatches.pairs(scenes, limit_sequences=2)} == {"i_b", "v_a"}
    assert {p.sequence for p in hpatches.pairs(scenes, limit_sequences=3)} == {"i_b", "i_c", "v_a"}


BAD_HOMOGRAPHIES = {
    "1 0 0 1": "H_1_2: 4 numbers, expected 9",
    "": "H_1_2: 0 numbers, expected 9",
    "1 0 0 0 1 0 0 0 nan": "not finite",
    "1 0 0 0 1 0 0 0 one": r"cannot be read as a homography \(could not convert .*expected 9 numbers",
    "1 2 3 2 4 6 0 0 1": "has no inverse",
    "0 0 0 0 0 0 0 0 0": "has no inverse",
}


@pytest.mark.parametrize("text", BAD_HOMOGRAPHIES)
def test_bad_homographies_are_named_and_explained(scenes: Path, text: str) -> None:
    (scenes / "v_a/H_1_2").write_text(text)
    with pytest.raises(BadInput, match=BAD_HOMOGRAPHIES[text]):
        hpatches.pairs(scenes)


def test_incomplete_hpatches_folders_are_refused(scenes: Path) -> None:
    (scenes / "v_a/10.png").unlink()
    with pytest.raises(BadInput, match=r"v_a: image 10 is missing; expected 10 with one of .ppm"):
        hpatches.pairs(scenes)
    with pytest.raises(BadInput, match=r"notes: holds no sequence; expected folders .* photos, type warps:.*notes$"):
        hpatches.pairs(scenes / "notes")
    with pytest.raises(BadInput, match="no such folder"):
        hpatches.pairs(scenes / "no")
    for file in (scenes / "i_b").glob("H_*"):
        file.unlink()
    with pytest.raises(BadInput, match="i_b: holds no homography"):
        hpatches.pairs(scenes)


@pytest.mark.parametrize(("name", "sequences", "count"), [("oxford", 5, 25), ("hpatches", 2, 10), ("homogr", 8, 8)])
def test_real_layouts(shared: Path, name: str, sequences: int, count: int) -> None:
    pairs = open_dataset(str(shared / "data" / name))
    assert (len({p.sequence for p in pairs}), len(pairs)) == (sequences, count)
    assert pairs[0].first.load().shape[2] == 3


# Made-up pairs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(2):
        write(tmp_path / f"{seed}.png", procedural.draw("scene", 2**31 + seed, (360, 480)))
    return tmp_path


def test_warped_pairs_agree_with_their_homographies(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photometric, "change", lambda image, *_: image)
    pairs = warps.pairs(photos, pairs_per_photo=3)
    assert {p.source for pair in pairs for p in (pair.first, pair.second)} == {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in photos.iterdir()
    }
    assert [p.sequence[0] for p in pairs] == ["v"] * 3 + ["i"] * 3
    for pair in pairs:
        first, second = pair.first.load(), pair.second.load()
        assert first.shape == second.shape == (*warps.SIZE, 3)
        assert second.any(axis=2).mean() > 0.95  # no black border
        seen = geometry.warp_image(np.full(warps.SIZE, 255, np.uint8), pair.homography, warps.SIZE) == 255
        predicted = geometry.warp_image(cv2.GaussianBlur(first, (0, 0), 2), pair.homography, warps.SIZE)
        difference = np.abs(predicted.astype(float) - cv2.GaussianBlur(second, (0, 0), 2))[seen].mean()
        assert difference < (1 if pair.sequence[0] == "i" else 6)  # grey levels; views at two scales differ in blur
        assert np.array_equal(pair.homography, np.eye(3)) == (pair.sequence[0] == "i")


@pytest.mark.parametrize("spec", ["warps:{photos}", "procedural:4"])
def test_made_up_pairs_repeat_and_follow_the_seed(photos: Path, spec: str) -> None:
    spec = spec.format(photos=photos)
    pairs, again, other = open_dataset(spec), open_dataset(spec), open_dataset(spec, seed=1)
    assert dataset_digest(pairs) == dataset_digest(again) != dataset_digest(other)
    assert len({p.key for pair in pairs for p in (pair.first, pair.second)}) == 2 * len(pairs)
    np.testing.assert_array_equal(pairs[-1].second.load(), again[-1].second.load())
    assert (pairs[-1].second.load() != other[-1].second.load()).any()


def test_views_of_one_photo_read_it_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = images.read, list[Path]()
    monkeypatch.setattr(images, "read", lambda path, *more: seen.append(path) or read(path, *more))  # type: ignore[func-returns-value]
    pair = warps.pairs(photos, limit_sequences=1)[0]
    first, second = pair.first.load(), pair.second.load()
    assert len(seen) == 1
    warps.stage.cache_clear()
    np.testing.assert_array_equal(second, pair.second.load())
    np.testing.assert_array_equal(first, pair.first.load())
    assert len(seen) == 2


def test_kept_pairs_load_each_picture_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = warps.pairs(photos, limit_sequences=2)
    pixels = [picture.load() for pair in pairs for picture in (pair.first, pair.second)]
    monkeypatch.setattr(kept_pictures, "MOST", 3 * pixels[0].nbytes)
    kept = kept_pictures.kept(pairs)
    pictures = [picture for pair in kept for picture in (pair.first, pair.second)]
    first, again = ([picture.load() for picture in pictures] for _ in range(2))
    for one, other, expected in zip(first, again, pixels, strict=True):
        np.testing.assert_array_equal(one, expected)
        np.testing.assert_array_equal(other, expected)
        assert not one.flags.writeable
    assert [one is other for one, other in zip(first, again, strict=True)] == [True, True, True, False]
    assert [picture.digest for picture in pictures] == [p.digest for pair in pairs for p in (pair.first, pair.second)]


def test_drawn_pairs_show_every_held_out_family_in_both_kinds() -> None:
    names = [pair.sequence for pair in warps.drawn(4)]
    assert {(n[0], n.rpartition("_")[2]) for n in names} == {(k, f) for k in "iv" for f in procedural.HELD_OUT_FAMILIES}


# The table


def test_a_dataset_is_named_by_row_or_folder(scenes: Path, photos: Path) -> None:
    assert len(open_dataset(f"hpatches:{scenes}")) == len(open_dataset(str(scenes))) == 3
    assert len(open_dataset(f"warps:{photos}", limit_sequences=1)) == 1
    assert len(open_dataset("procedural", limit_sequences=2)) == 2
    with_colon = scenes / "set:1"
    with_colon.mkdir()
    (with_colon / "v_a").symlink_to(scenes / "v_a")
    assert len(open_dataset(str(with_colon))) == len(open_dataset(f"hpatches:{with_colon}")) == 2


BAD_SPECS = {
    "warp:photos": "unknown dataset 'warp'; did you mean 'warps'",
    "procedural:many": "'procedural:many' needs a number of sequences",
    "procedural:0": "needs a number of sequences",
    **{f"{name}:": "needs a folder after the colon" for name in DATASETS if name not in DRAWN},
}


@pytest.mark.parametrize("spec", BAD_SPECS)
def test_bad_dataset_names_are_explained(spec: str) -> None:
    with pytest.raises(UsageError, match=BAD_SPECS[spec]):
        open_dataset(spec)


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in DRAWN])
def test_every_row_explains_a_missing_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        open_dataset(f"{name}:{tmp_path}/no")
    with pytest.raises(UsageError, match="limit on sequences must be at least 1"):
        open_dataset(f"{name}:{tmp_path}", limit_sequences=0)


def test_the_digest_of_made_pairs_leaves_out_the_last_bits_of_their_homographies() -> None:
    made = open_dataset("procedural:2")
    pair = made[0]
    other = [replace(pair, truth=np.nextafter(pair.homography, np.inf)), *made[1:]]
    assert dataset_digest(other) == dataset_digest(made)
    assert dataset_digest(open_dataset("procedural:2", seed=1)) != dataset_digest(made)


def test_the_digest_sees_pixels_and_homographies(scenes: Path) -> None:
    before = dataset_digest(open_dataset(str(scenes)))
    (scenes / "v_a/H_1_2").write_text("1 0 2\n0 1 0.001\n0 0 1\n")
    moved = dataset_digest(open_dataset(str(scenes)))
    write(scenes / "i_b/2.png", 255 - noise())
    assert len({before, moved, dataset_digest(open_dataset(str(scenes)))}) == 3
