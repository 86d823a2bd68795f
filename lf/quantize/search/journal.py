"""What a long run has found so far, in one JSON file that is written whole after every finding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lf.core import Artifact, BadInput, UsageError, files
from lf.core.fingerprint import versions
from lf.data.images import list_images

SCHEMA = 1


class Journal:
    """Rows by name; a row that is there is not computed again.

    Attributes:
        rows: name -> what was found, JSON.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Go on with the file at `path`, or begin it.

        Args:
            path: of the file.
            identity: all that the rows depend on; JSON.

        Raises:
            UsageError: the rows in the file are of another identity.
            BadInput: it is no such file.
        """
        self.path: Path = path
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.rows: dict[str, Any] = self._before() if path.exists() else {}

    def once(self, name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row `name`, found and written down unless it is there."""
        if name not in self.rows:
            self.rows[name] = json.loads(json.dumps(find(), allow_nan=False))
            files.write_json(self.path, {"schema": SCHEMA, "identity": self.identity, "rows": self.rows})
        found: dict[str, Any] = self.rows[name]
        return found

    def _before(self) -> dict[str, Any]:
        data = files.read_json(self.path, "what an earlier run of this command wrote")
        if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("rows"), dict):
            raise BadInput(f"{self.path}: not of this command; delete it or choose another folder")
        known = data.get("identity")
        known = known if isinstance(known, dict) else {}
        if other := [name for name in {**self.identity, **known} if known.get(name) != self.identity.get(name)]:
            raise UsageError(
                f"{self.path}: was made with another {', '.join(other)}; choose another folder, "
                f"or begin anew: rm {self.path}"
            )
        return dict(data["rows"])


def circumstances(
    parent: Artifact, images: Path | None, calibration: Mapping[str, Any], *modules: str
) -> dict[str, Any]:
    """What the figures of every file made of `parent` depend on; JSON.

    Args:
        parent: the float file.
        images: the photos, which count by name and size.
        calibration: how they are used.
        modules: what makes the files and computes the figures.
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
