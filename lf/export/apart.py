"""Export a checkpoint in a process of its own: `python -m lf.export.apart`, which `opened` starts.

PyTorch and its exporter keep half a gigabyte until their process ends. The process that exports here ends before its
caller goes on, and the caller never imports torch.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import IO

from lf.core import Artifact, ConversionFailed, LfError
from lf.core.registry import load_plugins
from lf.export import export
from lf.models.resolve import resolve


@contextmanager
def opened(source: str, folder: Path) -> Iterator[tuple[Artifact, Callable[[], Artifact]]]:
    """Open a checkpoint in a process of its own, which exports it at once and ends with the block.

    Args:
        source: name of shipped weights, or path of a checkpoint.
        folder: folder for the ONNX file and for temporary files of the process.

    Yields:
        The checkpoint, and a function that waits for the ONNX file and returns it.

    Raises:
        LfError: an error of the process, of the class it has there; also from the function.
        ConversionFailed: the process was killed, for example because memory ran out.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "lf.export.apart", source, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder)},  # removed with the folder if the process is killed
        start_new_session=True,  # Ctrl-C reaches the caller alone, which then ends the process
    )
    with process:
        try:
            yield _answer(process), lambda: _answer(process)
        finally:
            process.kill()


def _answer(process: subprocess.Popen[bytes]) -> Artifact:
    """Return the artifact that the process sends, or raise the error that it sends."""
    assert process.stdout is not None
    try:
        answer = pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError) as error:
        text = f"the process that exports ended with exit code {process.wait()} before it was done"
        raise ConversionFailed(f"{text}; nothing was written, is there enough memory?") from error
    if isinstance(answer, Exception):
        raise answer
    made: Artifact = answer
    return made


def steps(source: str, folder: Path) -> Iterator[Artifact]:
    """Open a checkpoint, then export it to ONNX into `folder`; yield both files. See `lf.export.export`."""
    artifact = resolve(source)
    yield artifact
    yield export(artifact, "onnx", folder / f"{artifact.path.stem.removesuffix('.pth')}.onnx")


def serve(source: str, folder: Path, answers: IO[bytes]) -> None:
    """Send both files of `steps`. An error is sent instead of a file."""
    try:
        for artifact in steps(source, folder):
            _send(artifact, answers)
    except Exception as error:
        if os.environ.get("LF_DEBUG") and not isinstance(error, LfError):
            traceback.print_exc()
        _send(portable(error), answers)


def _send(answer: Artifact | Exception, answers: IO[bytes]) -> None:
    pickle.dump(answer, answers)
    answers.flush()


def _end_with_caller() -> None:
    """End this process when its input closes. It closes however the caller ends."""
    os.read(0, 1)
    os._exit(1)


def portable(error: Exception) -> Exception:
    """Return an error that another process can read: the same one, or a RuntimeError with its class and text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # classes of other packages
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def main() -> None:
    """Answer on stdout. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_caller, daemon=True).start()
    with redirect_stderr(io.StringIO()):  # the caller has said which plug-ins are left out
        load_plugins()
    serve(sys.argv[1], Path(sys.argv[2]), answers)


if __name__ == "__main__":
    main()
