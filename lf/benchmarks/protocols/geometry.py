"""Resize images to the size of a protocol, and convert the homography between them.

Section and Q numbers: docs/concepts/protocols.md. The published geometries scale about pixel (0, 0), although resizing
aligns areas (Q9). `true` geometries prepare the same images, with the exact homography.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from lf.core import Array
from lf.data.homography import resize_matrix

Size = tuple[int, int]  # (H, W), pixels, as of an image array; Features.size is (W, H)

FRACTION = 22  # bits after the point in Pillow's weights


class Geometry(NamedTuple):
    """Image size of a protocol, and how images and homographies are converted to it.

    Attributes:
        name: for digests.
        prepare: (image uint8 (H, W, 3) RGB, channels 1 or 3, size) -> uint8 (h, w) grey or (h, w, 3) colour.
        matrix: (native size, size) -> (3, 3), native pixels -> prepared pixels.
        sizes: native sizes of both images -> the sizes used for their matrices.
        kept: (native size, size) -> number of rows and columns of the native image, from the top left, after cropping.
    """

    name: str
    prepare: Callable[[Array, int, Size], Array]
    matrix: Callable[[Size, Size], Array]
    sizes: Callable[[Size, Size], tuple[Size, Size]] = lambda size0, size1: (size0, size1)
    kept: Callable[[Size, Size], Size] = lambda native, size: native

    def homography(self, native: Array, size0: Size, size1: Size, size: Size) -> Array:
        """Return the homography (3, 3) between prepared images, from that between native images and their sizes."""
        first, second = (self.matrix(old, size) for old in self.sizes(size0, size1))
        return np.asarray(second @ native @ np.linalg.inv(first))


def image_size(image: Array) -> Size:
    """(H, W) of an image array."""
    return image.shape[0], image.shape[1]


def _grey(image: Array, channels: int) -> Array:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) if channels == 1 else image


def _cover(native: Size, size: Size) -> float:
    """Return the smallest scale at which an image covers `size`."""
    return max(size[0] / native[0], size[1] / native[1])


def _kept(native: Size, size: Size) -> Size:
    """Return the number of rows and columns, from the top left, that the crop of section 1 keeps."""
    scale = _cover(native, size)
    return int(size[0] / scale), int(size[1] / scale)


def _crop(image: Array, size: Size) -> Array:
    rows, columns = _kept(image_size(image), size)
    return np.asarray(cv2.resize(image[:rows, :columns], size[::-1], interpolation=cv2.INTER_AREA))


def _crop_swapped(image: Array, channels: int, size: Size) -> Array:
    if channels == 1:  # section 1: BGR read, weighted as if RGB; published numbers have red and blue swapped
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    return _crop(image, size)


def _crop_true(image: Array, channels: int, size: Size) -> Array:
    return _crop(_grey(image, channels), size)


def _crop_scale(native: Size, size: Size) -> Array:
    scale = _cover(native, size)
    return np.diag((scale, scale, 1.0))


def _crop_matrix(native: Size, size: Size) -> Array:
    return resize_matrix(_kept(native, size), size)


def _squeeze(image: Array, channels: int, size: Size) -> Array:
    return _grey(np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)), channels)


def _squeeze_bgr(image: Array, channels: int, size: Size) -> Array:
    small = _squeeze(image, channels, size)
    return small if channels == 1 else np.ascontiguousarray(small[..., ::-1])


def _squeeze_bicubic(image: Array, channels: int, size: Size) -> Array:
    return _grey(pillow_bicubic(image, size), channels)


def _squeeze_scale(native: Size, size: Size) -> Array:
    return np.diag((size[1] / native[1], size[0] / native[0], 1.0))


def _squeeze_area(image: Array, channels: int, size: Size) -> Array:
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return _grey(np.asarray(cv2.resize(image, size[::-1], interpolation=how)), channels)


def _native(image: Array, channels: int, size: Size) -> Array:
    return _grey(image, channels)


def _same(native: Size, size: Size) -> Array:
    return np.eye(3)


CROP = Geometry("crop", _crop_swapped, _crop_scale, lambda size0, size1: (size0, size0), _kept)  # section 1, Q1
SQUEEZE = Geometry("squeeze", _squeeze, _squeeze_scale)  # section 2
SQUEEZE_BGR = Geometry("squeeze-bgr", _squeeze_bgr, _squeeze_scale)  # section 2, Q6
SQUEEZE_BICUBIC = Geometry("squeeze-bicubic", _squeeze_bicubic, _squeeze_scale)  # section 2, kp2d-tiny
NATIVE = Geometry("native", _native, _same)  # section 3
TRUE_CROP = Geometry("true-crop", _crop_true, _crop_matrix, kept=_kept)
TRUE_SQUEEZE = Geometry("true-squeeze", _squeeze, resize_matrix)
AREA_SQUEEZE = Geometry("area-squeeze", _squeeze_area, resize_matrix)  # section 9


def pillow_bicubic(image: Array, size: Size) -> Array:
    """Resize uint8 (H, W, C) to another (H, W), byte for byte as Pillow's `Image.resize` since version 7.

    Columns first, then rows, each pass rounded to 8 bits; a cubic (a = -0.5) stretched by the shrink factor, so that
    every pixel counts; weights in integers. Source: Pillow, src/libImaging/Resample.c.
    """
    across = _resample(image, size[1])
    return np.ascontiguousarray(_resample(across.swapaxes(0, 1), size[0]).swapaxes(0, 1))


def _resample(image: Array, new: int) -> Array:
    """Resample axis 1 of (N, L, C) from L to `new` pixels."""
    pixels, weights = _taps(image.shape[1], new)
    total = np.full((image.shape[0], new, image.shape[2]), 1 << (FRACTION - 1), np.int32)  # one half: rounds
    for pixel, weight in zip(pixels.T, weights.T, strict=True):
        total += image[:, pixel] * weight[:, None]
    return np.asarray(np.clip(total >> FRACTION, 0, 255).astype(np.uint8))


def _taps(old: int, new: int) -> tuple[Array, Array]:
    """Return the source pixels (new, taps) of each new pixel of a line, and their weights times 2^FRACTION."""
    stretch = max(old / new, 1.0)
    centre = (np.arange(new) + 0.5) * (old / new)
    first = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)
    end = np.minimum((centre + 2 * stretch + 0.5).astype(int), old)
    pixels = first[:, None] + np.arange((end - first).max())
    x = np.abs(pixels + 0.5 - centre[:, None]) / stretch
    cubic = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0))
    cubic[pixels >= end[:, None]] = 0
    weights = np.rint(cubic / cubic.sum(axis=1, keepdims=True) * (1 << FRACTION))
    return np.minimum(pixels, old - 1), weights.astype(np.int32)
