"""The name under which lf is installed, and what to type for its extras."""

from __future__ import annotations

DISTRIBUTION = "lf-keypoints"  # `lf` on the Python package index is another project; the import and the command are lf


def pip(extra: str, *options: str) -> str:
    """What to type to install an extra: `pip install "lf-keypoints[edge]"`; `options` stand before the name."""
    return " ".join(("pip install", *options, f'"{DISTRIBUTION}[{extra}]"'))
