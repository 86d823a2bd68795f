"""Energy of the processor packages by RAPL, on Linux if readable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")

Reading = Mapping[str, tuple[int, int]]  # package -> counted microjoules, and the count at which it wraps to 0


def read(root: Path = POWERCAP) -> Reading:
    """Read the energy counters of all processor packages; empty if there are none, or one cannot be read.

    Only packages are read: `intel-rapl:0:0` and similar are parts of them, and the platform (`psys`) contains them.
    """
    found = {}
    try:
        for zone in sorted(root.glob("intel-rapl:*")):
            if zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package"):
                count, most = (int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
                found[zone.name] = count, most
    except (OSError, ValueError):
        return {}
    return found


def joules(before: Reading, after: Reading) -> float | None:
    """Return the energy of all packages between two readings, of all processes; None without readings."""
    if not before or before.keys() != after.keys():
        return None
    used = 0
    for package, (end, most) in after.items():
        start = before[package][0]
        used += end - start if end >= start else end - start + most
    return used / 1e6
