"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.core import UsageError
from lf.models import REFINEMENTS
from lf.quantize import LIMIT, ROUNDINGS

# panels of the help
WHAT, HOW, WHERE = "What to evaluate", "How to run it", "Results"
CALIBRATE, NUMBERS, LEARN = "Calibration", "Number format", "What to learn"

PROCEDURAL = "procedural"  # the dataset that needs no files
DATASET = "HPatches folder, warps|posed|masks:DIR, procedural|scenes:N"
MODEL = "Model file or name of shipped weights"
FIRST = "first that runs the file"

File = Annotated[str, typer.Argument(metavar="FILE", help=MODEL)]
Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Model files or names of shipped weights")]
Model = Annotated[str, typer.Option(metavar="FILE", help=MODEL, rich_help_panel=HOW)]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="File to write", rich_help_panel=WHERE),
]
Folder = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder for results, and to resume from", rich_help_panel=WHERE)
]
Report = Annotated[
    Path | None, typer.Option(metavar="FILE", help="HTML page to write, as lf report does", rich_help_panel=WHERE)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object", rich_help_panel=WHERE)]

Threads = Annotated[int, typer.Option(min=1, metavar="N", help="Threads of the backend", rich_help_panel=HOW)]
Backend = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Backend, listed below", show_default=FIRST, rich_help_panel=HOW),
]
AutoBackend = Annotated[
    str,
    typer.Option(metavar="NAME", help="Backend, listed below, or auto: the fastest here", rich_help_panel=HOW),
]
Backends = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Backends, listed below", show_default=FIRST, rich_help_panel=HOW),
]
Repeats = Annotated[
    int, typer.Option(min=1, metavar="N", help="Timed extractions of each, in turns", rich_help_panel=HOW)
]
Size = Annotated[
    str | None, typer.Option(metavar="HxW", help="Input size of the network in pixels", rich_help_panel=HOW)
]
Keypoints = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Use the keypoints of this detector, e.g. sift", rich_help_panel=HOW),
]
Extraction = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Published settings, of posfeat: hpatches, aachen, eth", rich_help_panel=HOW),
]
Pyramid = Annotated[bool, typer.Option("--pyramid", help="Extract at five scales, 1 to 1/4", rich_help_panel=HOW)]
TopK = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Keep the N best keypoints of each image", rich_help_panel=HOW),
]
Best = Annotated[int, typer.Option(min=1, metavar="N", help="Keep the N best keypoints", rich_help_panel=HOW)]
Refine = Annotated[
    str | None,
    typer.Option(metavar="HOW", help=f"Sub-pixel fit: {', '.join(REFINEMENTS)}", rich_help_panel=HOW),
]
Shard = Annotated[str, typer.Option(metavar="I/N", help="Process shard I of N", rich_help_panel=HOW)]
Pool = Annotated[
    str | None, typer.Option(metavar="NAME", help="Spread over the machines of a pool: ray", rich_help_panel=HOW)
]
Needs = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME[=N]", help="Resource of the pool's machines, repeatable", rich_help_panel=HOW),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="Device: auto, cpu or cuda", rich_help_panel=HOW)]

Data = Annotated[str, typer.Option(metavar="ROOT", help=DATASET, rich_help_panel=WHAT)]
Protocol = Annotated[str, typer.Option(metavar="NAME", help="Protocol, listed below", rich_help_panel=WHAT)]
Protocols = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...", help="Protocols, listed below", show_default="those of the metrics", rich_help_panel=WHAT
    ),
]
Sequences = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Use only the first N sequences", rich_help_panel=WHAT)
]

Images = Annotated[
    Path | None,
    typer.Option(
        readable=False, metavar="DIR", help="Calibration images, none of a benchmark", rich_help_panel=CALIBRATE
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Range method, listed below", show_default="of the scheme", rich_help_panel=CALIBRATE
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Most calibration images",
        show_default=f"{LIMIT} in most schemes",
        rich_help_panel=CALIBRATE,
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, metavar="N", help="Seed that chooses calibration images", rich_help_panel=CALIBRATE)
]
Exclude = Annotated[
    Path | None,
    typer.Option(
        readable=False, metavar="ROOT", help="Benchmark whose images must not be used", rich_help_panel=CALIBRATE
    ),
]

Scheme = Annotated[str, typer.Option(metavar="NAME", help="Scheme, listed below", rich_help_panel=NUMBERS)]
KeepFloat = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Head or layer to keep in float, repeatable", rich_help_panel=NUMBERS),
]
Bits = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=BITS", help="Bits of a layer: 3, 4, 8, 16, repeatable", rich_help_panel=NUMBERS),
]
Rounding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Rounding of weights: {', '.join(ROUNDINGS)}",
        show_default="of the scheme",
        rich_help_panel=NUMBERS,
    ),
]

Photos = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR[:N]", help="Images: folder, procedural, shapes, repeatable", rich_help_panel=LEARN),
]
Change = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Setting of the recipe, repeatable", rich_help_panel=LEARN),
]


def parse_size(text: str, option: str = "--size") -> tuple[int, int]:
    """Parse a size: `240x320` -> (240, 320)."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"{option} {text}: expected HEIGHTxWIDTH in pixels, for example {option} 240x320")
    return int(height), int(width)


def parse_shard(text: str) -> tuple[int, int]:
    """Parse a shard: `0/2` -> (0, 2)."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise UsageError(f"--shard {text}: expected I/N, for example 0/2")
    return int(index), int(count)


def parse_bits(text: str) -> tuple[str, int]:
    """Parse bits of a layer: `stage1.a.conv=8` -> ("stage1.a.conv", 8)."""
    name, _, bits = text.rpartition("=")
    if not name or not bits.isdecimal():
        raise UsageError(f"--bits {text}: expected LAYER=BITS, for example --bits stage1.a.conv=8")
    return name, int(bits)


def layer_bits(keep_float: list[str] | None, bits: list[str] | None) -> dict[str, int]:
    """Return head or convolution -> bits of its weights, from `--keep-float` (32) and `--bits`."""
    return dict.fromkeys(keep_float or (), 32) | dict(map(parse_bits, bits or ()))


def extraction_of(name: str | None, pyramid: bool) -> str | None:
    """Return the extraction of `--extraction` or `--pyramid`, or None.

    Raises:
        UsageError: both were given.
    """
    if name and pyramid:
        raise UsageError(f"`extraction={name}`: `pyramid` is an extraction, too; leave one of the two out")
    return "pyramid" if pyramid else name
