"""Guard of parsers: reading must not write, run code, use the network, keep files or take too much memory."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMORY = 2 << 30  # bytes that the process may have resident
CODE = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pickle.find_class")
NETWORK = ("socket.connect", "socket.bind", "urllib.Request")
CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
)


class Guard:
    """Hears what Python does in this process; counts only between `watching` and its end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.on, self.heard = folder, False, list[str]()
        sys.addaudithook(self._hear)

    @contextmanager
    def watching(self, case: Path) -> Iterator[list[str]]:
        """Yield what was found wrong, complete when the block ends; files may be made in the temporary folder only."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        before, old = listing(case), tempfile.tempdir
        self.heard, tempfile.tempdir = [], str(temporary)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
        self.on = True
        try:
            yield self.heard
        finally:
            self.on, tempfile.tempdir = False, old
        if listing(case) != before:
            self.heard.append(f"wrote: {sorted(listing(case) ^ before)[:3]}")
        if left := [*temporary.iterdir()]:
            self.heard.append(f"left {left[0].name} in the temporary folder")
        if (peak := resident()) > MEMORY:
            self.heard.append(f"took {peak >> 20} MiB of memory")

    def _hear(self, event: str, values: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in CODE or event in NETWORK:
            self.heard.append(f"ran {event} {values!r}"[:200])
        elif ((event == "open" and _writes(values)) or event in CHANGES) and not self._allowed(values):
            self.heard.append(f"changed {event} {values!r}"[:200])

    def _allowed(self, values: tuple[Any, ...]) -> bool:
        """Return whether the place may be written: the temporary folder, the null device, open files by number."""
        path, folder = values[0], values[-1]
        if isinstance(path, int):
            return True
        if isinstance(folder, int) and folder > 2 and not os.path.isabs(os.fsdecode(path)):  # relative to an open one
            path = f"{os.readlink(f'/proc/self/fd/{folder}')}/{os.fsdecode(path)}"
        return os.fsdecode(path).startswith((str(self.folder / "tmp"), os.devnull))


def listing(folder: Path) -> set[tuple[str, int, int]]:
    """Name, size and time of change of every file below a folder."""
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return {(str(path), stat.st_size if path.is_file() else 0, stat.st_mtime_ns) for path, stat in found}


def resident() -> int:
    """The largest number of bytes that this process had resident since the peak was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def _writes(values: tuple[Any, ...]) -> bool:
    """Return whether an `open` event is for writing."""
    _, mode, flags = values
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
