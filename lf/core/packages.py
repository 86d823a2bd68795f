"""Name of the installed package, and the pip command for its extras."""

from __future__ import annotations

DISTRIBUTION = "lf-keypoints"  # `lf` on the Python package index is another project; the import and the command are lf


def pip(extra: str, again: bool = False) -> str:
    """The pip command for an extra, `again` over a broken one: `pip install "lf-keypoints[edge]"`."""
    command = "pip install --force-reinstall" if again else "pip install"
    return f'{command} "{DISTRIBUTION}[{extra}]"'
