"""`lf train`: train a network by a recipe."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lf.cli.options import DATASET, Change, Device, Folder, Photos, Threads
from lf.core import UsageError, console
from lf.train import RECIPES

WATCH = "Validation"
LIST = "\n\n".join(["Recipes:", *(f"{name}: {recipe.about}" for name, recipe in RECIPES.items())])
EXAMPLES = (
    "lf train superpoint-small --out runs/sp\n\nlf train distil --set init=wren --set weight_bits=4 --out runs/w4"
)


def train(
    recipe: Annotated[str, typer.Argument(help="Training recipe; see the list below")],
    out: Folder,
    photos: Photos = None,
    change: Change = None,
    device: Device = "auto",
    threads: Threads = 1,
    save_every: Annotated[int, typer.Option(min=1, metavar="STEPS", help="Steps between checkpoints")] = 250,
    validate: Annotated[
        str | None, typer.Option(metavar="ROOT", help=f"Validate on: {DATASET}", rich_help_panel=WATCH)
    ] = None,
    protocol: Annotated[str, typer.Option(help="Protocol of the validation", rich_help_panel=WATCH)] = "kp2d-fixed",
    validate_every: Annotated[
        int, typer.Option(min=1, metavar="STEPS", help="Steps between validations", rich_help_panel=WATCH)
    ] = 1000,
    validate_pairs: Annotated[int, typer.Option(min=1, help="Most pairs to validate on", rich_help_panel=WATCH)] = 50,
    keep_best: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Keep the best weights by this metric", rich_help_panel=WATCH)
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log to DIR/tb for TensorBoard")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases")] = False,
) -> None:
    """Train a network; the same command resumes exactly."""
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
