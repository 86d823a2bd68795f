"""Files of the original evaluators: points of real image pairs, and the original values for them."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / "shared"
ELSEWHERE = (".images.npz", ".r2d2.npz")  # images, and points of weights that may not be passed on


def find(name: str) -> Path:
    """Path of "kp2d/expected.json", say: numbers are in tests/parity, and are never missing; the rest in ../shared."""
    return (SHARED if name.endswith(ELSEWHERE) else TESTS) / "parity" / name
