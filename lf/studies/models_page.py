"""Tables and pages of the networks in MODELS: cost, licences, sources, engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lf.formats import model_file
from lf.models import COUNTED, Model
from lf.models.resolve import shipped
from lf.quantize import WRITERS
from lf.runtimes import BACKENDS
from lf.train import RECIPES

BASELINE = ".card"  # the suffix of a row without a network
HEAD = ("network", "parameters", "GMAC", "dim", "weights", "licence", "engines", "float", "Edge TPU")
RIGHT = ("parameters", "GMAC", "dim")


def facts(name: str, row: Model) -> dict[str, Any]:
    """Return facts about a row, for JSON."""
    file = shipped().get(name) if row.module else None
    return {
        "about": row.about,
        "family": row.family,
        "parameters": row.parameters,
        "multiply_adds": row.multiply_adds,
        "heads": {head: list(shape) for head, shape in row.heads.items()} if row.module else {},
        "descriptor_length": row.length,
        "channels": row.colours,
        "multiple": row.multiple,
        "shipped": file and file.stat().st_size,
        "source": row.source or None,
        "recipes": [recipe for recipe, made in RECIPES.items() if made.model == name],
        "licence": {"code": row.code_licence, "weights": _licence(name, row)},
        "backends": backends(row),
        "int8": int8(row),
        "on_cpu": None if row.on_cpu is None else list(row.on_cpu),
    }


def backends(row: Model) -> list[str]:
    """Return the rows of BACKENDS that run a network in a file of their type."""
    fits = {name for name, backend in BACKENDS.items() if (BASELINE in backend.suffixes) == (row.module is None)}
    return [name for name in BACKENDS if name in fits and name not in row.not_on]


def int8(row: Model) -> dict[str, Any] | None:
    """Return the schemes of 8-bit weights and activations by writer, and the float layers; None for baselines."""
    if row.module is None:
        return None
    runs = backends(row)
    able = [name for name, writer in WRITERS.items() if any(writer.suffix in BACKENDS[each].suffixes for each in runs)]
    schemes = {name: [each for each in WRITERS[name].schemes if each.startswith("w8a8")] for name in able}
    return {"schemes": schemes, "float_heads": list(row.keep_float), "float_layers": list(row.float_layers)}


def table(rows: Mapping[str, Model]) -> str:
    """Format a line for each network, at most 100 characters wide, and a legend."""
    lines = [HEAD, *(_line(name, facts(name, row)) for name, row in rows.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    aligned = ["  ".join(_padded(*cell) for cell in zip(HEAD, line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(
        (
            *aligned,
            "",
            f"GMAC: multiply-adds for an image of {COUNTED[0]}x{COUNTED[1]}, in thousand millions.",
            "dim: numbers of a descriptor.",
            "licence: of code and weights; of the code; of the weights, where they differ.",
            "weights: shipped with lf, published by others, or none (train them).",
            "engines: all means all backends of lf doctor except opencv, which runs the baselines.",
            "float: heads whose last convolutions stay in float in w8a8; +: other layers stay, too.",
            "Edge TPU: what lf check predicts; part: some operators stay on the CPU; no: there is no TFLite file.",
            "One network in full: lf models NAME",
        )
    )


def page(name: str, row: Model) -> str:
    """Format all facts about a network, a line for each."""
    known = facts(name, row)
    lines = {
        "network": name,
        "about": row.about,
        "parameters": f"{row.parameters:,}" if row.module else "none",
        "multiply-adds": f"{row.multiply_adds:,} for an image of {COUNTED[0]}x{COUNTED[1]}" if row.module else "",
        "descriptor": f"{row.length} numbers",
        "picture": f"{'RGB' if row.colours == 3 else 'grey'}, {_sides(row)}",
        "heads": ", ".join(_head(head, *shape) for head, shape in row.heads.items()) if row.module else "",
        "licence of code": row.code_licence,
        "licence of weights": known["licence"]["weights"] or "",
        "weights": _where(name, known),
        "backends": ", ".join(known["backends"]),
        "int8": _int8(known["int8"]),
        "Edge TPU": _edgetpu(row, known["backends"]),
    }
    return "\n".join(f"{title:18}  {text}" for title, text in lines.items() if text)


def _head(name: str, channels: int, stride: int) -> str:
    """Format a head as `score 1@1/8`; weights of the decoder have no stride."""
    return f"{name} {channels}@1/{stride}" if stride else f"{name} {channels} (weights)"


def _licence(name: str, row: Model) -> str | None:
    """Return the licence of shipped or, without these, of published weights; None without weights."""
    path = shipped().get(name)
    card = model_file.read_card(path) if path and row.module else None
    if card:
        return card.weights["licence"]
    return row.licence if row.source else None


def _line(name: str, known: Mapping[str, Any]) -> tuple[str, ...]:
    code, weights = (str(text or "").partition(":")[0] for text in known["licence"].values())
    network = known["int8"] is not None
    on_cpu = known["on_cpu"]
    refused = "no" if network and "tflite" not in known["backends"] else ""
    maps = sum(stride > 0 for _, stride in known["heads"].values())  # other heads hold weights
    return (
        name,
        f"{known['parameters']:,}" if network else "-",
        f"{known['multiply_adds'] / 1e9:.2f}" if network else "-",
        str(known["descriptor_length"]),
        ("ship" if known["shipped"] else "public" if known["source"] else "train") if network else "-",
        code if weights in ("", code) else f"{code}; {weights}",
        _engines(known["backends"], network),
        f"{len(known['int8']['float_heads'])} of {maps}{'+' * bool(known['int8']['float_layers'])}" if network else "-",
        refused or ("-" if on_cpu is None else "part" if on_cpu else "maps"),
    )


def _engines(runs: Sequence[str], network: bool) -> str:
    every = [name for name, row in BACKENDS.items() if (BASELINE in row.suffixes) != network]
    return ("all" if network else runs[0]) if len(runs) == len(every) else f"{len(runs)} of {len(every)}"


def _padded(title: str, text: str, width: int) -> str:
    return text.rjust(width) if title in RIGHT else text.ljust(width)


def _sides(row: Model) -> str:
    return f"sides of multiples of {row.multiple}" if row.multiple > 1 else "any size"


def _where(name: str, known: Mapping[str, Any]) -> str:
    if known["int8"] is None:
        return "none; OpenCV brings it"
    if known["shipped"]:
        return f"come with lf, {known['shipped'] / 1e6:.1f} MB"
    if known["source"]:
        return str(known["source"])
    recipes = ", ".join(known["recipes"])
    return f"no public ones; recipes of lf train: {recipes}" if recipes else "no public ones that lf knows of"


def _int8(known: Mapping[str, Any] | None) -> str:
    if known is None:
        return ""
    ways = "; ".join(f"for {writer}: {', '.join(schemes)}" for writer, schemes in known["schemes"].items())
    kept = ", ".join((*known["float_heads"], *(f"{name}*" for name in known["float_layers"])))
    return f"{ways}; in float for ort: {kept}" if kept else ways


def _edgetpu(row: Model, runs: Sequence[str]) -> str:
    if row.module is None:
        return ""
    if "tflite" not in runs:
        return "no, there is no TFLite file of it"
    if row.on_cpu is None:
        return "not tried; make an int8 TFLite file and type: lf check FILE"
    if not row.on_cpu:
        return "no operator of its int8 file stays on the CPU, as lf check predicts"
    return f"these stay on the CPU, as lf check predicts, and others with them: {', '.join(row.on_cpu)}"
