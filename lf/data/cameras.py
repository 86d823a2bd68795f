"""Pinhole cameras: relative pose, essential and fundamental matrices, and the angles between poses.

A camera matrix K is (3, 3) float64, pixels, pixel centres at integers. A pose takes the world to the camera:
`x = R X + t`. Points are (N, 2), x then y. `F` takes a point of image 1 to its line in image 2: `x2^T F x1 = 0`.

Source: Hartley and Zisserman, "Multiple View Geometry", chapter 9.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lf.core import Array, BadInput

ROTATION = 1e-3  # largest deviation of R R^T from the identity, as files round to few digits
MATRIX = "[[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels"


@dataclass(frozen=True)
class RelativePose:
    """The pose of a second camera relative to the first: `x1 = R x0 + t`.

    Attributes:
        K0: (3, 3) float64, camera matrix of the first image.
        K1: (3, 3) float64, camera matrix of the second image.
        rotation: (3, 3) float64.
        translation: (3,) float64, in the unit of the data.
    """

    K0: Array
    K1: Array
    rotation: Array
    translation: Array

    @property
    def essential(self) -> Array:
        """(3, 3): see `essential`."""
        return essential(self.rotation, self.translation)

    @property
    def fundamental(self) -> Array:
        """(3, 3), points of the first image -> lines of the second: see `fundamental`."""
        return fundamental(self.K0, self.K1, self.rotation, self.translation)

    def moved(self, matrix0: Array, matrix1: Array) -> RelativePose:
        """Return the same cameras after transforming each image by an affine homography (3, 3), such as a resize."""
        return replace(self, K0=matrix0 @ self.K0, K1=matrix1 @ self.K1)

    def reversed(self) -> RelativePose:
        """The pose of the first camera relative to the second."""
        back = self.rotation.T
        return RelativePose(self.K1, self.K0, back, -back @ self.translation)

    def tobytes(self) -> bytes:
        """All numbers, little endian, for digests."""
        arrays = (self.K0, self.K1, self.rotation, self.translation)
        return b"".join(np.ascontiguousarray(each, dtype="<f8").tobytes() for each in arrays)


def relative(pose0: tuple[Array, Array], pose1: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return rotation and translation from the first camera to the second, from two (R, t) world to camera."""
    rotation = pose1[0] @ pose0[0].T
    return rotation, pose1[1] - rotation @ pose0[1]


def cross_matrix(vector: Array) -> Array:
    """(3, 3) `[v]x`, with `[v]x w = v x w`."""
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=np.float64)


def essential(rotation: Array, translation: Array) -> Array:
    """(3, 3) `E = [t]x R`: rays of the first camera -> planes of the second."""
    return np.asarray(cross_matrix(translation) @ rotation)


def fundamental(K0: Array, K1: Array, rotation: Array, translation: Array) -> Array:
    """(3, 3) `F = K1^-T [t]x R K0^-1`: points of the first image -> lines of the second, of any scale."""
    return np.asarray(np.linalg.inv(K1).T @ essential(rotation, translation) @ np.linalg.inv(K0))


def epipolar_lines(points: Array, matrix: Array) -> Array:
    """(N, 3) lines `a x + b y + c = 0` with a^2 + b^2 = 1, of points (N, 2) of the other image."""
    lines = homogeneous(points) @ np.asarray(matrix).T
    return np.asarray(lines / np.maximum(np.linalg.norm(lines[:, :2], axis=1, keepdims=True), 1e-300))


def epipolar_distance(points0: Array, points1: Array, matrix: Array) -> Array:
    """Return distances (N,) px from points of the second image (N, 2) to the epipolar lines of points of the first."""
    return np.asarray(np.abs(np.einsum("nd,nd->n", epipolar_lines(points0, matrix), homogeneous(points1))))


def homogeneous(points: Array) -> Array:
    """(N, 3) float64: a 1 after x and y."""
    points = np.asarray(points, dtype=np.float64)
    return np.column_stack([points, np.ones(len(points))])


def rays(points: Array, K: Array) -> Array:
    """Pixels (N, 2) -> x / z and y / z in the camera (N, 2) float64."""
    found: Array = (homogeneous(points) @ np.linalg.inv(K).T)[:, :2]
    return np.ascontiguousarray(found)


def rotation_angle(first: Array, second: Array) -> float:
    """Degrees between two rotations (3, 3), in [0, 180]; exact for small angles and rounded matrices, too."""
    half = np.linalg.norm(np.asarray(first) - np.asarray(second)) / np.sqrt(8)
    return float(np.degrees(2 * np.arcsin(min(1.0, float(half)))))


def direction_angle(first: Array, second: Array) -> float:
    """Degrees between two vectors (3,) of any length, in [0, 180]."""
    a, b = (np.asarray(each, dtype=np.float64).ravel() for each in (first, second))
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def checked_camera(K: Array, where: str) -> Array:
    """Return a camera matrix (3, 3) as float64 after checking it.

    Raises:
        BadInput: it is not a camera matrix; the text begins with `where`.
    """
    K = np.asarray(K, dtype=np.float64)
    square = K.shape == (3, 3) and bool(np.isfinite(K).all())
    if not square or K[0, 0] <= 0 or K[1, 1] <= 0 or K[1, 0] or np.abs(K[2] - (0, 0, 1)).max() > 1e-9:
        raise BadInput(f"{where}: the camera matrix is {_short(K)}; expected {MATRIX}")
    return K


def checked_rotation(rotation: Array, where: str) -> Array:
    """Return the nearest rotation (3, 3) float64 to a rounded one.

    Raises:
        BadInput: the difference from a rotation is larger than rounding; the text begins with `where`.
    """
    rotation = np.asarray(rotation, dtype=np.float64)
    if not np.isfinite(rotation).all() or np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION:
        raise BadInput(f"{where}: {_short(rotation)} is no rotation; expected orthonormal rows with determinant 1")
    if np.linalg.det(rotation) < 0:
        raise BadInput(f"{where}: {_short(rotation)} is a reflection; expected a rotation with determinant 1")
    u, _, v = np.linalg.svd(rotation)
    return np.asarray(u @ v)


def checked_quaternion(quaternion: Array, where: str) -> Array:
    """(3, 3) rotation of a quaternion w, x, y, z.

    Raises:
        BadInput: its length is not 1; the text begins with `where`.
    """
    length = float(np.linalg.norm(quaternion))
    if not abs(length - 1) < ROTATION:
        raise BadInput(f"{where}: a quaternion of length {length:.4g} is no rotation; expected length 1")
    w, x, y, z = quaternion / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(rotation: Array) -> list[float]:
    """w, x, y, z of a rotation (3, 3), w not negative: the eigenvector of Bar-Itzhack (2000), exact at every angle."""
    r = np.asarray(rotation, np.float64)
    matrix = np.array(
        [
            [np.trace(r), r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [0, r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
            [0, 0, r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]],
            [0, 0, 0, r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    values, vectors = np.linalg.eigh(matrix, UPLO="U")
    found = vectors[:, values.argmax()]
    return [float(value) for value in (found if found[0] >= 0 else -found)]


def checked_translation(translation: Array, where: str) -> Array:
    """Return a translation (3,) float64; BadInput if a value is not finite."""
    translation = np.asarray(translation, dtype=np.float64)
    if translation.shape != (3,) or not np.isfinite(translation).all():
        raise BadInput(f"{where}: the translation is {_short(translation)}; expected 3 finite numbers")
    return translation


def check_baseline(translation: Array, scale: float, where: str) -> None:
    """Raise BadInput if a translation is zero relative to numbers of size `scale`: it has no direction."""
    if np.linalg.norm(translation) <= 1e-9 * scale:
        raise BadInput(f"{where}: has no baseline; expected two camera centres, drop the pair")


def _short(values: Array) -> str:
    return "[" + " ".join(f"{value:.4g}" for value in np.ravel(values)) + "]"
