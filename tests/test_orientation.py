"""Rotation tags: every container is read in stored orientation, or refused; never turned."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from lf.core import BadInput
from lf.data import headers, images

TURNS = range(2, 9)
RULES = "a TIFF with a rotation tag, which cannot be ignored; save it without, or as PNG"
HEIGHT, WIDTH = 24, 40

Entry = tuple[int, int, int, bytes]  # tag, type, count, value as stored


def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def smooth(colour: bool) -> np.ndarray:
    """An image without symmetry: rotation or mirroring changes it far more than lossy compression."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    plane = 20 + 3 * x + 4 * y
    return np.dstack([plane, 255 - plane, plane // 2] if colour else [plane] * 3).astype(np.uint8)


def exif(turn: int) -> bytes:
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 274, 3, 1, turn, 0) + bytes(4)


def jpeg(image: np.ndarray, turn: int) -> bytes:
    body = b"Exif\0\0" + exif(turn)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def png(image: np.ndarray, turn: int) -> bytes:
    data, body = cv2.imencode(".png", image)[1].tobytes(), b"eXIf" + exif(turn)
    return data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def webp(image: np.ndarray, turn: int, quality: int = 101) -> bytes:
    height, width = image.shape[:2]
    data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
    at = data.index(b"VP8 " if quality <= 100 else b"VP8L")
    (size,) = struct.unpack_from("<I", data, at + 4)
    first = b"\x08\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + first + data[at : at + 8 + size + size % 2]
    chunks += b"EXIF" + struct.pack("<I", len(exif(turn))) + exif(turn)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def directory(order: str, big: bool, at: int, entries: list[Entry], following: int = 0) -> bytes:
    """A directory of a TIFF file: it says where the next one begins."""
    word, wide = ("Q", 8) if big else ("I", 4)
    rows = [struct.pack(f"{order}HH{word}", *entry[:3]) + entry[3].ljust(wide, b"\0") for entry in entries]
    return struct.pack(order + ("Q" if big else "H"), len(rows)) + b"".join(rows) + struct.pack(order + word, following)


def tiff(
    image: np.ndarray, *orientation: Entry, order: str = "<", big: bool = False, later: tuple[Entry, ...] = ()
) -> bytes:
    """An uncompressed grey TIFF file; `later` are tags of a second page that shows the same pixels."""
    word = "Q" if big else "I"
    start = 16 if big else 8

    def short(tag: int, value: int) -> Entry:
        return tag, 3, 1, struct.pack(order + "H", value)

    def tags(more: tuple[Entry, ...]) -> list[Entry]:
        shape = [short(256, image.shape[1]), short(257, image.shape[0]), short(258, 8), short(259, 1), short(262, 1)]
        kind = 16 if big else 4
        strips = (273, kind, 1, struct.pack(order + word, start)), (279, kind, 1, struct.pack(order + word, image.size))
        rest = [strips[0], short(277, 1), short(278, image.shape[0]), strips[1]]
        return sorted([*shape, *rest, *more], key=lambda entry: entry[0])

    begin = start + image.size
    length = len(directory(order, big, begin, tags(orientation)))
    first = directory(order, big, begin, tags(orientation), begin + length if later else 0)
    second = directory(order, big, begin + length, tags(later)) if later else b""
    marks = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    marks += struct.pack(order + "HHQ", 8, 0, begin) if big else struct.pack(order + "I", begin)
    return marks + image.tobytes() + first + second


def read(tmp_path: Path, data: bytes, name: str = "a.png") -> np.ndarray:
    (tmp_path / name).write_bytes(data)
    return images.read(tmp_path / name)


KINDS = [(order, big) for order in "<>" for big in (False, True)]


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("container", [jpeg, png, webp, lambda image, turn: webp(image, turn, 95)])
def test_tags_are_not_obeyed(tmp_path: Path, container: Callable[..., bytes], turn: int, colour: bool) -> None:
    stored = smooth(colour)
    data = container(stored if colour else stored[..., 0], turn)
    found = read(tmp_path, data)
    assert np.abs(found[..., ::-1].astype(int) - stored).mean() < 3
    obeyed = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # the tag is there: others do obey it
    assert obeyed is not None
    assert obeyed.shape != stored.shape or np.abs(obeyed.astype(int) - stored).mean() > 10


@pytest.mark.parametrize(("order", "big"), KINDS)
def test_tiff_without_a_turn_is_read_as_stored(tmp_path: Path, order: str, big: bool) -> None:
    upright = (274, 3, 1, struct.pack(order + "H", 1))
    turned = (274, 3, 1, struct.pack(order + "H", 6))
    for data in (
        tiff(grey(), order=order, big=big),
        tiff(grey(), upright, order=order, big=big),
        tiff(grey(), (274, 4, 1, struct.pack(order + "I", 1)), order=order, big=big),
        tiff(grey(), upright, order=order, big=big, later=(turned,)),  # only the first page is read
    ):
        assert headers.declared_size(data) == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(read(tmp_path, data)[..., 1], grey())


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(("order", "big"), KINDS)
def test_turned_tiff_is_refused(tmp_path: Path, order: str, big: bool, turn: int) -> None:
    """The tag may have any type, be repeated, or be a list."""
    short, long = struct.pack(order + "H", turn), struct.pack(order + "I", turn)
    upright = (274, 3, 1, struct.pack(order + "H", 1))
    for tags in (
        [(274, 3, 1, short)],
        [(274, 4, 1, long)],
        [(274, 1, 1, bytes([turn]))],
        [(274, 3, 2, short * 2)],
        [(274, 3, 0, short)],
        [(274, 3, 2**31, short)],
        [(274, 16, 1, struct.pack(order + "Q", turn)[: 8 if big else 4])],
        [(274, 2, 1, b"x")],
        [upright, (274, 3, 1, short)],
        [(274, 3, 1, short), upright],
    ):
        data = tiff(grey(), *tags, order=order, big=big)
        with pytest.raises(BadInput, match=f"a.tif: {RULES}"):
            read(tmp_path, data, "a.tif")
    control = cv2.imdecode(np.frombuffer(tiff(grey(), (274, 3, 1, short), order=order, big=big), np.uint8), 0)
    assert control is None or control.shape != grey().shape or (control != grey()).any()  # OpenCV obeys it


@pytest.mark.parametrize(("order", "big"), KINDS)
def test_a_tiff_cut_anywhere_is_refused(tmp_path: Path, order: str, big: bool) -> None:
    data = tiff(grey(), (274, 3, 1, struct.pack(order + "H", 6)), order=order, big=big)
    for kept in range(4, len(data) - 1, 7):
        with pytest.raises(BadInput, match=f"{RULES}|do not decode"):
            read(tmp_path, data[:kept])


def test_a_bigtiff_that_points_far_away_is_refused(tmp_path: Path) -> None:
    for rest in (struct.pack("<HHQ", 8, 0, 2**64 - 1), struct.pack("<HHQQ", 8, 0, 16, 2**63) + bytes(4000)):
        with pytest.raises(BadInput, match="do not decode"):
            read(tmp_path, b"II+\0" + rest)


def test_a_bigtiff_is_measured_before_it_is_decoded(tmp_path: Path) -> None:
    sides = [(tag, 4, 1, struct.pack("<I", side)) for tag, side in ((256, 50000), (257, 60000))]
    data = b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + directory("<", True, 16, sides)
    with pytest.raises(BadInput, match="declares 50000 x 60000 pixels; expected at most 100 million"):
        read(tmp_path, data)


@pytest.mark.parametrize("suffix", [".jp2", ".gif", ".avif", ".ras", ".pam"])
def test_other_containers_are_refused_whatever_their_name(tmp_path: Path, suffix: str) -> None:
    """Their headers, and so their sizes and rotation tags, are not known here."""
    if not cv2.haveImageWriter(suffix):
        pytest.skip(f"this OpenCV writes no {suffix}")
    data = cv2.imencode(suffix, cv2.resize(smooth(colour=True), (320, 240)))[1].tobytes()
    with pytest.raises(BadInput, match=r"do not decode .*; expected a whole image file of one of the types \.png"):
        read(tmp_path, data)


def test_a_file_that_decodes_to_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decode", lambda data: smooth(colour=True).swapaxes(0, 1))
    data = cv2.imencode(".png", smooth(colour=True))[1].tobytes()
    with pytest.raises(BadInput, match=r"a.png: declares \(H, W\) \(24, 40\) and decodes to \(40, 24\)"):
        read(tmp_path, data)


def test_bitmaps_are_read_as_they_are_shown(tmp_path: Path) -> None:
    """Rows from the bottom or from the top, and the oldest header."""
    data = cv2.imencode(".bmp", smooth(colour=True))[1].tobytes()
    (begin,) = struct.unpack_from("<I", data, 10)
    rows = np.frombuffer(data[begin:], np.uint8).reshape(HEIGHT, -1)
    down = data[:22] + struct.pack("<i", -HEIGHT) + data[26:begin] + rows[::-1].tobytes()
    old = b"BM" + struct.pack("<IIIIHHHH", 26 + rows.size, 0, 26, 12, WIDTH, HEIGHT, 1, 24) + rows.tobytes()
    for each in (data, down, old):
        assert headers.declared_size(each) == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(read(tmp_path, each)[..., ::-1], smooth(colour=True))


def test_a_jpeg_with_stray_bytes_between_its_segments_is_read(tmp_path: Path) -> None:
    data = cv2.imencode(".jpg", smooth(colour=True))[1].tobytes()
    stray = data[:2] + b"\xff\x01\xff\xd0ab\xff\xff" + data[2:]
    assert headers.declared_size(stray) == (HEIGHT, WIDTH)


def test_files_of_another_library(tmp_path: Path) -> None:
    """Pillow writes the tags where it writes them."""
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.fromarray(smooth(colour=True)[..., ::-1])
    for form, more in {"JPEG": {"quality": 98}, "PNG": {}, "WEBP": {"lossless": True}}.items():
        for turn in TURNS:
            tags, buffer = pillow.Exif(), io.BytesIO()
            tags[274] = turn
            picture.save(buffer, form, exif=tags, **more)
            found = read(tmp_path, buffer.getvalue())
            assert np.abs(found[..., ::-1].astype(int) - smooth(colour=True)).mean() < 3
    for big in (False, True):
        for turn in TURNS:
            buffer = io.BytesIO()
            picture.save(buffer, "TIFF", tiffinfo={274: turn}, big_tiff=big)
            with pytest.raises(BadInput, match=RULES):
                read(tmp_path, buffer.getvalue())


@pytest.mark.parametrize("name", ["rotated6.tif", "classic_rotated6.tif"])
def test_the_cases(shared: Path, name: str) -> None:
    with pytest.raises(BadInput, match=f"{name}: {RULES}"):
        images.read(shared / "cases" / "10-bigtiff-rotated" / name)
