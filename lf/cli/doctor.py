"""`lf doctor`: list installed and missing engines and packages."""

from __future__ import annotations

from lf.cli import options as opt
from lf.core import console

EXAMPLES = ("lf doctor", "lf doctor --json")


def doctor(json: opt.Json = False) -> None:
    """Check backends and processor, and say what to install."""
    from lf.studies.doctor import examine

    rows = examine()
    if json:
        console.as_json({"checks": rows})
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        console.result(f"{'ok' if row['ok'] else '--'}  {row['name']:{width}} {row['detail']}")
