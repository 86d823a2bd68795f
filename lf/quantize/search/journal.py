"""Journal of a long run in one JSON file, written after every result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lf.core import Artifact, BadInput, ledger
from lf.core.fingerprint import versions
from lf.data.images import list_images


class Journal:
    """Results by name in a file; an existing row is not computed again.

    Attributes:
        rows: name -> result, JSON.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Continue the file at `path`, or create it.

        Args:
            path: the file.
            identity: settings that the rows depend on; JSON.

        Raises:
            UsageError: the file has another identity.
            BadInput: it is not such a file.
        """
        self.path = path
        remedy = f"choose another folder, or begin anew: rm {path}"
        self._ledger = ledger.resume(path, identity, remedy=remedy)
        rows = self._ledger.content.get("rows", {})
        if not isinstance(rows, dict):
            raise BadInput(f"{path}: its rows are no table; {remedy}")
        self.rows: dict[str, Any] = rows

    @property
    def identity(self) -> Mapping[str, Any]:
        """Settings that the rows depend on."""
        return self._ledger.identity

    def once(self, name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the row `name`; if it is missing, compute it with `find` and store it."""
        if name not in self.rows:
            self.rows[name] = json.loads(json.dumps(find(), allow_nan=False))
            self._ledger.write(rows=self.rows)
        found: dict[str, Any] = self.rows[name]
        return found


def circumstances(
    parent: Artifact, images: Path | None, calibration: Mapping[str, Any], *modules: str
) -> dict[str, Any]:
    """Return the identity of the figures of all files made from `parent`; JSON.

    Args:
        parent: the float file.
        images: the photos, identified by name and size.
        calibration: settings of calibration.
        modules: modules that make the files and compute the figures.
    """
    import onnxruntime

    photos = hashlib.sha256()
    if images:
        for path in list_images(images):
            photos.update(f"{path.relative_to(images).as_posix()} {path.stat().st_size}\n".encode())
    return {
        "model": parent.sha256,
        "photos": photos.hexdigest(),
        "calibration": dict(calibration),
        **versions(*modules),
        "onnxruntime": onnxruntime.__version__,
    }
