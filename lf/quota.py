"""Number of processor cores for this process: affinity within the CPU quota of its container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cores(root: Path = ROOT) -> int:
    """The cores that this process can keep busy, at least 1; a share of a core counts as one."""
    limit = quota(root)
    return affinity() if limit is None else max(1, min(affinity(), math.ceil(limit)))


def affinity() -> int:
    """The cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(root: Path = ROOT) -> float | None:
    """CPU time per time that the control groups of this process allow, in cores; None if they set no limit.

    Groups are nested, and the smallest limit on the way up counts.

    Args:
        root: of the file system in which /proc and the groups are looked up.
    """
    limits = (_limit(folder) for folder in _groups(root))
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(folder: Path) -> float | None:
    """The limit of one group, of version 2 or 1."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        share, period = (folder / "cpu.max").read_text().split()
        return None if share == "max" else int(share) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        share, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(share) / int(period) if int(share) > 0 else None
    return None


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that may limit the CPU of this process: its own, and those around it."""
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
    """Controller, "" in version 2, and path of the group of this process in that hierarchy."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            yield from ((name, path) for name in controllers.split(","))


def _upwards(mount: Path, shown: str, path: str) -> Iterator[Path]:
    """The folder of the group `path` and those above it, where `mount` shows the group `shown` and what is in it.

    A container often sees its own group as the mount itself, under a path of the host that it does not see.
    """
    inside = PurePosixPath(path)
    if inside.is_relative_to(shown) and ".." not in inside.parts:
        below = mount / inside.relative_to(shown)
        while below != mount:
            yield below
            below = below.parent
    yield mount
