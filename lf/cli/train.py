"""`lf train`: train a network by a recipe."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import UsageError, console
from lf.train import RECIPES

EXAMPLES = (
    "lf train superpoint-small --out runs/sp",
    "lf train distil --set init=wren --set weight_bits=4 --out runs/w4",
)
DESCRIBED = ("recipe",)

WATCH = "Validation"
SaveEvery = Annotated[
    int, typer.Option(min=1, metavar="STEPS", help="Steps between checkpoints", rich_help_panel=opt.WHERE)
]
Validate = Annotated[str | None, typer.Option(metavar="ROOT", help=opt.DATASET, rich_help_panel=WATCH)]
Protocol = Annotated[str, typer.Option(metavar="NAME", help="Protocol, listed below", rich_help_panel=WATCH)]
ValidateEvery = Annotated[
    int, typer.Option(min=1, metavar="STEPS", help="Steps between validations", rich_help_panel=WATCH)
]
ValidatePairs = Annotated[
    int, typer.Option(min=1, metavar="N", help="Most pairs to validate on", rich_help_panel=WATCH)
]
KeepBest = Annotated[
    str | None, typer.Option(metavar="METRIC", help="Keep the best weights by this metric", rich_help_panel=WATCH)
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Log to DIR/tb for TensorBoard", rich_help_panel=opt.WHERE)
]
Wandb = Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases", rich_help_panel=opt.WHERE)]


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Training recipe, listed below")],
    out: opt.Folder,
    photos: opt.Photos = None,
    change: opt.Change = None,
    device: opt.Device = "auto",
    threads: opt.Threads = 1,
    save_every: SaveEvery = 250,
    validate: Validate = None,
    protocol: Protocol = "kp2d-fixed",
    validate_every: ValidateEvery = 1000,
    validate_pairs: ValidatePairs = 50,
    keep_best: KeepBest = None,
    tensorboard: TensorBoard = False,
    wandb: Wandb = False,
) -> None:
    """Train a network, or resume its training exactly."""
    from lf.core import pick
    from lf.studies.training import train as run

    if keep_best and not validate:
        raise UsageError("--keep-best needs --validate ROOT to tell which weights are best")
    chosen = pick(RECIPES, recipe, "recipe").override(change or [])
    made = run(
        chosen,
        photos or [chosen.data],
        out,
        device=device,
        threads=threads,
        save_every=save_every,
        boards=[name for name, on in {"tensorboard": tensorboard, "wandb": wandb}.items() if on],
        validate=validate,
        protocol=protocol,
        validate_every=validate_every,
        validate_pairs=validate_pairs,
        keep_best=keep_best,
    )
    if made is None:  # another process of the run writes
        return
    if made.throughput and sys.stderr.isatty():
        images, share = made.throughput["images_per_s"], made.throughput["data_share"]
        console.note(f"{chosen.steps} steps, {images:.1f} images/s, {share:.0%} of the time making views")
    console.result(made.path)
