"""Options that several commands share: one name, one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.benchmarks import PROTOCOLS
from lf.core import UsageError
from lf.models import REFINEMENTS
from lf.quantize import CALIBRATIONS, LIMIT, ROUNDINGS, SCHEMES

WHAT, HOW, WHERE = "What to evaluate", "How to run it", "Results"  # panels of the help
CALIBRATE = "Calibration"
PROCEDURAL = "procedural"  # the dataset that is always there
DATASET = "HPatches-layout folder, warps:DIR or procedural:N"

File = Annotated[str, typer.Argument(metavar="FILE", help="Model file or name of shipped weights; see lf models")]
Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Model files or names of shipped weights")]
Out = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="File to write", rich_help_panel=WHERE)
]
Folder = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder for results; the same DIR resumes", rich_help_panel=WHERE)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object", rich_help_panel=WHERE)]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the engine", rich_help_panel=HOW)]
Backend = Annotated[
    str | None,
    typer.Option(help="Engine; by default the first that runs the file", rich_help_panel=HOW),
]
Backends = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Engines; by default the first for each file", rich_help_panel=HOW),
]
Data = Annotated[str, typer.Option(metavar="ROOT", help=f"Benchmark: {DATASET}", rich_help_panel=WHAT)]
Protocol = Annotated[str, typer.Option(help=f"Protocol: {', '.join(PROTOCOLS)}", rich_help_panel=WHAT)]
Protocols = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Protocols; by default what the metrics need", rich_help_panel=WHAT),
]
Sequences = Annotated[int | None, typer.Option(min=1, help="Use only the first N sequences", rich_help_panel=WHAT)]
Size = Annotated[
    str | None, typer.Option(metavar="HxW", help="Input size of the network in pixels", rich_help_panel=HOW)
]
Keypoints = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Use the keypoints of this detector, e.g. sift", rich_help_panel=HOW),
]
Refine = Annotated[
    str | None,
    typer.Option(metavar="HOW", help=f"Move points off whole pixels: {', '.join(REFINEMENTS)}", rich_help_panel=HOW),
]
TopK = Annotated[int | None, typer.Option(min=1, help="Keep the N best keypoints of each image", rich_help_panel=HOW)]
Images = Annotated[
    Path | None,
    typer.Option(
        readable=False, metavar="DIR", help="Calibration images, none of a benchmark", rich_help_panel=CALIBRATE
    ),
]
Scheme = Annotated[str, typer.Option(help=f"Number format: {', '.join(SCHEMES)}", rich_help_panel=HOW)]
Calibration = Annotated[
    str | None, typer.Option(help=f"Range method: {', '.join(CALIBRATIONS)}", rich_help_panel=CALIBRATE)
]
Limit = Annotated[
    int | None, typer.Option(min=1, help=f"Most calibration images, mostly {LIMIT}", rich_help_panel=CALIBRATE)
]
Seed = Annotated[int, typer.Option(min=0, help="Seed that chooses the calibration images", rich_help_panel=CALIBRATE)]
Exclude = Annotated[
    Path | None,
    typer.Option(
        readable=False, metavar="ROOT", help="Benchmark whose images must not be used", rich_help_panel=CALIBRATE
    ),
]
KeepFloat = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Keep this head or layer in float; repeatable")
]
Bits = Annotated[
    list[str] | None, typer.Option(metavar="NAME=BITS", help="Bits of this layer: 3, 4, 8, 16; repeatable")
]
Rounding = Annotated[str | None, typer.Option(help=f"Rounding of weights: {', '.join(ROUNDINGS)}")]
Photos = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR[:N]", help="Training pictures: folder, procedural or shapes; repeatable"),
]
Change = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe; repeatable")]
Shard = Annotated[str, typer.Option(metavar="I/N", help="Process shard I of N", rich_help_panel=HOW)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda", rich_help_panel=HOW)]


def parse_size(text: str) -> tuple[int, int]:
    """`240x320` -> (240, 320)."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"--size {text}: expected HEIGHTxWIDTH in pixels, for example --size 240x320")
    return int(height), int(width)


def parse_shard(text: str) -> tuple[int, int]:
    """`0/2` -> (0, 2)."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise UsageError(f"--shard {text}: expected I/N, for example 0/2")
    return int(index), int(count)


def parse_bits(text: str) -> tuple[str, int]:
    """`stage1.a.conv=8` -> ("stage1.a.conv", 8)."""
    name, _, bits = text.rpartition("=")
    if not name or not bits.isdecimal():
        raise UsageError(f"--bits {text}: expected LAYER=BITS, for example --bits stage1.a.conv=8")
    return name, int(bits)
