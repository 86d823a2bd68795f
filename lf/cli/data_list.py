"""`lf data list`: sequences and pairs of a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = ("lf data list HPATCHES", "lf data list warps:PHOTOS --json")


def data_list(
    data: Annotated[str, typer.Argument(metavar="ROOT", help=opt.DATASET)],
    json: opt.Json = False,
) -> None:
    """List the sequences of a dataset and the protocols that skip them."""
    from collections import Counter

    from lf.benchmarks import PROTOCOLS
    from lf.data import open_dataset

    pairs = Counter(pair.sequence for pair in open_dataset(data))
    without = {name: [p for p, rule in PROTOCOLS.items() if name in rule.without] for name in pairs}
    if json:
        console.as_json({name: {"pairs": count, "left_out_by": without[name]} for name, count in pairs.items()})
        return
    for name, count in pairs.items():
        console.result(f"{name:24} {count:3} pairs" + "".join(f", not in {p}" for p in without[name]))
    console.result(f"{len(pairs)} sequences, {pairs.total()} pairs")
