"""Base class of records in JSON files: checked on reading, unknown keys are kept.

Records are dataclasses. pydantic is not used: it takes 10 MB on a device and as much import time as all of lf may take,
and it converts values, while a file of another tool must be refused or kept unchanged.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from lf.core.errors import BadInput

OWN = ("extra", "order")  # fields that are not keys of the file
NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Mapping: "an object"}


class Mismatch(ValueError):
    """A value is missing or has another type than its field; the text names the field."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A JSON object with known fields.

    Fields without a default are required. Fields with a default are optional, and are written only if the file had them
    or their value has changed.

    Attributes:
        extra: unknown keys; they are written back.
        order: the keys that were read, in their order.
    """

    EXTRA: ClassVar[Any] = Any  # type of the values in `extra`

    extra: Mapping[str, Any] = field(default_factory=dict)
    order: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def from_dict(cls, data: Any, where: str, at: str = "") -> Self:
        """Read a record from parsed JSON.

        Args:
            data: the parsed JSON.
            where: the file, for errors.
            at: the place in that file, for example `runs[0]`.

        Raises:
            BadInput: a field is missing or of another type; the text names it.
        """
        try:
            return cls.parse(data, at)
        except Mismatch as error:
            raise BadInput(f"{where}: {error}") from None
        except RecursionError:
            raise BadInput(f"{where}: {at or 'it'} is nested too deeply") from None

    @classmethod
    def parse(cls, data: Any, at: str = "") -> Self:
        """Read a record; a value that is a record already is returned.

        Raises:
            Mismatch: see `from_dict`.
        """
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            raise _mismatch(at or "it", data, Mapping)
        known, prefix, values = _known(cls), f"{at}." if at else "", {}
        for name, (kind, needed) in known.items():
            if name in data:
                values[name] = _checked(data[name], kind, prefix + name)
            elif needed:
                raise Mismatch(f"{prefix}{name} is missing, expected {_said(kind)}")
        extra = {name: _checked(data[name], cls.EXTRA, f"{prefix}{name}") for name in data if name not in known}
        return cls(**values, extra=extra, order=tuple(data))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object: first the keys that were read, in their order, then added keys."""
        known = {each.name: each for each in fields(self) if each.name not in OWN}
        added = [name for name, of in known.items() if getattr(self, name) != _default(of)]
        names = dict.fromkeys((*self.order, *added, *self.extra))
        found = {name: getattr(self, name) if name in known else self.extra.get(name, MISSING) for name in names}
        return {name: _plain(value) for name, value in found.items() if value is not MISSING}


_KNOWN: dict[type[Record], dict[str, tuple[Any, bool]]] = {}


def _known(cls: type[Record]) -> dict[str, tuple[Any, bool]]:
    """Return the fields of a class: name -> (type, whether it is required); cached."""
    if cls not in _KNOWN:
        kinds, own = get_type_hints(cls), [of for of in fields(cls) if of.name not in OWN]
        _KNOWN[cls] = {of.name: (kinds[of.name], _default(of) is MISSING) for of in own}
    return _KNOWN[cls]


def _default(of: Field[Any]) -> Any:
    return of.default if of.default_factory is MISSING else of.default_factory()


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _checked(value: Any, kind: Any, at: str) -> Any:
    """Return the value with objects converted to records; Mismatch if it has not the annotated type."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:
        (kind,) = (each for each in inner if each is not NoneType)
        return None if value is None else _checked(value, kind, at)
    if origin is Any:
        return _plain(value)
    if isinstance(origin, type) and issubclass(origin, Record):
        return origin.parse(value, at)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return origin(_checked(each, inner[0], f"{at}[{index}]") for index, each in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping):
        return {name: _checked(each, inner[1], f"{at}.{name}") for name, each in value.items()}
    if origin in (int, float) and isinstance(value, bool):
        raise _mismatch(at, value, kind)
    if origin in (list, tuple, Mapping) or not isinstance(value, (int, float) if origin is float else origin):
        raise _mismatch(at, value, kind)
    return value


def _mismatch(at: str, value: Any, kind: Any) -> Mismatch:
    text = repr(value)
    return Mismatch(f"{at} is {text if len(text) <= 60 else text[:57] + '...'}, expected {_said(kind)}")


def _said(kind: Any) -> str:
    """Describe a type: `text`, `an object`, `a list of objects`."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:
        return " or ".join("null" if each is NoneType else _said(each) for each in inner)
    if origin in (list, tuple):
        return f"a list, each {_said(inner[0])}"
    return NAMES.get(origin, NAMES[Mapping])
