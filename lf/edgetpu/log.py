"""Parse the output of edgetpu_compiler 16. Its exit code is 0 even if no operator maps."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MAPPED = "Mapped to Edge TPU"  # every other status is a reason to stay on the CPU: docs/how-to/coral.md
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
MEMORY = {
    "on_chip_used": "On-chip memory used for caching model parameters",
    "on_chip_left": "On-chip memory remaining for caching model parameters",
    "streamed": "Off-chip memory used for streaming uncached model parameters",
}
NUMBERS = {
    "subgraphs": "Number of Edge TPU subgraphs",
    "operators": "Total number of operations",
    "mapped": "Number of operations that will run on Edge TPU",
    "cpu": "Number of operations that will run on CPU",
}
INTERNAL = "Internal compiler error"
HEAD = re.compile(r"^Operator\s+Count\s+Status\s*$")
ROW = re.compile(r"^([A-Za-z0-9_-]+)\s+(\d+)\s+(\S.*?)\s*$")
UNREADABLE = (  # the most informative first
    (r"Didn't find op for builtin opcode '([^']+)' version '(\d+)'", "it does not know {0} version {1}"),
    (r"Encountered unresolved custom op: (.+?)\.?\s*$", "it does not know the custom operator {0}"),
    (r"(Internal compiler error)", "internal compiler error"),
    (r"^Compilation failed: (.+?)\s*$", "{0}"),
    (r"^(Model could not be parsed)", "it cannot read the file"),
    (r"^(Invalid model)", "it cannot read the file"),
    (r"^ERROR: (.+?)\s*$", "{0}"),
    (r"(timed out|after timeout|[Tt]imeout (?:expired|exceeded|reached))", "it ran out of time"),
)


@dataclass(frozen=True)
class Log:
    """Log of a run of the compiler.

    Attributes:
        version: version of the compiler, "" if unknown.
        succeeded: True if it wrote a file, even if nothing maps.
        internal: True for an internal error, which may be temporary.
        problem: reason why there is no file, "" if there is one.
        rows: (operator, count, status) of its last table.
        memory: keys of MEMORY -> bytes.
        numbers: keys of NUMBERS -> count.
    """

    version: str
    succeeded: bool
    internal: bool
    problem: str
    rows: tuple[tuple[str, int, str], ...]
    memory: dict[str, int]
    numbers: dict[str, int]

    @property
    def mapped(self) -> int:
        """Number of operators on the Edge TPU, from the table or, without a table, from the log."""
        if self.rows:
            return sum(count for _, count, status in self.rows if status == MAPPED)
        if "mapped" in self.numbers or not self.numbers.get("subgraphs"):
            return self.numbers.get("mapped", 0)
        return self.numbers.get("operators", 0)  # separate counts exist only if some do not map

    @property
    def total(self) -> int:
        """Number of all operators."""
        return sum(count for _, count, _ in self.rows) or self.numbers.get("operators", 0)

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Count operators by kind, {"mapped", "cpu"}."""
        found: dict[str, dict[str, int]] = {}
        for name, count, status in self.rows:
            found.setdefault(name, {"mapped": 0, "cpu": 0})["mapped" if status == MAPPED else "cpu"] += count
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the log for a card."""
        table = [{"operator": name, "count": count, "status": status} for name, count, status in self.rows]
        return {"mapped": self.mapped, "operators": self.total, "memory": self.memory, "table": table}


def parse(*texts: str) -> Log:
    """Parse the output of one run and, if it has no table, its log file."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    rows = next((found for text in texts if (found := _rows(text.splitlines()))), ())
    succeeded = any(line.startswith("Model compiled successfully") for line in lines)
    return Log(
        version=next((m[1] for line in lines if (m := re.match(r"Edge TPU Compiler version (\S+)", line))), ""),
        succeeded=succeeded,
        internal=any(INTERNAL in line for line in lines),
        problem="" if succeeded else _problem(lines),
        rows=rows,
        memory={key: _bytes(value) for key, label in MEMORY.items() if (value := _last(lines, label)) is not None},
        numbers={key: int(v) for key, label in NUMBERS.items() if (v := _last(lines, label)) and v.isdecimal()},
    )


def _rows(lines: Iterable[str]) -> tuple[tuple[str, int, str], ...]:
    """Return the rows of the last table, as a search prints one for each try."""
    rows: list[tuple[str, int, str]] = []
    inside = False
    for line in lines:
        if HEAD.match(line.strip()):
            inside, rows = True, []
        elif inside and (found := ROW.match(line.strip())):
            rows.append((found[1], int(found[2]), found[3]))
        elif inside and rows:
            inside = False
    return tuple(rows)


def _last(lines: list[str], label: str) -> str | None:
    found = [line.removeprefix(label + ":").strip() for line in lines if line.startswith(label + ":")]
    return found[-1] if found else None


def _bytes(value: str) -> int:
    found = re.fullmatch(r"([\d.]+)\s*(B|KiB|MiB|GiB)", value)
    try:
        return round(float(found[1]) * UNITS[found[2]]) if found else 0
    except ValueError:  # 1.2.3
        return 0


def _problem(lines: list[str]) -> str:
    for pattern, said in UNREADABLE:
        for line in lines:
            if found := re.search(pattern, line):
                return said.format(*found.groups())
    return "it made no file, and did not say why"
