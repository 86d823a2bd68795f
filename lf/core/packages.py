"""Name of the installed package, and the pip command for its extras."""

from __future__ import annotations

DISTRIBUTION = "lf-keypoints"  # `lf` on the Python package index is another project; the import and the command are lf


def pip(extra: str, again: bool = False) -> str:
    """Return the pip command for an extra, `pip install "lf-keypoints[edge]"`; `again` reinstalls a broken one."""
    command = "pip install --force-reinstall" if again else "pip install"
    return f'{command} "{DISTRIBUTION}[{extra}]"'
