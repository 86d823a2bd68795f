"""Pairs of photos with known flow from a folder: npz files of lf, or R2D2's public layout.

Files of lf: `*.npz` with `image1` and `image2` (H, W, 3) uint8 RGB. `flow` (H1, W1, 2) float32 is the position of each
pixel of image1 in image2, x then y; `mask` (H1, W1) is 0 for pixels without a position. Without `flow`, both images
show the same place pixel by pixel, as after a style transfer.

R2D2's: `images_upright/db/A.jpg`; `optical_flow/flow/A_B.png`, displacements as little-endian int16 pairs in RGBA,
1/16 px, with `optical_flow/mask/A_B.png`; and `style_transfer/A.jpg.st_*.jpg`, a styled copy of A.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lf.core import MAX_PIXELS, Array, BadInput, files
from lf.core.console import quiet
from lf.data import headers, images
from lf.formats import npz
from lf.train.views.r2d2_views import Draw, Pair, grid, look, unit, windows, within
from lf.train.views.random_views import warp_points

LIMIT = 256 << 20  # bytes of a flow file
UNITS = 16  # per pixel, in flow stored as PNG
STEP = 4.0  # px of image 1; the local scale of a flow is measured over this distance
EXPECTED = "*.npz, or R2D2's optical_flow/flow/*.png and style_transfer/*.jpg"


class FlowPair(NamedTuple):
    """Two photos (H, W, 3) uint8 RGB; `flow` (H1, W1, 2) float32 px in the second, NaN for none; True if exact."""

    first: Array
    second: Array
    flow: Array
    exact: bool


def find(root: Path) -> list[Path]:
    """Return the files that name a pair each, sorted.

    Raises:
        BadInput: there are no such files.
    """
    styled = sorted((root / "style_transfer").glob("*.st_*.jpg"))
    found = sorted(root.glob("*.npz")) + sorted((root / "optical_flow" / "flow").glob("*.png")) + styled
    if not found:
        raise BadInput(f"{root}: holds no pairs with flow; expected {EXPECTED}")
    return found


def read(root: Path, path: Path) -> FlowPair:
    """Read the pair of `path`, a file of `find(root)`.

    Raises:
        BadInput: a file is missing, damaged or too large, or the sizes do not fit together.
    """
    if path.suffix == ".npz":
        return _npz(path)
    photos = root / "images_upright" / "db"
    if path.suffix == ".jpg":
        first, second = images.read(photos / f"{path.name.partition('.jpg.st_')[0]}.jpg"), images.read(path)
        return FlowPair(first, second, _same_place(first, second), True)
    names = path.stem.split("_")
    if len(names) != 2:
        raise BadInput(f"{path}: expected a name A_B.png of two photos")
    first, second = (images.read(photos / f"{name}.jpg") for name in names)
    stored = _png(path, 4)
    shift = stored[..., [2, 1, 0, 3]].copy().view("<i2").astype(np.float32) / UNITS  # OpenCV gives BGRA
    mask = _png(root / "optical_flow" / "mask" / path.name, 0)
    return _checked(path, first, second, shift + _places(shift.shape[:2]), mask)


def _npz(path: Path) -> FlowPair:
    arrays = npz.read(path, "a pair with flow", ("image1", "image2"), ("flow", "mask"))
    first, second = arrays["image1"], arrays["image2"]
    for name, image in (("image1", first), ("image2", second)):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < images.MIN_SIDE:
            raise BadInput(f"{path}: {name} is {image.dtype} of shape {image.shape}; expected uint8 (H, W, 3)")
    if "flow" not in arrays:
        return FlowPair(first.copy(), second.copy(), _same_place(first, second), True)
    flow = arrays["flow"].astype(np.float32)
    return _checked(path, first.copy(), second.copy(), flow, arrays.get("mask", np.ones(flow.shape[:2])))


def _checked(path: Path, first: Array, second: Array, flow: Array, mask: Array) -> FlowPair:
    size = first.shape[:2]
    if flow.shape != (*size, 2) or mask.shape != size:
        raise BadInput(f"{path}: flow {flow.shape} and mask {mask.shape}; image1 asks for {(*size, 2)} and {size}")
    known = np.where(mask[..., None] > 0, flow, np.float32(np.nan))
    if not np.isfinite(known).any():
        raise BadInput(f"{path}: its mask leaves no pixel with a partner")
    return FlowPair(first, second, known, False)


def _same_place(first: Array, second: Array) -> Array:
    """Return the flow between two images of the same scene, which may have different sizes."""
    ratio = np.array(second.shape[1::-1]) / np.array(first.shape[1::-1])
    flow: Array = ((_places(first.shape[:2]) + 0.5) * ratio - 0.5).astype(np.float32)
    return flow


def _places(size: tuple[int, ...]) -> Array:
    y, x = np.indices(size[:2], np.float32)
    return np.stack([x, y], -1)


def _png(path: Path, channels: int) -> Array:
    """Read a PNG file: (H, W, channels) uint8 as stored, (H, W) for 0 channels."""
    data = files.read_bytes(path, "a PNG file", LIMIT)
    height, width = headers.declared_size(data) or (0, 0)
    fits = data.startswith(b"\x89PNG") and 0 < height * width <= MAX_PIXELS
    with quiet():
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if fits else None
    if array is None or array.dtype != np.uint8 or array.ndim != (3 if channels else 2) or array.size % (channels or 1):
        raise BadInput(f"{path}: expected a PNG file of {channels or 1} channels of 8 bits")
    if channels and array.shape[2] != channels:
        raise BadInput(f"{path}: has {array.shape[2]} channels; expected {channels}")
    return np.asarray(array)


def views_of(pair: FlowPair, drawn: Draw, size: tuple[int, int], device: torch.device) -> Pair:
    """Make views (1, C, H, W) of one pair, before noise and colour; `drawn` is a batch of one.

    Image 1 keeps its size unless a view does not fit; image 2 is scaled, and tilted if the flow is exact.
    """
    stored = torch.tensor([photo.shape[1::-1] for photo in (pair.first, pair.second)], dtype=torch.float64)  # w, h
    shorter = stored.amin(1)
    grow = torch.stack([(max(size) / shorter[0]).clamp(min=1.0), drawn.shorter[0, 1] / shorter[1]])
    tilt = drawn.tilt if pair.exact else torch.eye(3, dtype=torch.float64)[None]
    full, scaled = unit(*stored.unbind(1)), unit(*(stored * grow[:, None]).unbind(1)).inverse()
    first, second = full[:1] @ scaled[:1], full[1:] @ tilt @ scaled[1:]  # images -> stored photos
    crops = _crops(torch.from_numpy(pair.flow), first, second.inverse(), stored * grow[:, None], drawn, size)
    made = first @ crops[0], second @ crops[1]
    shown = []
    for photo, homography, factor in zip((pair.first, pair.second), made, grow, strict=True):
        picture = torch.from_numpy(photo).to(device).permute(2, 0, 1)[None].float() / 255
        shown.append(look(picture, homography, -factor.log2()[None], size))
    at = warp_points(grid(size, device), made[0].to(device, torch.float32))
    flow = torch.from_numpy(pair.flow).to(device).permute(2, 0, 1)[None]
    last = at.new_tensor([flow.shape[-1] - 1, flow.shape[-2] - 1])
    place = F.grid_sample(flow, at[:, None] * 2 / last - 1, padding_mode="border", align_corners=True)
    onward = made[1].inverse()
    onward = (onward / onward[:, 2:, 2:]).to(device, torch.float32)
    return Pair(shown[0], shown[1], within(warp_points(place[:, :, 0].mT, onward), size))  # next to a NaN: NaN


def _crops(
    flow: Tensor, first: Tensor, back: Tensor, images: Tensor, drawn: Draw, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Find the best windows around random pixels that have a partner.

    Args:
        flow: (h, w, 2) between the stored photos.
        first: (1, 3, 3) pixels of image 1 -> of its stored photo.
        back: (1, 3, 3) pixels of the second stored photo -> of image 2.
        images: (2, 2) width and height of both images.
        drawn: one row of random numbers.
        size: (H, W) of a view.
    """
    height, width = flow.shape[:2]

    def follow(points: Tensor) -> Tensor:
        x, y = warp_points(points.flatten(0, 2)[None], first)[0].round().long().unbind(-1)
        moved = flow[y.clamp(0, height - 1), x.clamp(0, width - 1)].double()
        return warp_points(moved[None], back).view_as(points)

    known = flow.isfinite().all(-1).flatten().nonzero()[:, 0]
    index = known[((drawn.centres[0, :, 0] + 0.5) * len(known)).long().clamp(0, len(known) - 1)]
    here = warp_points(torch.stack([index % width, index // width], -1).double()[None], first.inverse())
    steps = STEP * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    there = follow(here[:, :, None] + steps)  # (1, trials, 3, 2)
    scale = ((there[:, :, 1:] - there[:, :, :1]) / STEP).det().abs().sqrt()
    return windows(here, there[:, :, 0], scale.nan_to_num(0), images[None], size, follow)
