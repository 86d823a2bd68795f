"""Resume work of the same settings and code; refuse or redo other work.

A ledger is one JSON file. Its `identity` holds all that the work depends on: settings, digests of the input, and the
versions of the code (`lf.core.fingerprint.versions`). Its other content belongs to the work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lf.core.errors import BadInput, UsageError
from lf.core.files import read_json, write_json

SCHEMA = 1
SHOWN = 3  # largest number of differences in an error
LONGEST = 40  # largest number of characters of a value in an error
EXPECTED = "what an earlier run of this command wrote"


class Difference(NamedTuple):
    """A value that differs between two identities; None if an identity lacks it."""

    key: str
    was: Any
    now: Any

    def __str__(self) -> str:
        """Format the key and both values, shortened, for an error."""
        return f"{self.key}: was {_shown(self.was)}, now {_shown(self.now)}"


@dataclass
class Ledger:
    """A file with the settings of some work, for resuming it.

    Attributes:
        path: the file.
        identity: settings that the work depends on; JSON.
        content: other content of the file.
        begun: True if the file existed with this identity.
    """

    path: Path
    identity: Mapping[str, Any]
    content: dict[str, Any] = field(default_factory=dict)
    begun: bool = False

    def write(self, **content: Any) -> None:
        """Write the identity and `content`, atomically."""
        write_json(self.path, {"schema": SCHEMA, "identity": dict(self.identity), **content})
        self.content, self.begun = content, True


def resume(
    path: Path,
    identity: Mapping[str, Any],
    mismatch: Literal["refuse", "restart"] = "refuse",
    *,
    remedy: str = "",
    work: Path | None = None,
    ignore: Collection[str] = (),
    before: str = "",
) -> Ledger:
    """Open the ledger at `path` without writing.

    Args:
        path: the file.
        identity: current settings that the work depends on; JSON.
        mismatch: for another identity or a damaged file: "refuse" the work, or "restart" as if it was missing.
        remedy: for the error: what to type.
        work: for the error: the folder or file of the work, `path` by default.
        ignore: keys that may differ.
        before: key of the identity in files of earlier versions; "" if they held only the identity.

    Raises:
        UsageError: the work has another identity.
        BadInput: the file is damaged.
    """
    fresh = Ledger(path, _plain(identity))
    if not path.exists():
        return fresh
    try:
        was, content = _read(path, before, remedy)
    except BadInput:
        if mismatch == "restart":
            return fresh
        raise
    if found := differences(was, identity, ignore):
        if mismatch == "restart":
            return fresh
        raise refusal(work or path, found, remedy)
    return Ledger(path, fresh.identity, content, begun=True)


def refusal(work: Path, found: Sequence[Difference], remedy: str) -> UsageError:
    """Return the error for work with another identity."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return UsageError(f"{work}: was made with other settings ({'; '.join(map(str, found[:SHOWN]))}{more}); {remedy}")


def differences(was: Any, now: Mapping[str, Any], ignore: Collection[str] = ()) -> list[Difference]:
    """List the differences of two identities, in the order of `now`; the keys of nested values are joined by dots."""
    before = was if isinstance(was, Mapping) else {}
    return [found for found in _compared("", _plain(before), _plain(now)) if found.key.split(".")[0] not in ignore]


def key(identity: Mapping[str, Any]) -> str:
    """Return a name for this identity: 24 hex digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _read(path: Path, before: str, remedy: str) -> tuple[Any, dict[str, Any]]:
    """Read the identity of a file, and its other content."""
    data = read_json(path, f"{EXPECTED}; {remedy}")
    if not isinstance(data, dict) or data.get("schema", SCHEMA) != SCHEMA:
        raise BadInput(f"{path}: expected {EXPECTED}; {remedy}")
    name = "identity" if "identity" in data else before
    if name not in data:
        return data, {}
    return data[name], {key: value for key, value in data.items() if key not in (name, "schema")}


def _compared(where: str, was: Any, now: Any) -> Iterator[Difference]:
    old, new = _parts(was), _parts(now)
    short = isinstance(now, list) and max(len(json.dumps(value)) for value in (was, now)) <= LONGEST
    if short or old is None or new is None or was.__class__ is not now.__class__:
        if was != now:
            yield Difference(where, was, now)
        return
    for name in {**new, **old}:
        yield from _compared(f"{where}.{name}" if where else name, old.get(name), new.get(name))


def _parts(value: Any) -> dict[str, Any] | None:
    """Return the values of a table or a list by name; None for other values."""
    if isinstance(value, list):
        return {str(index): each for index, each in enumerate(value)}
    return value if isinstance(value, dict) else None


def _plain(value: Any) -> Any:
    """Convert a value as a JSON round trip does: tuples to lists."""
    return json.loads(json.dumps(value))


def _shown(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
