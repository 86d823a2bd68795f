"""COLMAP cameras: model, size, parameters; the centre of the first pixel is (0.5, 0.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lf.core import Array, BadInput

CAMERAS = {  # model -> its number in databases, number of parameters
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
    "OPENCV_FISHEYE": (5, 8),
    "FULL_OPENCV": (6, 12),
    "FOV": (7, 5),
    "SIMPLE_RADIAL_FISHEYE": (8, 4),
    "RADIAL_FISHEYE": (9, 5),
    "THIN_PRISM_FISHEYE": (10, 12),
}
HALF = np.float32(0.5)  # px, from the pixel centres of lf to those of COLMAP
GUESS = 1.2  # default focal length per longer side, as in COLMAP


@dataclass(frozen=True)
class Camera:
    """A camera in COLMAP's form.

    Attributes:
        model: row of CAMERAS.
        width, height: px.
        params: focal length or lengths, principal point in COLMAP's pixels, distortion.
        known: False if the focal length is a guess.

    Raises:
        BadInput: unknown model, or wrong number of parameters.
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]
    known: bool = True

    def __post_init__(self) -> None:
        """Check the model and its parameters."""
        count = CAMERAS.get(self.model, (0, None))[1]
        if len(self.params) != count or not np.isfinite(self.params).all() or min(self.width, self.height) < 1:
            said = f"camera {self.model} of {self.width}x{self.height} with {len(self.params)} parameters"
            wants = f"{count} finite parameters" if count else f"a model of {', '.join(CAMERAS)}"
            raise BadInput(f"{said}; expected {wants}, and a size in pixels")


def pinhole(size: tuple[int, int], matrix: Array) -> Camera:
    """The camera of an image (width, height) with intrinsics (3, 3), pixel centres at integers."""
    k = np.asarray(matrix, np.float64)
    params = (k[0, 0], k[1, 1], k[0, 2] + float(HALF), k[1, 2] + float(HALF))
    return Camera("PINHOLE", *size, tuple(map(float, params)))


def guessed(size: tuple[int, int]) -> Camera:
    """Return COLMAP's default camera for an image (width, height) without metadata."""
    width, height = size
    return Camera("SIMPLE_RADIAL", width, height, (GUESS * max(size), width / 2, height / 2, 0.0), known=False)
