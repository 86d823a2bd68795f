"""`lf data list`: sequences and pairs of a dataset, or the classes of labelled images."""

from __future__ import annotations

from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console

EXAMPLES = (
    "lf data list HPATCHES",
    "lf data list warps:PHOTOS --json",
    "lf data list masks:COCO/val2017@cs19",
)


def data_list(
    data: Annotated[str, typer.Argument(metavar="ROOT", help=opt.DATASET)],
    json: opt.Json = False,
) -> None:
    """List sequences and the protocols that skip them, or classes of masks."""
    from collections import Counter

    from lf.benchmarks import PROTOCOLS
    from lf.data import open_dataset
    from lf.data.masks import PREFIX

    if data.startswith(PREFIX):
        _list_masks(data, json)
        return
    pairs = Counter(pair.sequence for pair in open_dataset(data))
    without = {name: [p for p, rule in PROTOCOLS.items() if name in rule.without] for name in pairs}
    if json:
        console.as_json({name: {"pairs": count, "left_out_by": without[name]} for name, count in pairs.items()})
        return
    for name, count in pairs.items():
        console.result(f"{name:24} {count:3} pairs" + "".join(f", not in {p}" for p in without[name]))
    console.result(f"{len(pairs)} sequences, {pairs.total()} pairs")


def _list_masks(data: str, json: bool) -> None:
    """Print the number of pixels of each class of labelled images."""
    from lf.data.masks import counts, labelled

    found = labelled(data)
    pixels, void = counts(found)
    if json:
        about = {"label_set": found.classes.name, "images": len(found), "without_mask": found.left_out}
        console.as_json({**about, "pixels": dict(enumerate(pixels)), "left_out": void, "names": found.classes.names})
        return
    whole = max(sum(pixels) + void, 1)
    for n, (row, count) in enumerate(zip(found.classes.classes, pixels, strict=True)):
        if not row.ignored:
            console.result(f"{n:3} {row.name:24} {count / whole:7.2%} of the pixels")
    console.result(f"    {'left out':24} {void / whole:7.2%} of the pixels")
    console.result(f"{len(found)} labelled images, {found.left_out} without a mask; label set {found.classes.name}")
