"""Mutators of text: words and lines, JSON and TOML with values of wrong types."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

from .mutate_bytes import Mutator

WORDS = (
    *(
        "",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "-1",
        "0",
        "1e-400",
        "99999999999999999999999",
        "1_000",
        "0x10",
        "\u0663",
        "+5",
    ),
    *(
        "\0",
        "\u202e",
        "\U0001f600",
        "../../etc/passwd",
        "/etc/passwd",
        "a" * 5000,
        "%s%n",
        "{}",
        "[",
        "]",
        "#",
        "=",
        '"',
        ",",
    ),
    *("9" * 5000, "1e400000000", "None", "true", "--help", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3.5,
        -0.0,
        1e308,
        10**30,
        -(10**30),
        "",
        "x",
        "x" * 3000,
        "\0",
        "\ud800",
        [],
        {},
        [[]],
    ),
    *(
        [None],
        [1, 2, 3],
        {"a": 1},
        {"": None},
        [{}],
        ["x"],
        float("nan"),
        float("inf"),
        2**31,
        2**63,
        2**64,
        "../../x",
        "1",
    ),
)


def words(data: bytes, rng: Random) -> bytes:
    """Replace a word."""
    text = data.decode("utf-8", "surrogateescape")
    found = [*re.finditer(r"[^\s,=\[\]{}:]+", text)]
    if not found:
        return data + rng.choice(WORDS).encode()
    word = rng.choice(found)
    return (text[: word.start()] + rng.choice(WORDS) + text[word.end() :]).encode("utf-8", "surrogateescape")


def lines(data: bytes, rng: Random) -> bytes:
    """Delete, repeat, exchange or join lines, or end them otherwise."""
    parts = data.split(b"\n")
    at, kind = rng.randrange(len(parts)), rng.choice(("delete", "repeat", "shuffle", "ends", "blank"))
    if kind == "delete":
        del parts[at]
    elif kind == "repeat":
        parts[at:at] = [parts[at]] * rng.randint(1, 20)
    elif kind == "shuffle":
        rng.shuffle(parts)
    elif kind == "blank":
        parts[at] = rng.choice((b"", b"#", b" \t", b"\x0b", b"\xc2\x85"))
    return rng.choice((b"\r\n", b"\r", b" ", b"\0")).join(parts) if kind == "ends" else b"\n".join(parts)


def json_values(data: bytes, rng: Random) -> bytes:
    """Give a value of a JSON file another type, or change a key; valid JSON, mostly."""
    root = [json.loads(data)]
    for _ in range(rng.randint(1, 2)):
        holder, key = rng.choice([*_places(root)])
        _change(holder, key, rng)
    text = json.dumps(root[0])
    if rng.random() < 0.03:
        text = text.replace("null", "[" * 100000) if "null" in text else "[" * 100000 + text
    return text.encode("utf-8", "surrogatepass")


def toml_values(data: bytes, rng: Random) -> bytes:
    """Give a key of a TOML file a value of another type, or another name."""
    text = data.decode()
    found = [*re.finditer(r"^(\s*[\w.]+)\s*=\s*(.+)$", text, re.MULTILINE)]
    row = rng.choice(found)
    values = (
        "1",
        "-1",
        "0",
        "1e308",
        "nan",
        "inf",
        "true",
        '""',
        '"x"',
        "[]",
        "{}",
        "[[]]",
        "[1]",
        '["x"]',
        "1979-05-27",
        "07:32:00",
    )
    value = rng.choice(
        (*values, "{a = 1}", '"\\u0000"', "9" * 30, '"' + "x" * 3000 + '"', '["a", 1]', "[{}]", "[" * 3000)
    )
    key = row[1] if rng.random() < 0.8 else rng.choice(("x", '"\\u0000"', "a.b", '""', "name", "model.x", "metric"))
    return (text[: row.start()] + f"{key} = {value if rng.random() < 0.8 else row[2]}" + text[row.end() :]).encode()


def _places(value: Any) -> Any:
    """(container, key) of every value inside."""
    for key, inner in [*(value.items() if isinstance(value, dict) else enumerate(value))]:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _change(holder: Any, key: Any, rng: Random) -> None:
    kind = rng.choice(("value", "value", "value", "delete", "rename", "repeat", "deep"))
    old = holder[key]
    if kind == "value" or (kind == "rename" and isinstance(holder, list)):
        holder[key] = rng.choice(VALUES)
    elif kind == "delete" and len(holder) > 1:
        del holder[key]
    elif kind == "rename":
        holder[rng.choice(("", "x", "\0", "__class__", "schema"))] = holder.pop(key)
    elif kind == "repeat":
        holder[key] = [old] * rng.randint(2, 400)
    else:
        for _ in range(rng.choice((1, 3, 400))):
            old = [old]
        holder[key] = old


TEXT: tuple[Mutator, ...] = (words, words, lines)
JSON: tuple[Mutator, ...] = (json_values, json_values, json_values, words)
TOML: tuple[Mutator, ...] = (toml_values, toml_values, words, lines)
