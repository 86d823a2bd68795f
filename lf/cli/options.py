"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.benchmarks import PROTOCOLS
from lf.core import UsageError

File = Annotated[
    str, typer.Argument(metavar="FILE", help="A model file, or the name of shipped weights: see lf models")
]
Out = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the engine")]
Data = Annotated[
    str, typer.Option(metavar="ROOT", help="HPatches-layout folder, warps:DIR of photos, or procedural[:N]")
]
PROCEDURAL = "procedural"  # the data that is always there
Protocols = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help=f"How drops are measured: {', '.join(PROTOCOLS)}; else what the metrics need of kp2d-fixed,mma",
    ),
]


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"--size {text}: expected HEIGHTxWIDTH in pixels, for example --size 240x320")
    return int(height), int(width)


def parse_shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise UsageError(f"--shard {text}: expected I/N, for example 0/2")
    return int(index), int(count)


def parse_bits(text: str) -> tuple[str, int]:
    name, _, bits = text.rpartition("=")
    if not name or not bits.isdecimal():
        raise UsageError(f"--bits {text}: expected LAYER=BITS, for example --bits stage1.a.conv=8")
    return name, int(bits)
