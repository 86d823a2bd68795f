"""The plan of a sweep: which networks, in which schemes, over which data, under which protocols. A TOML file:

images = "photos"                  # to calibrate on; paths are relative to the folder of this file
backend = "ort-cpu"                # tflite: the same in the files that LiteRT runs
threads = 1
repeats = 30                       # timed extractions, in turns; 0 leaves latency out
reference = "sift"                 # optional: all files are timed in turns, and times are divided by this model's
schemes = ["w8a8", "w4a8"]         # beside fp32

[[data]]
name = "real"                      # for tables and file names
root = "real"                      # as for lf bench --data
protocols = ["kp2d-fixed", "mma"]

[[model]]
file = "superpoint.onnx"           # float; or a checkpoint, or the name of shipped weights or of a baseline
schemes = ["w8a8"]                 # optional, instead of those above
add = ["superpoint.qat-w4a8.onnx"] # optional: ready-made files of the same network
options = { w4a8 = { calibration = "mse", bits = { "stage1.a.conv" = 8 } } } # optional, as for lf quantize

[goals]                            # optional: metric -> how much worse than fp32 it may be, in its unit
repeatability = 0.005
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lf.benchmarks import METRICS, PROTOCOLS
from lf.core import Artifact, BadInput, UsageError, files, hint, pick
from lf.data import DATASETS, DRAWN, masks
from lf.models.resolve import shipped
from lf.runtimes import BACKENDS

FLOAT = "fp32"  # the row with which all others of the network are compared
Kinds = Mapping[str, tuple[type, Any]]  # key -> type and default; REQUIRED without a default
REQUIRED = object()
KINDS = {str: "a text in quotes", int: "a whole number", float: "a number", list: "a list", dict: "a table"}
PLAN: Kinds = {
    "images": (str, ""),
    "backend": (str, "ort-cpu"),
    "threads": (int, 1),
    "repeats": (int, 30),
    "reference": (str, ""),
    "schemes": (list, []),
    "data": (list, REQUIRED),
    "model": (list, REQUIRED),
    "goals": (dict, {}),
}
DATA: Kinds = {"name": (str, REQUIRED), "root": (str, REQUIRED), "protocols": (list, REQUIRED)}
MODEL: Kinds = {"file": (str, REQUIRED), "schemes": (list, None), "add": (list, []), "options": (dict, {})}


@dataclass(frozen=True)
class Data:
    """A dataset.

    Attributes:
        name: name in tables and file names.
        root: the dataset as typed.
        where: the same relative to the current folder, for `lf.data.open_dataset`.
        folder: folder of its images; None for drawn images.
        protocols: names of PROTOCOLS.
    """

    name: str
    root: str
    where: str
    folder: Path | None
    protocols: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """A float network and the files to make from it.

    Attributes:
        name: name in tables and file names.
        file: name or path, for `lf.models.resolve.resolve`.
        schemes: schemes to quantize it in.
        add: existing files to compare, by their names in the tables.
        options: scheme -> keyword arguments of quantization.
    """

    name: str
    file: str
    schemes: tuple[str, ...]
    add: Mapping[str, Path]
    options: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Plan:
    """A sweep file, read and checked; see the module.

    The writer makes files for the backend; `size` is that of `lf.extraction.variant.Variant`; times are divided by
    those of the network `reference`, or, if it is "", of each network's float file.
    """

    images: Path | None
    backend: str
    writer: str
    threads: int
    repeats: int
    data: tuple[Data, ...]
    networks: tuple[Network, ...]
    goals: Mapping[str, float]
    size: tuple[int, int] | None = None
    reference: str = ""


@dataclass(frozen=True)
class Row:
    """One row of the tables: a file of a network, or the reason why it is missing.

    Attributes:
        network: name of the network.
        scheme: FLOAT, a scheme, or the name of an added file.
        artifact: the file; None if it could not be made.
        refused: the reason why it could not be made.
    """

    network: str
    scheme: str
    artifact: Artifact | None
    refused: str = ""


def load(path: Path, writers: Mapping[str, Any], options: Mapping[str, type]) -> Plan:
    """Read a sweep file.

    Args:
        path: the TOML file.
        writers: quantization writers by name, with their `suffix` and `schemes`.
        options: options of quantization, with their types.

    Raises:
        BadInput: not TOML, an unknown or missing key, a value of another type or out of range, a duplicate name.
        UsageError: an unknown scheme, protocol, backend, metric or option.
    """
    try:
        table = tomllib.loads(files.read_bytes(path, "a sweep file", 1 << 20).decode())
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not TOML ({error}); expected [[data]] and [[model]] tables") from error
    top = _read(table, PLAN, str(path))
    for name, least in (("threads", 1), ("repeats", 0)):
        if top[name] < least:
            raise BadInput(f"{path}: {name} = {top[name]}; expected at least {least}")
    writer = writer_for(top["backend"], writers, str(path))
    usual = _names(top["schemes"], f"{path}: schemes", empty=True)
    data = tuple(_data(each, path.parent, where) for where, each in _tables(top, "data", path))
    models = _tables(top, "model", path)
    schemes = dict.fromkeys(writers[writer].schemes)
    networks = tuple(_network(each, path.parent, usual, schemes, options, where) for where, each in models)
    _once([each.name for each in data], f"{path}: data")
    _once([network.name for network in networks], f"{path}: models")
    if top["reference"]:
        pick({network.name: network for network in networks}, top["reference"], "reference")
    for metric, limit in top["goals"].items():
        pick(METRICS, metric, "metric")
        if type(limit) not in (int, float) or not math.isfinite(limit) or METRICS[metric].higher_is_better is None:
            raise BadInput(f"{path}: goal {metric} = {limit}; expected a metric that has a better end, and a number")
    images = path.parent / files.expand(top["images"]) if top["images"] else None
    return Plan(
        images,
        top["backend"],
        writer,
        top["threads"],
        top["repeats"],
        data,
        networks,
        top["goals"],
        reference=top["reference"],
    )


def writer_for(backend: str, writers: Mapping[str, Any], where: str) -> str:
    """Return the name of the writer for a backend.


    Raises:
        UsageError: an unknown backend, or no writer makes its files.
    """
    runs = pick(BACKENDS, backend, "backend").suffixes
    fits = [name for name, row in writers.items() if row.suffix in runs]
    if not fits:
        made = dict.fromkeys(row.suffix for row in writers.values())
        others = ", ".join(name for name, row in BACKENDS.items() if made.keys() & {*row.suffixes})
        raise UsageError(f"{where}: backend {backend} runs no {' or '.join(made)} files; these do: {others}")
    return fits[0]


def _read(table: Any, known: Kinds, where: str) -> dict[str, Any]:
    """Return the values of a table, with defaults filled in."""
    if not isinstance(table, dict):
        raise BadInput(f"{where}: expected a table with {', '.join(known)}, got {table!r}")
    if unknown := sorted(table.keys() - known):
        near = hint(unknown[0], known)
        raise BadInput(f"{where}: unknown {', '.join(unknown)}; {near}known: {', '.join(known)}")
    for name, (kind, default) in known.items():
        if name not in table and default is REQUIRED:
            needed = ", ".join(name for name, row in known.items() if REQUIRED in row)
            raise BadInput(f"{where}: no {name} in it; it needs {needed}")
        if name in table and type(table[name]) is not kind:
            raise BadInput(f"{where}: {name} = {table[name]!r}; expected {KINDS[kind]}")
    return {name: table.get(name, default) for name, (_, default) in known.items()}


def _tables(top: Mapping[str, Any], name: str, path: Path) -> list[tuple[str, Any]]:
    if not top[name]:
        raise BadInput(f"{path}: no [[{name}]] in it; expected at least one")
    return [(f"{path}: {name} {number}", each) for number, each in enumerate(top[name], 1)]


def _names(values: Sequence[Any], where: str, empty: bool = False) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values) or not (values or empty):
        raise BadInput(f"{where} = {values}; expected a list of names in quotes")
    _once(values, where)
    return tuple(values)


def _once(names: Sequence[str], where: str) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"{where}: {', '.join(twice)} twice; each needs a name of its own")


def _data(table: Any, base: Path, where: str) -> Data:
    row = _read(table, DATA, where)
    if not row["name"] or "/" in row["name"]:
        raise BadInput(f"{where}: name = {row['name']!r}; expected a word that can be part of a file name")
    protocols = _names(row["protocols"], f"{where}: protocols")
    for name in protocols:
        pick(PROTOCOLS, name, "protocol")
    return Data(row["name"], row["root"], *located(row["root"], base), protocols)


def located(root: str, base: Path) -> tuple[str, Path | None]:
    """Resolve the folder in a dataset's name relative to `base`, see `lf.data.open_dataset`; return name and folder."""
    name, _, where = root.partition(":")
    if name in DRAWN:
        return root, None
    if where and "/" not in name and not (base / root).exists():
        pick(DATASETS, name, "dataset")
        if name == "masks":
            place, images = masks.located(where, base)
            return f"{name}:{place}", images
        folder = base / files.expand(where)
        return f"{name}:{folder}", folder
    folder = (base / files.expand(root)).resolve()  # absolute, so that it is not mistaken for the name of a dataset
    return str(folder), folder


def name_of(file: str) -> str:
    """Return the name of a network in tables and file names."""
    return file if file in shipped() else Path(file).stem.removesuffix(".pth")


def _network(
    table: Any,
    base: Path,
    usual: tuple[str, ...],
    schemes: Mapping[str, Any],
    options: Mapping[str, type],
    where: str,
) -> Network:
    row = _read(table, MODEL, where)
    name, file = name_of(row["file"]), row["file"]
    if file not in shipped():
        file = str(base / files.expand(file))
    chosen = usual if row["schemes"] is None else _names(row["schemes"], f"{where}: schemes", empty=True)
    for scheme in chosen:
        pick(schemes, scheme, "scheme")
    ready = _names(row["add"], f"{where}: add", empty=True)
    labels = [Path(each).stem.removeprefix(f"{name}.") for each in ready]
    _once([FLOAT, *chosen, *labels], f"{where}: schemes and added files")
    for scheme, values in row["options"].items():
        pick(dict.fromkeys(chosen), scheme, f"scheme of {name}")
        _read(values, {key: (kind, None) for key, kind in options.items()}, f"{where}: options of {scheme}")
    added = {label: base / files.expand(each) for label, each in zip(labels, ready, strict=True)}
    return Network(name, file, chosen, added, row["options"])
