"""ALIKED's descriptors: features sampled at offsets that a small network computes for each keypoint.

The features of a pixel are x1 to x4, upsampled to full size and normalised to unit length together. They are computed
only where they are sampled. Some outputs hold weights, which are the same for every image:

- offset (2 M, 1, 9 D + 1 + 2 M + 1): rows of a 3x3 layer, its biases, rows of a 1x1 layer, its biases; they give M
  shifts along x, then M along y.
- project (D, 1, D): rows of a layer on each of the M samples.
- descriptor (D, M, D): weights of each sample for every number of a descriptor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lf.core import Array, BadModel
from lf.core.errors import ANOTHER
from lf.models.decode import head, mix, raw, read, unit

SCALE, ALPHA = np.float32(1.0507009873554805), np.float32(1.6732632423543772)  # of SELU
TAPS = np.stack(np.divmod(np.arange(9), 3)[::-1], 1)  # x, y of a 3x3 square, row by row
BLOCK = 1024  # points in a block, for which samples take up to a hundred megabytes


def describe_aliked(maps: Mapping[str, Array], points: Array) -> Array:
    """Return unit descriptors (N, D) at points (N, 2) px of the image; score and x1 are cut to the image.

    If all samples of a point lie outside the image, all numbers of its descriptor are equal.

    Raises:
        BadModel: a map is missing, of the wrong shape, or not finite.
    """
    offset, project, descriptor = _weights(maps)
    found = [_described(maps, points[i : i + BLOCK], offset, project, descriptor) for i in range(0, len(points), BLOCK)]
    return np.concatenate([np.empty((0, len(descriptor)), np.float32), *found])


def _weights(maps: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    offset, project, descriptor = (head(maps, name) for name in ("offset", "project", "descriptor"))
    count, samples, depth = descriptor.shape
    wanted = {"offset": (2 * samples, 1, 9 * depth + 2 * samples + 2), "project": (depth, 1, depth)}
    fits = all(maps[name].shape == shape for name, shape in wanted.items())
    if not fits or sum(len(raw(maps, f"x{index}")) for index in range(1, 5)) != depth:
        found = ", ".join(f"{name} {np.shape(maps[name])}" for name in ("offset", "project", "descriptor", "x1"))
        raise BadModel(f"maps that fit together expected, found {found}", remedy=ANOTHER)
    return offset[:, 0], project[:, 0], descriptor.reshape(count, -1)


def _described(maps: Mapping[str, Array], points: Array, offset: Array, project: Array, descriptor: Array) -> Array:
    places = points[:, None] + _shifts(maps, points, offset)  # (N, M, 2)
    samples = selu(_sampled(maps, places.reshape(-1, 2)) @ project.T)
    found = samples.reshape(len(points), -1) @ descriptor.T
    found[~found.any(1)] = 1
    return unit(found)


def _shifts(maps: Mapping[str, Array], points: Array, offset: Array) -> Array:
    """Return the offsets (N, M, 2) x, y in px of the samples of each point."""
    height, width = raw(maps, "x1").shape[1:]
    last = np.array([width, height])
    corner = np.clip(points.astype(np.intp) - 1, 0, np.maximum(last - 4, 0))  # it ends one pixel early
    x, y = np.moveaxis(np.minimum(corner[:, None] + TAPS, last - 1), 2, 0)  # (N, 9)
    square = _features(maps, y * width + x).swapaxes(1, 2).reshape(len(points), -1)  # (N, D * 9)
    rows, wide = len(offset), square.shape[1]
    hidden = selu(square @ offset[:, :wide].T + offset[:, wide])
    shifts = hidden @ offset[:, wide + 1 : wide + 1 + rows].T + offset[:, -1]
    reach = np.float32(max(height, width) / 4)
    apart: Array = np.clip(shifts, -reach, reach).reshape(len(points), 2, -1)
    return apart.swapaxes(1, 2)


def _sampled(maps: Mapping[str, Array], at: Array) -> Array:
    """Sample features (N, D) at points (N, 2) px, bilinearly, with zeros outside the image."""
    height, width = raw(maps, "x1").shape[1:]
    low = np.floor(at)
    share = (at - low).T
    x, y = low.astype(np.intp).T
    index, weights = np.zeros((4, len(at)), np.intp), np.zeros((4, len(at)), np.float32)
    for k, (down, right) in enumerate(np.ndindex(2, 2)):
        row, column = y + down, x + right
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        weight = (share[0] if right else 1 - share[0]) * (share[1] if down else 1 - share[1])
        index[k], weights[k] = np.where(inside, row * width + column, 0), np.where(inside, weight, 0)
    values = _features(maps, index)
    mixed: Array = np.einsum("kn,knd->nd", weights, values)
    return mixed


def _features(maps: Mapping[str, Array], index: Array) -> Array:
    """Compute features (..., D) of unit length at flat indices (...) of pixels, once for each pixel."""
    height, width = raw(maps, "x1").shape[1:]
    used = np.zeros(height * width, bool)
    used[index] = True
    pixels = np.flatnonzero(used)
    y, x = np.divmod(pixels, width)
    whole = np.array(raw(maps, "x2").shape[:0:-1]) * 2  # W, H of the padded image; the image lies in its middle
    place = np.stack([x, y], 1) + (whole - (width, height)) // 2
    parts = [read(maps, "x1", pixels).T]
    for name in ("x2", "x3", "x4"):
        sides = np.array(raw(maps, name).shape[:0:-1])
        parts.append(mix(maps, name, (place * ((sides - 1) / (whole - 1))).astype(np.float32)))
    rank = np.cumsum(used) - 1
    made: Array = unit(np.concatenate(parts, 1))[rank[index]]
    return made


def selu(x: Array) -> Array:
    """The activation of the whole family."""
    return SCALE * np.where(x > 0, x, ALPHA * np.expm1(np.minimum(x, 0)))
