"""Where the files of the original evaluators are: points of real pairs of images, and the values given for them."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / "shared"
ELSEWHERE = (".images.npz", ".r2d2.npz")  # pictures, and points of weights that may not be passed on


def find(name: str) -> Path:
    """Path of "kp2d/expected.json", say: numbers are in tests/parity, and are never missing; the rest in ../shared."""
    return (SHARED if name.endswith(ELSEWHERE) else TESTS) / "parity" / name
