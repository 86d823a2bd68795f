"""A network that a TOML card describes: its row of MODELS."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lf.core import BadInput, UsageError
from lf.core.registry import hint
from lf.models.decode import REFINEMENTS
from lf.models.features import features
from lf.models.own.decode import SAMPLINGS, decode, describe
from lf.models.row import UNKNOWN_LICENCE, Model

PARTS = ("grid65", "heatmap", "heatmap+offset", "cell", "features")
VALUES = ("logits", "scores")
REQUIRED = object()

KEYS: dict[str, dict[str, Any]] = {  # table -> key -> default, REQUIRED, or the type if there is no default
    "": {"name": REQUIRED, "channels": 1, "multiple": 8, "input": "", "licence": UNKNOWN_LICENCE, "about": ""},
    "detector": {
        **{"part": REQUIRED, "stride": 8, "values": "logits", "offset": 1.0, "refine": "none"},
        **{"threshold": 0.01, "nms_radius": 4, "border": 4},
    },
    "descriptor": {"length": REQUIRED, "stride": 8, "sampling": "centres"},
    "outputs": {},
}
TEXT = ("name", "input", "licence", "about", "part", "values", "refine", "sampling")
REAL = ("threshold", "offset")
LEAST = {"channels": 1, "multiple": 1, "stride": 1, "length": 1, "nms_radius": 0, "border": 0}
CHOICES: dict[str, tuple[Any, ...]] = {
    **{"part": PARTS, "values": VALUES, "refine": REFINEMENTS, "sampling": (*SAMPLINGS,), "channels": (1, 3)},
}


def complete(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fill in the defaults of a description.

    Args:
        given: content of a TOML card, see KEYS.
        where: name of the card, for errors.

    Raises:
        BadInput: a key is unknown or missing, or its value is not allowed.
    """
    full: dict[str, Any] = {}
    for table, keys in KEYS.items():
        found = given if not table else given.get(table, {})
        if not isinstance(found, Mapping):
            raise BadInput(f"{where}: {table} is {found!r}; expected a table: [{table}]")
        known = (*keys, *(name for name in KEYS if name and not table))
        for name in found if table != "outputs" else ():
            if name not in known:
                raise BadInput(
                    f"{where}: unknown key {_dotted(table, name)}; {hint(name, known)}known: {', '.join(known)}"
                )
        values = {name: _checked(found, table, name, default, where) for name, default in keys.items()}
        if table == "outputs":
            values = {**found}
            for name in (name for name, value in found.items() if not isinstance(value, str)):
                raise BadInput(f"{where}: outputs.{name} = {found[name]!r}; expected the name of a head")
        full.update(values if not table else {table: values})
    _consistent(full, where)
    return full


def row(name: str, described: Mapping[str, Any]) -> Model:
    """Return the row of a described network.

    Raises:
        BadInput: the description is invalid, see `complete`.
    """
    full = complete(described, f"the card of {name}")
    detector, descriptor = full["detector"], full["descriptor"]
    fixed = {key: detector[key] for key in ("part", "stride", "values", "offset")}
    placed = {"spacing": descriptor["stride"], "sampling": descriptor["sampling"]}
    plain = detector["part"] == "features"
    names = ["threshold", "border"]
    names += ["nms_radius"] if detector["part"] != "cell" else []
    names += ["refine"] if detector["part"] in ("grid65", "heatmap") else []
    return Model(
        module=None,
        channels=full["channels"],
        multiple=full["multiple"],
        heads=heads(full),
        decode=features if plain else partial(decode, **fixed, **placed),
        decode_onnx=None if plain else f"{__name__}.decode_onnx:decode",
        describe=None if plain else partial(describe, **placed),
        settings={} if plain else {key: detector[key] for key in names},
        keep_float=tuple(head for head in heads(full) if head != "descriptor"),
        about=full["about"] or "described by its card",
        parameters=0,
        loudest=1.0 if detector["values"] == "logits" else float("inf"),
        licence=full["licence"],
    )


def heads(full: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return output name -> (channels, stride) of a complete description; for `features`, only the descriptor."""
    stride, length = full["detector"]["stride"], full["descriptor"]["length"]
    detector: dict[str, dict[str, tuple[int, int]]] = {
        "grid65": {"detector": (65, 8)},
        "heatmap": {"score": (stride * stride, stride)},
        "heatmap+offset": {"score": (1, stride), "offset": (2, stride)},
        "cell": {"score": (1, stride), "shift": (2, stride)},
        "features": {},
    }
    return {**detector[full["detector"]["part"]], "descriptor": (length, full["descriptor"]["stride"])}


def of_features(channels: int, length: int) -> dict[str, Any]:
    """Return the description of a file of no known family with the decoder in its graph."""
    given = {
        **{"name": "features", "channels": channels, "multiple": 1},
        **{"detector": {"part": "features"}, "descriptor": {"length": length}},
    }
    return complete(given, "features")


def _checked(found: Mapping[str, Any], table: str, name: str, default: Any, where: str) -> Any:
    key = _dotted(table, name)
    value = found.get(name, default)
    if value is REQUIRED:
        raise BadInput(f"{where}: {key} is missing; expected {_expected(name)}")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = (
        isinstance(value, str)
        if name in TEXT
        else number and 0 <= value < float("inf")
        if name in REAL
        else number and isinstance(value, int) and value >= LEAST[name]
    )
    if not fits or (name in CHOICES and value not in CHOICES[name]):
        words = [choice for choice in CHOICES.get(name, ()) if isinstance(choice, str)]
        near = hint(value, words) if isinstance(value, str) else ""
        raise BadInput(f"{where}: {key} = {value!r}; {near}expected {_expected(name)}")
    return value


def _consistent(full: Mapping[str, Any], where: str) -> None:
    detector, descriptor = full["detector"], full["descriptor"]
    if not full["name"]:
        raise BadInput(f"{where}: name is empty; expected a word, such as my-net")
    if detector["part"] == "grid65" and detector["stride"] != 8:
        raise BadInput(f"{where}: detector.stride = {detector['stride']}; part grid65 has 8")
    if detector["part"] in ("grid65", "cell", "features") and detector["values"] != "logits":
        raise BadInput(f"{where}: detector.values = 'scores'; expected with part heatmap or heatmap+offset")
    if detector["part"] not in ("grid65", "heatmap") and detector["refine"] != "none":
        raise BadInput(f"{where}: detector.refine = '{detector['refine']}'; expected with part grid65 or heatmap")
    if detector["values"] == "logits" and detector["threshold"] >= 1:
        raise BadInput(f"{where}: detector.threshold = {detector['threshold']}; expected a probability below 1")
    if descriptor["sampling"] == "superpoint" and descriptor["stride"] != 8:
        raise BadInput(f"{where}: descriptor.sampling = 'superpoint' needs descriptor.stride = 8")


def _expected(name: str) -> str:
    if name in CHOICES:
        return "one of " + ", ".join(map(str, CHOICES[name]))
    return "text" if name in TEXT else "a number from 0" if name in REAL else f"a whole number from {LEAST[name]}"


def _dotted(table: str, name: str) -> str:
    return f"{table}.{name}" if table else name


def refuse_known(name: str, known: Mapping[str, Any], where: str) -> None:
    """Raise UsageError if a described network has the name of a row of MODELS."""
    if name in known:
        raise UsageError(f"{where}: name = '{name}' is a network of lf; choose another, or type: `family={name}`")
