"""Export a checkpoint or shipped weights to a float ONNX file, where a command needs one.

Every run exports it again, which takes seconds, so that no file of another checkpoint or older code is used by mistake.
Another process does it, so that the memory of PyTorch is free for what follows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lf.core import Artifact, BadInput, LfError, console, files
from lf.export import apart
from lf.formats import model_file
from lf.models.resolve import located, resolve
from lf.runtimes import CHECKPOINTS


@contextmanager
def float_onnx_of(source: str, folder: Path, check: Callable[[Artifact], object]) -> Iterator[Artifact]:
    """Yield a model file, or for a checkpoint the ONNX file that is exported from it.

    The exported file is moved to `folder` if the block ends without error. An existing file of its name is kept.

    Args:
        source: name of shipped weights, or path of a model file.
        folder: folder for the ONNX file.
        check: checks the options with the checkpoint, before the export, which takes long.

    Raises:
        GateFailed: the ONNX file computes other numbers than the checkpoint.
        LfError: an error of the block, with the name of the checkpoint instead of the temporary ONNX file.
    """
    if located(source).suffix not in CHECKPOINTS:
        yield resolve(source)
        return
    with tempfile.TemporaryDirectory(prefix="lf-export-") as place:
        checkpoint, made = _exported(source, Path(place), check)
        kept = folder / made.path.name
        there = _same(kept, made)
        try:
            yield there or made
        except LfError as error:
            error.args = tuple(str(each).replace(str(made.path), str(checkpoint.path)) for each in error.args)
            raise
        if there is None:
            _keep(made, kept)


def _exported(source: str, place: Path, check: Callable[[Artifact], object]) -> tuple[Artifact, Artifact]:
    """Return the checkpoint and the ONNX file in `place` that is exported from it."""
    with apart.opened(source, place) as (checkpoint, export):
        check(checkpoint)
        console.note(f"{checkpoint.path.name} is exported to ONNX first")
        with console.progress():
            return checkpoint, export()


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
