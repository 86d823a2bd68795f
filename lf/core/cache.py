"""The folder of this user where lf keeps measurements of this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def folder() -> Path:
    """The cache folder of lf; it may not exist yet.

    The environment variable LF_CACHE names it. Without it, it is `lf` in the cache folder of the system: XDG_CACHE_HOME
    or ~/.cache, ~/Library/Caches on macOS, LOCALAPPDATA on Windows.
    """
    if own := os.environ.get("LF_CACHE"):
        return Path(own)
    home = Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "lf"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "lf" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "lf"
