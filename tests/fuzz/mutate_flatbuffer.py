"""Mutators of TFLite files through the objects of their schema: a well-formed table with a wrong value in it."""

from __future__ import annotations

import io
import zipfile
from random import Random
from typing import Any

import numpy as np

from lf.formats import tflite

from .mutate_bytes import Mutator, flip

NUMBERS = (-1, 0, 1, 2, 3, 7, 127, 255, 32767, 65535, 2**31 - 1, -(2**31), 10**6)
MOST = 4000  # objects that are looked at


def table(data: bytes, rng: Random) -> bytes:
    """Change one or two attributes of the model, its graphs, tensors, operators, options or buffers."""
    plain = tflite.without_archive(data)
    model = tflite.schema().ModelT.InitFromPackedBuf(plain)
    for _ in range(rng.randint(1, 2)):
        _change(rng.choice([*_objects(model)]), rng)
    try:
        packed = tflite.write(model)
    except Exception:  # a value that its field cannot hold
        return flip(data, rng)
    return packed + data[len(plain) :] if not zipfile.is_zipfile(io.BytesIO(data)) else _with_archive(packed, data)


def _with_archive(packed: bytes, data: bytes) -> bytes:
    out = io.BytesIO(packed)
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "a") as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info))
    return out.getvalue()


def _objects(value: Any) -> Any:
    """(object, name) of every attribute below a model."""
    for name, inner in vars(value).items():
        yield value, name
        for each in inner if isinstance(inner, list) else [inner]:
            if type(each).__name__.endswith("T") and hasattr(each, "__dict__"):
                yield from _objects(each)


def _change(place: tuple[Any, str], rng: Random) -> None:
    holder, name = place
    value = getattr(holder, name)
    if isinstance(value, bool):
        changed: Any = not value
    elif isinstance(value, int):
        changed = rng.choice(NUMBERS)
    elif isinstance(value, float):
        changed = rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30))
    elif isinstance(value, bytes | str):
        changed = rng.choice((b"", b"\xff\xfe", b"x" * 1000, b"image"))
    elif isinstance(value, np.ndarray | list) and len(value):
        changed = _list(value, rng)
    elif value is None:
        changed = rng.choice((None, [], [0], [2**31 - 1]))
    else:
        changed = None
    setattr(holder, name, changed)


def _list(value: Any, rng: Random) -> Any:
    kind = rng.choice(("none", "less", "more", "value", "value"))
    if kind == "none":
        return None
    if kind == "less":
        return value[: rng.randrange(len(value))]
    if kind == "more":
        return [*value, *value] if isinstance(value, list) else np.concatenate([value, value])
    if isinstance(value, list):
        return [*value[:-1], rng.choice(value)]
    changed = np.array(value)
    with np.errstate(all="ignore"):
        changed[rng.randrange(len(changed))] = np.array(rng.choice(NUMBERS)).astype(changed.dtype)
    return changed


FLATBUFFER: tuple[Mutator, ...] = (table, table, table)
