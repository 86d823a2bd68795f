"""The page of tables: networks, backends, schemes, protocols, metrics and other names that options take."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lf import __version__
from lf.benchmarks import METRICS, PROTOCOLS
from lf.benchmarks.sfm.matches import MATCHERS
from lf.data import DATASETS
from lf.data.layouts import LAYOUTS
from lf.export import TARGETS
from lf.models import COUNTED, MODELS
from lf.quantize import CALIBRATIONS
from lf.quantize.schemes import SCHEMES
from lf.runtimes import BACKENDS
from lf.studies import models_page
from lf.train import RECIPES
from scripts.site.reference.text import GENERATED, cell, code, table

Rows = Iterable[list[str]]


def page() -> str:
    """A section for each table."""
    parts = [
        "# Tables of names",
        GENERATED.format(version=__version__)
        + " Other packages can add rows to most of these tables: see [contributing](../contributing.md).",
    ]
    for title, about, make in SECTIONS:
        head, rows = make()
        parts.append(f"## {title}\n\n{about}\n\n{table(head, rows)}")
    return "\n\n".join(parts) + "\n"


def _models() -> tuple[list[str], Rows]:
    rows = []
    for name, row in MODELS.items():
        known = models_page.facts(name, row)
        count = f"{known['parameters']:,}" if row.module else ""
        cost = f"{known['multiply_adds'] / 1e9:.2f}" if row.module and known["multiply_adds"] else ""
        weights = "ship" if known["shipped"] else cell(known["source"] or "")
        licence = cell(known["licence"]["weights"] or "")
        rows.append([code(name), cell(row.about), count, cost, str(known["descriptor_length"]), weights, licence])
    return ["network", "what it is", "parameters", "GMAC", "descriptor", "weights", "licence of the weights"], rows


def _backends() -> tuple[list[str], Rows]:
    rows = [
        [code(name), cell(row.about), ", ".join(map(code, row.suffixes)), code(row.extra)]
        for name, row in BACKENDS.items()
    ]
    return ["backend", "what it is", "files", "extra"], rows


def _schemes() -> tuple[list[str], Rows]:
    def bits(count: int) -> str:
        return "float" if count == 32 else str(count)

    rows = [
        [
            code(name),
            cell(row.about),
            bits(row.weights),
            bits(row.activations),
            "channel" if row.per_channel else "tensor",
            row.calibration if row.calibrated else "none",
            ", ".join(map(code, row.writers)),
        ]
        for name, row in SCHEMES.items()
    ]
    return ["scheme", "what it is", "weight bits", "activation bits", "scale per", "calibration", "writers"], rows


def _protocols() -> tuple[list[str], Rows]:
    rows = [
        [
            code(name),
            str(row.version),
            "x".join(map(str, row.size)) if row.size else "native",
            str(row.params.get("k") or "all"),
            row.truth,
            ", ".join(code(metric) for metric in dict.fromkeys((*row.metrics, *row.aggregates))),
        ]
        for name, row in PROTOCOLS.items()
    ]
    return ["protocol", "version", "image size", "best points", "ground truth", "metrics"], rows


def _metrics() -> tuple[list[str], Rows]:
    better = {True: "higher", False: "lower", None: ""}
    rows = [[code(name), row.unit, better[row.higher_is_better], cell(row.about)] for name, row in METRICS.items()]
    return ["metric", "unit", "better", "what it is"], rows


def _recipes() -> tuple[list[str], Rows]:
    rows = [
        [code(name), code(row.model), code(row.method), str(row.steps), cell(row.about)]
        for name, row in RECIPES.items()
    ]
    return ["recipe", "network", "method", "steps", "what it is"], rows


def _names(title: str, names: Iterable[str]) -> Callable[[], tuple[list[str], Rows]]:
    return lambda: ([title], [[code(name)] for name in names])


SECTIONS: tuple[tuple[str, str, Callable[[], tuple[list[str], Rows]]], ...] = (
    (
        "Networks",
        f"`MODELS`. GMAC: thousand million multiply-adds for an image of {COUNTED[0]}x{COUNTED[1]}. `lf models NAME` "
        "says more.",
        _models,
    ),
    ("Backends", "`BACKENDS`, the values of `--backend`. `lf doctor` says which are installed.", _backends),
    ("Schemes", "`SCHEMES`, the values of `--scheme`.", _schemes),
    ("Calibrations", "`CALIBRATIONS`, the values of `--calibration`.", _names("calibration", CALIBRATIONS)),
    (
        "Protocols",
        "`PROTOCOLS`, the values of `--protocol`. [Protocols](../concepts/protocols.md) defines each.",
        _protocols,
    ),
    ("Metrics", "`METRICS`: keys of results, of gates and of `--max-drop`.", _metrics),
    ("Recipes", "`RECIPES`, the names that `lf train` takes.", _recipes),
    ("Export targets", "`TARGETS`, the values of `--to`.", _names("target", TARGETS)),
    ("Datasets", "`DATASETS`: what stands before the colon of `--data`.", _names("dataset", DATASETS)),
    (
        "Layouts",
        "`LAYOUTS`, the values of `--layout`: [score other tools' features](../how-to/score.md).",
        _names("layout", LAYOUTS),
    ),
    ("Matchers", "`MATCHERS`, the values of `--matcher`.", _names("matcher", MATCHERS)),
)
