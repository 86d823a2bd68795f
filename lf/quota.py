"""Number of processor cores for this process: affinity within the CPU quota of its container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cores(root: Path = ROOT) -> int:
    """Return the number of cores that this process can use, at least 1; a share of a core counts as one."""
    limit = quota(root)
    return affinity() if limit is None else max(1, min(affinity(), math.ceil(limit)))


def affinity() -> int:
    """Return the number of cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(root: Path = ROOT) -> float | None:
    """Return the CPU quota of the control groups of this process, in cores; None without a limit.

    Groups are nested; the smallest limit of a group and its parents counts.

    Args:
        root: root of the file system with /proc and the groups.
    """
    limits = (_limit(folder) for folder in _groups(root))
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(folder: Path) -> float | None:
    """Return the limit of one group, of version 2 or 1."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        share, period = (folder / "cpu.max").read_text().split()
        return None if share == "max" else int(share) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        share, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(share) / int(period) if int(share) > 0 else None
    return None


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the groups that may limit the CPU of this process: its own, and their parents."""
    own = dict(_own(root))
    with suppress(OSError):
        for line in (root / "proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            where, _, what = line.partition(" - ")
            kind, _, options = what.split(" ", 2)
            name = "" if kind == "cgroup2" else "cpu" if kind == "cgroup" and "cpu" in options.split(",") else None
            if name in own:
                _, _, _, shown, place = where.split()[:5]
                yield from _upwards(root / place.replace("\\040", " ").lstrip("/"), shown, own[name])


def _own(root: Path) -> Iterator[tuple[str, str]]:
    """Yield controller, "" in version 2, and path of the group of this process in its hierarchy."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            yield from ((name, path) for name in controllers.split(","))


def _upwards(mount: Path, shown: str, path: str) -> Iterator[Path]:
    """Yield the folder of the group `path` and its parents; `mount` is the folder of the group `shown`.

    In a container, the mount itself is often its own group, with a path of the host that does not exist inside.
    """
    inside = PurePosixPath(path)
    if inside.is_relative_to(shown) and ".." not in inside.parts:
        below = mount / inside.relative_to(shown)
        while below != mount:
            yield below
            below = below.parent
    yield mount
