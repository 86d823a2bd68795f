"""`lf doctor`: what is installed and what is missing."""

from __future__ import annotations

from lf.cli.options import Json
from lf.core import console

EXAMPLES = "lf doctor"


def doctor(json: Json = False) -> None:
    """Check engines and processor; say what to install."""
    from lf.studies.doctor import examine

    rows = examine()
    if json:
        console.as_json({"checks": rows})
        return
    for row in rows:
        console.result(f"{'ok ' if row['ok'] else '-- '} {row['name']:12} {row['detail']}")
