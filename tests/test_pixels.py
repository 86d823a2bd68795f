"""The seam that every image passes on its way into a network: what is accepted, and one line about the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest

from lf.core import Artifact, BadInput, Features
from lf.data.images import check
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.extraction.stream import published
from lf.models.resolve import resolve

EXPECTED = "expected a numpy array of uint8, or of floats from 0 to 1, (H, W) grey or (H, W, 3) RGB; "


@cache
def image() -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
    return cv2.resize(rough, (288, 192), interpolation=cv2.INTER_LINEAR)


def planes(dtype: str) -> np.ndarray:
    return image().astype(dtype)


@pytest.fixture(scope="module")
def sift() -> Extractor:
    return Extractor(resolve("sift"), "opencv")


@pytest.fixture
def r2d2(tiny: Callable[..., Artifact]) -> Extractor:
    """A network with a pyramid."""
    return Extractor(tiny(row="r2d2"), "ort-cpu", repeatability=0.0, reliability=0.0)


def same(a: Features, b: Features) -> None:
    assert a.size == b.size
    for name in ("keypoints", "scores", "descriptors"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "float, 0 to 255": (
        lambda: planes("float32"),
        f"with values from {image().min()} to {image().max()}; {EXPECTED}where 255 is white type: image / 255",
    ),
    "float, -1 to 1": (lambda: planes("float64") / 127.5 - 1, "an image of float64 with values from -"),
    "nan": (
        lambda: np.where(image() > 128, np.nan, 0),
        f"an image of float64 holds a value that is not finite; {EXPECTED}replace it",
    ),
    "inf": (lambda: np.where(image() > 128, np.inf, 0), "holds a value that is not finite"),
    "uint16": (
        lambda: planes("uint16") * 257,
        f"an image of uint16 and shape (192, 288, 3); {EXPECTED}where 65535 is white type: "
        "(image / 257).round().astype(numpy.uint8)",
    ),
    "int64": (lambda: planes("int64"), "where 255 is white type: image.astype(numpy.uint8)"),
    "int8": (lambda: planes("int8"), "an image of int8 and shape (192, 288, 3)"),
    "bool": (lambda: image() > 128, "an image of bool and shape (192, 288, 3); " + EXPECTED + "type: image.astype"),
    "complex": (lambda: planes("complex64"), "an image of complex64"),
    "object": (lambda: planes("object"), "an image of object"),
    "text": (lambda: planes("str"), "an image of <U"),
    "planes first": (
        lambda: image().transpose(2, 0, 1),
        f"an image of uint8 and shape (3, 192, 288); {EXPECTED}type: image.transpose(1, 2, 0)",
    ),
    "one plane first": (lambda: image()[None, ..., 0], "shape (1, 192, 288); " + EXPECTED + "type: image[0]"),
    "one channel": (lambda: image()[..., :1], "shape (192, 288, 1); " + EXPECTED + "type: image[..., 0]"),
    "two channels": (lambda: image()[..., :2], "shape (192, 288, 2); " + EXPECTED + "give one channel or three"),
    "alpha": (lambda: image()[..., [0, 1, 2, 0]], "shape (192, 288, 4); " + EXPECTED + "type: image[..., :3]"),
    "batch": (lambda: image()[None], "shape (1, 192, 288, 3); " + EXPECTED + "pass the images of a batch one by one"),
    "row": (lambda: image()[0, :, 0], "shape (288,); " + EXPECTED + "reshape it"),
    "number": (lambda: np.uint8(3), "an image of type numpy.uint8; " + EXPECTED + "convert it"),
    "no pixel": (lambda: image()[:0], "shape (0, 288, 3); " + EXPECTED + "give one with pixels"),
    "list": (
        lambda: image().tolist(),
        f"an image of type builtins.list; {EXPECTED}convert it, such as with numpy.asarray(image)",
    ),
    "None": (lambda: None, "an image of type builtins.NoneType"),
    "path": (lambda: "a.png", "an image of type builtins.str"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_every_way_in_refuses_other_images_in_one_line(sift: Extractor, r2d2: Extractor, kind: str) -> None:
    make, words = REFUSED[kind]
    ways: list[Callable[[Any], Any]] = [check, sift, sift.fit, r2d2, r2d2.pyramid, r2d2.fit]
    ways += [lambda pixels: published(r2d2, pixels), lambda pixels: next(agreement.both(r2d2, r2d2, [pixels]))]
    for way in ways:
        with pytest.raises(BadInput, match=re.escape(words)) as raised:
            way(make())
        assert "\n" not in str(raised.value)


def test_tensors_are_no_images(sift: Extractor) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(BadInput, match=r"an image of type torch\.Tensor; expected a numpy array"):
        sift(torch.zeros(3, 192, 288))


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "float64", "longdouble"])
def test_floats_from_0_to_1_are_images(sift: Extractor, r2d2: Extractor, dtype: str) -> None:
    grey = image()[..., 1]
    assert len(sift(grey)) > 20
    same(sift((grey / 255).astype(dtype)), sift(grey))
    wide = (image() / 255).astype(dtype)
    usual = wide.astype(np.float32)
    same(r2d2(wide), r2d2(usual))
    same(r2d2.pyramid(wide), r2d2.pyramid(usual))
    if dtype != "float16":
        np.testing.assert_allclose(r2d2.fit(wide), image() / np.float32(255), atol=1e-6)
        np.testing.assert_allclose(r2d2.pyramid(wide).scores, r2d2.pyramid(image()).scores, atol=1e-5)


def test_the_order_of_memory_does_not_matter(sift: Extractor, r2d2: Extractor) -> None:
    pixels = image()
    others = [np.asfortranarray(pixels), np.repeat(pixels, 2, 1)[:, ::2], pixels[::-1].copy()[::-1]]
    others += [
        np.ascontiguousarray(pixels[..., ::-1])[..., ::-1],
        np.asarray(pixels.transpose(2, 0, 1).copy()).transpose(1, 2, 0),
    ]
    locked = pixels.copy()
    locked.flags.writeable = False
    for other in (*others, locked):
        same(sift(other), sift(pixels))
        same(r2d2(other), r2d2(pixels))
        same(r2d2.pyramid(other), r2d2.pyramid(pixels))


def test_resized_floats_may_leave_the_range_by_rounding() -> None:
    white = np.full((20, 20, 3), 1 + 1e-6, np.float32)
    assert check(white) is not None
    with pytest.raises(BadInput, match=r"with values from 1.001 to 1.001"):
        check(white + np.float32(1e-3))


def test_pixels_of_8_bits_are_not_copied() -> None:
    pixels = image()
    assert np.shares_memory(check(pixels), pixels)
