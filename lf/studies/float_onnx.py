"""Export a checkpoint or shipped weights to a float ONNX file, where a command needs one.

Every run exports it again, which takes seconds, so that no file of another checkpoint or older code is used by mistake.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lf.core import Artifact, BadInput, LfError, console, files
from lf.export import export
from lf.formats import model_file
from lf.runtimes import CHECKPOINTS


@contextmanager
def float_onnx_of(artifact: Artifact, folder: Path, check: Callable[[], object]) -> Iterator[Artifact]:
    """Yield the artifact itself if it is an ONNX file, otherwise an ONNX file exported from the checkpoint.

    The exported file is moved to `folder` if the block ends without error. An existing file of its name is kept.

    Args:
        artifact: an ONNX file, or a checkpoint.
        folder: folder for the ONNX file.
        check: checks the options before the export, which takes long.

    Raises:
        GateFailed: the ONNX file computes other numbers than the checkpoint.
        LfError: an error of the block, with the name of the checkpoint instead of the temporary ONNX file.
    """
    if artifact.path.suffix not in CHECKPOINTS:
        yield artifact
        return
    check()
    console.note(f"{artifact.path.name} is exported to ONNX first")
    with tempfile.TemporaryDirectory(prefix="lf-export-") as place:
        with console.progress():
            made = export(artifact, "onnx", Path(place, f"{artifact.path.stem.removesuffix('.pth')}.onnx"))
        kept = folder / made.path.name
        there = _same(kept, made)
        try:
            yield there or made
        except LfError as error:
            error.args = tuple(str(each).replace(str(made.path), str(artifact.path)) for each in error.args)
            raise
        if there is None:
            _keep(made, kept)


def _same(path: Path, made: Artifact) -> Artifact | None:
    """Return the file at `path` if it is the same network; cards may differ in the last digit of figures."""
    try:
        there = model_file.load(path)
    except (BadInput, OSError):
        return None
    data, wanted = there.path.read_bytes(), made.path.read_bytes()
    return there if model_file.embed(".onnx", data, made.card) == model_file.embed(".onnx", wanted, made.card) else None


def _keep(made: Artifact, path: Path) -> None:
    if path.exists() or path.is_symlink():
        console.note(f"{path} is another file and stays; the float ONNX file of this run is not kept")
        return
    files.write_bytes(path, made.path.read_bytes())
    console.note(f"its float ONNX file: {path}")
